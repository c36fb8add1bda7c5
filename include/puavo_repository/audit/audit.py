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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from puavo_repository.audit.clients import clients
from puavo_repository.audit.local import local, look_again
from puavo_repository.audit.remote import look, remote
from puavo_repository.audit.report import (
    LOCAL,
    AuditReport,
    Checked,
    Counts,
    Finding,
    last,
    records,
)
from puavo_repository.errors import RepositoryError, as_storage_error
from puavo_repository.mirror import files
from puavo_repository.mirror.description import take
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.publish.publisher import Options, Publisher
from puavo_repository.publish.run import publish_all
from puavo_repository.publish.state import CKSUMS, sha256
from puavo_repository.remote.target import Target
from puavo_repository.retry import with_retries
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
                records(settings.mirror_dir).put(report)
    except RepositoryError as error:
        unkept = Checked(LOCAL, findings=(Finding.of(LOCAL, error),))
        return replace(report, checks=(*report.checks, unkept))
    return report


def repair_local(settings: Settings, found: Checked, holder: str) -> Checked:
    """Remove wrong local rdiffs and their description, so that the next run makes them anew.

    ``found`` is what ``local.local`` found, and ``holder`` who takes the mirror's lock. Returns
    the same with what was repaired as such; why something could not be is in the notes.
    """
    root = settings.mirror_dir
    mirror = Mirror(root)

    def still_wrong(paths: set[str]) -> list[Finding]:
        return look_again(settings, take(root, "auditing"), paths, 1)

    def repair(paths: set[str], notes: list[str]) -> set[str]:
        with mirror.locked(holder):
            # Under the lock nobody makes it anew at the same time; somebody may have before.
            for one in sorted(still_wrong(paths), key=lambda finding: finding.file):
                if not one.repairable:  # it may be right: its proof was killed, say
                    notes.append(f"not repaired: {replace(one, where=LOCAL)}")
                    continue
                name = one.file.removeprefix("rdiffs/")
                mirror.remove_from_metadata({one.file})
                mirror.state.rdiffs.remove(name)
                files.remove(mirror.rdiff(name))
                notes.append(f"{one.file}: removed; the next run makes it anew")
        return {one.file for one in still_wrong(paths)}

    return _repaired(found, repair)


def repair_remote(
    settings: Settings,
    target: Target,
    found: Checked,
    options: Options,
    watcher: Watcher = NO_WATCHER,
) -> Checked:
    """Send again what is missing or wrong on a remote and right here, by publishing.

    ``found`` is what ``remote.remote`` found; the result is as that of ``repair_local``.
    """
    root = settings.mirror_dir

    def repair(paths: set[str], notes: list[str]) -> set[str]:
        wanted = _verified(settings, paths, notes)
        if wanted:
            # What lies there is not trusted: no image is made from it, its bytes travel. What
            # else waits to be published goes on waiting: this is no night.
            alone = {"assemble": False, "only": frozenset(wanted)}
            how = options.model_copy(update=alone)
            with Publisher(root, target, how) as publisher:
                with_retries(lambda: _force_recheck(publisher, wanted))
            (report,) = publish_all(root, [target], how, watcher=watcher)
            notes += [f"while repairing: {line}" for line in report.lines()[1:]]
        seen, again = look(settings, target, 0, options, only=paths)
        # What clients are not told of any more is not looked for, and not repaired either.
        told = {CKSUMS, *seen.described.documents, *seen.described.files}
        return {one.file for one in again.findings} | (paths - told)

    return _repaired(found, repair)


def _force_recheck(publisher: Publisher, files: Mapping[str, tuple[int, str]]) -> None:
    """Have the next run compare files, of this size and sha256, whatever the journal says."""
    with publisher.hold() as remote:
        for path, (size, digest) in files.items():
            remote.journal.force_recheck(path, size, digest)
        remote.save()


def _verified(settings: Settings, paths: set[str], notes: list[str]) -> dict[str, tuple[int, str]]:
    """Return size and sha256 of those files that are right here; the others are noted."""
    local, wanted = take(settings.mirror_dir, "auditing"), {}
    wrong = {one.file for one in look_again(settings, local, paths, 0)}
    now = take(settings.mirror_dir, "auditing").files  # a night withdraws what it changes
    for path in sorted(paths):
        content = local.cksums if path == CKSUMS else local.documents.get(path)
        if content is not None and path not in local.damaged:
            wanted[path] = len(content), sha256(content)
        elif path in now and path not in wrong and now[path] == local.files.get(path):
            wanted[path] = now[path].size, now[path].sha256
        else:
            notes.append(f"{path}: not sent again, the local one is not right either")
    return wanted


def _repaired(found: Checked, repair: Callable[[set[str], list[str]], set[str]]) -> Checked:
    """Repair what can be, and tell what is right again from what is not.

    ``repair`` repairs some files, makes notes, and returns those that are still wrong.
    """
    paths = {finding.file for finding in found.findings if finding.repairable}
    notes: list[str] = []
    try:
        right = paths - repair(paths, notes) if paths else set()
    except RepositoryError as error:
        return replace(found, notes=(*found.notes, *notes, f"not repaired: {error}"))
    findings = [one for one in found.findings if not (one.repairable and one.file in right)]
    mended = [one for one in found.findings if one.repairable and one.file in right]
    return replace(
        found,
        findings=tuple(findings),
        repaired=tuple(replace(one, remedy="") for one in mended),
        notes=(*found.notes, *notes),
    )
