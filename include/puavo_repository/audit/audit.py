"""The audit: the local tree, each remote, and what clients see, with a report of what is wrong.

In this order: ``local`` reads the mirror, ``remote`` each remote tree, ``clients`` the https
address; after each of the first two its repairs, if they are asked for, so that clients are
looked at last. ``audit`` does all of it for the command; the DAG's tasks call the same checks
and end with ``conclude``. A check that cannot be made is a finding, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from puavo_repository.audit.clients import clients
from puavo_repository.audit.local import local
from puavo_repository.audit.remote import remote
from puavo_repository.audit.repair import repair_local, repair_remote
from puavo_repository.audit.report import (
    LOCAL,
    AuditReport,
    Checked,
    Counts,
    Finding,
    last,
    remember,
)
from puavo_repository.errors import RepositoryError, as_storage_error
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.publish.options import Options
from puavo_repository.remote.target import Target
from puavo_repository.settings import Settings


def audit(
    settings: Settings,
    targets: Sequence[Target],
    *,
    options: Options | None = None,
    repair: bool = False,
    holder: str = "an audit",
    watcher: Watcher = NO_WATCHER,
) -> AuditReport:
    """Audit everything, repair where that is asked for, and keep the report beside the mirror.

    ``options`` say how to reach the remotes and to publish for repairs; ``holder`` is who takes
    the mirror's lock for one.
    """
    begun, turns, options = time.time(), turns_before(settings), options or Options()
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
    before = last(settings.mirror_dir)
    return before.turns if before else {}


def conclude(settings: Settings, begun: float, checks: Sequence[Checked]) -> AuditReport:
    """Put the checks of an audit together, and keep the report beside the mirror."""
    before, turns = last(settings.mirror_dir), dict(turns_before(settings))
    for check in checks:
        if check.counts != Counts():  # one that could not be made leaves its turn to the next
            turns[check.where] = turns.get(check.where, 0) + 1
    number = before.turn + 1 if before else 1
    report = AuditReport(begun, time.time() - begun, number, tuple(checks), turns)
    try:
        with as_storage_error(settings.mirror_dir):
            if Mirror(settings.mirror_dir).meta.is_dir():
                remember(settings.mirror_dir, report)
    except RepositoryError as error:
        unkept = Checked(LOCAL, findings=(Finding.of(LOCAL, error),))
        return replace(report, checks=(*report.checks, unkept))
    return report
