"""The audit: the local tree, each remote, and what clients see, with a report of what is wrong.

In this order: ``local`` reads the mirror, ``remote`` each remote tree, ``clients`` the https
address; after each of the first two its repairs, if they are asked for, so that clients are
looked at last. ``audit`` does all of it for the command; the DAG's tasks call the same checks
and end with ``conclude``. A check that cannot be made is a finding, and the others go on.

The repairs are those that are safe: one file sent again, one rdiff withdrawn to be made anew.
A local image is never touched and a stray file never removed: nobody but the operator knows
which one is right. What was repaired is looked at again before it is reported as repaired.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from puavo_repository.audit import report
from puavo_repository.audit.clients import clients
from puavo_repository.audit.local import local, repair_local
from puavo_repository.audit.remote import remote, repair_remote
from puavo_repository.audit.report import LOCAL, AuditReport, Checked, Counts, Finding
from puavo_repository.errors import RepositoryError, as_storage_error
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.remote.target import Target
from puavo_repository.settings import Model, Settings


def audit(
    settings: Settings,
    targets: Sequence[Target],
    *,
    options: Model | None = None,
    repair: bool = False,
    holder: str = "an audit",
    watcher: Watcher = NO_WATCHER,
) -> AuditReport:
    """Audit everything, repair where that is asked for, and keep the report beside the mirror.

    ``options`` say how to reach the remotes and to publish for repairs; ``holder`` is who takes
    the mirror's lock for one.
    """
    begun, turns, options = time.time(), turns_before(settings), options or settings
    found = local(settings, turns.get(LOCAL, 0), watcher)
    checks = [repair_local(settings, found, holder) if repair else found]
    for target in targets:
        found = remote(settings, target, turns.get(target.url, 0), options, watcher)
        if repair:
            found = repair_remote(settings, target, found, options, watcher)
        checks.append(found)
    if settings.audit_https:
        checks.append(clients(settings, turns.get(settings.repository, 0), watcher))
    return conclude(settings, begun, checks)


def turns_before(settings: Settings) -> Mapping[str, int]:
    """Return how often each place was checked in the audits until now, by its name."""
    before = report.last(settings.mirror_dir)
    return before.turns if before else {}


def conclude(settings: Settings, begun: float, checks: Sequence[Checked]) -> AuditReport:
    """Put the checks of an audit together, and keep the report beside the mirror."""
    root = settings.mirror_dir
    before, turns = report.last(root), dict(turns_before(settings))
    for check in checks:
        if check.counts != Counts():  # one that could not be made leaves its turn to the next
            turns[check.where] = turns.get(check.where, 0) + 1
    number, seconds = before.turn + 1 if before else 1, time.time() - begun
    done = AuditReport(report.NAME, begun, seconds, number, tuple(checks), turns)
    try:
        with as_storage_error(root):
            if Mirror(root).meta.is_dir():
                report.records(root).put(done)
    except RepositoryError as error:
        unkept = Checked(LOCAL, findings=(Finding.of(LOCAL, error),))
        return replace(done, checks=(*done.checks, unkept))
    return done
