"""The audit: the local tree, each remote, and what clients see, with a report of what is wrong.

In this order: ``local`` reads the mirror, ``remote`` each remote tree, ``clients`` the https
address; after each of the first two its repairs, if they are asked for, so that clients are
looked at last. ``audit`` does all of it for the command; the DAG's tasks call the same checks
and end with ``conclude``. A check that cannot be made is a finding, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from puavo_repository.audit.clients import clients
from puavo_repository.audit.local import local
from puavo_repository.audit.remote import remote
from puavo_repository.audit.repair import repair_local, repair_remote
from puavo_repository.audit.report import LOCAL, AuditReport, Checked, Finding, last, remember
from puavo_repository.errors import RepositoryError
from puavo_repository.progress import Nobody, TransferProgress, Watcher, no_transfer_progress
from puavo_repository.settings import Settings
from puavo_repository.stages.publish_options import Options
from puavo_repository.storage.mirror import Mirror
from puavo_repository.storage.target import Target


def audit(
    settings: Settings,
    targets: Sequence[Target],
    *,
    options: Options | None = None,
    repair: bool = False,
    holder: str = "an audit",
    watcher: Watcher | None = None,
    progress: TransferProgress = no_transfer_progress,
) -> AuditReport:
    """Audit everything, and keep the report beside the mirror.

    Args:
        settings: Where things are, and how much is looked at.
        targets: The remotes.
        options: How to reach them, and to publish for repairs.
        repair: Whether what can be repaired safely is.
        holder: Who takes the mirror's lock for a repair.
        watcher: Told how it goes.
        progress: Told of what a repair sends.
    """
    begun, turn, eye = time.time(), next_turn(settings), watcher or Nobody()
    found = local(settings, None, turn, eye)
    checks = [repair_local(settings, found, holder) if repair else found]
    for target in targets:
        root, share = settings.mirror_dir, settings.audit_share
        found = remote(root, target, turn, options, share=share, watcher=eye)
        checks.append(repair_remote(root, target, found, options, progress) if repair else found)
    if settings.audit_https:
        checks.append(clients(settings, turn, eye))
    return conclude(settings, begun, turn, checks)


def next_turn(settings: Settings) -> int:
    """Return the number of the audit that begins now: one more than the last one's."""
    before = last(settings.mirror_dir)
    return before.turn + 1 if before else 0


def conclude(settings: Settings, begun: float, turn: int, checks: Sequence[Checked]) -> AuditReport:
    """Put the checks of an audit together, and keep the report beside the mirror.

    Args:
        settings: Where the mirror is.
        begun: When the audit began, in seconds since the epoch.
        turn: Its number.
        checks: What each check found.
    """
    report = AuditReport(begun, time.time() - begun, turn, tuple(checks))
    if Mirror(settings.mirror_dir).meta.is_dir():
        try:
            remember(settings.mirror_dir, report)
        except RepositoryError as error:
            unkept = Checked(LOCAL, findings=(Finding.of(LOCAL, error),))
            return replace(report, checks=(*report.checks, unkept))
    return report
