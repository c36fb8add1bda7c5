"""The audit: the local tree, each remote, and what clients see, with a report of what is wrong.

In this order: ``local`` reads the mirror, ``remote`` each remote tree, ``clients`` the https
address; after each of the first two its repairs, if they are asked for, so that clients are
looked at last. ``audit`` does all of it for the command; the DAG's tasks call the same checks
and end with ``conclude``. A check that cannot be made is a finding, and the others go on.

The repairs are those that are safe: one file sent again, one rdiff withdrawn to be made anew.
A local image is never touched and a stray file never removed: nobody but the operator knows
which one is right. What was repaired is looked at again before it is reported as repaired.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from puavo_repository.audit import report
from puavo_repository.audit.clients import clients
from puavo_repository.audit.local import LocalCheck, local
from puavo_repository.audit.remote import RemoteCheck, remote
from puavo_repository.audit.report import LOCAL, AuditReport, Checked, Finding
from puavo_repository.errors import RepositoryError, as_storage_error
from puavo_repository.mirror import files
from puavo_repository.mirror.description import take
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.publish.plan import CKSUMS, sha256
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.run import publish_all
from puavo_repository.remote.target import Target, canonical
from puavo_repository.retry import with_retries
from puavo_repository.settings import Settings, usable


def audit(
    settings: Settings,
    targets: Sequence[Target],
    *,
    repair: bool = False,
    watcher: Watcher = NO_WATCHER,
) -> AuditReport:
    """Audit everything, repair where that is asked for, and keep the report beside the mirror."""
    begun, found = time.time(), local(settings, watcher)
    checks = [repair_local(settings, found, "an audit") if repair else found]
    for target in targets:
        found = remote(settings, target, watcher)
        if repair:
            found = repair_remote(settings, target, found, watcher)
        checks.append(found)
    if settings.audit_https:
        checks.append(clients(settings, watcher))
    return conclude(settings, begun, checks)


def conclude(settings: Settings, begun: float, checks: Sequence[Checked]) -> AuditReport:
    """Put the checks of an audit together, and keep the report beside the mirror.

    What earlier audits found is kept with it, of places and files that this one did not look at:
    it is not mended by that.
    """
    root, before = settings.mirror_dir, report.last(settings.mirror_dir)
    turns, at = dict(before.turns), dict(before.at)
    for check in checks:
        if check.whole:  # one that could not be made leaves its turn to the next
            turns[check.where], at[check.where] = turns.get(check.where, 0) + 1, begun
    seconds = time.time() - begun
    done = AuditReport(report.NAME, begun, seconds, before.turn + 1, tuple(checks), turns, at)
    try:
        with as_storage_error(root):
            if Mirror(root).meta.is_dir():
                known = _still_known(settings, before.checks, checks)
                report.records(root).put(replace(done, checks=(*checks, *known)))
    except RepositoryError as error:
        unkept = Checked(LOCAL, findings=(Finding.of(LOCAL, error),))
        return replace(done, checks=(*done.checks, unkept))
    return done


def _still_known(
    settings: Settings, before: Sequence[Checked], now: Sequence[Checked]
) -> Iterator[Checked]:
    """Yield what was found ``before`` of places that are not looked at ``now``, or not whole."""
    looked_at = {canonical(one.where): one for one in now}
    for old in before:
        here, found = looked_at.get(canonical(old.where)), old.findings
        if here is not None and not here.whole:  # what keeps it from being made, it says itself
            found = tuple(one for one in found if one.file and one not in here.findings)
        elif here is not None or not _is_looked_at_again(settings, old.where):
            found = ()
        if found:
            yield Checked(old.where, findings=found, whole=False)


def _is_looked_at_again(settings: Settings, where: str) -> bool:
    """Tell whether a place is one that is still set up; what was found elsewhere would never go."""
    if where in {LOCAL, settings.repository, usable().repository}:
        return True
    if settings.remote:
        return canonical(where) in set(map(canonical, settings.remote))
    return where != report.NAME and not where.startswith(("http://", "https://"))


def repair_local(settings: Settings, found: Checked, holder: str) -> Checked:
    """Remove wrong local rdiffs and their description, so that the next run makes them anew.

    ``found`` is what ``local.local`` found, and ``holder`` who takes the mirror's lock. Returns
    the same with what was repaired as such; why something could not be is in the notes.
    """
    mirror, tree = Mirror(settings.mirror_dir), LocalCheck(settings)

    def repair(paths: set[str], notes: list[str]) -> set[str]:
        with mirror.locked(holder):
            # Under the lock nobody makes it anew at the same time; somebody may have before.
            for one in sorted(tree.look(paths)[1], key=lambda finding: finding.file):
                if not one.repairable:  # it may be right: its proof was killed, say
                    notes.append(f"not repaired: {replace(one, where=LOCAL)}")
                    continue
                name = one.file.removeprefix("rdiffs/")
                mirror.remove_from_metadata({one.file})
                mirror.state.rdiffs.remove(name)
                files.remove(mirror.rdiffs / name)
                notes.append(f"{one.file}: removed; the next run makes it anew")
        return {one.file for one in tree.look(paths)[1]}

    return _repaired(found, repair)


def repair_remote(
    settings: Settings, target: Target, found: Checked, watcher: Watcher = NO_WATCHER
) -> Checked:
    """Send again what is missing or wrong on a remote and right here, by publishing.

    ``found`` is what ``remote.remote`` found; the result is as that of ``repair_local``.
    """

    def repair(paths: set[str], notes: list[str]) -> set[str]:
        wanted = _right_here(settings, paths)
        absent = sorted(paths - wanted.keys())
        notes += [f"{path}: not sent again, the local one is not right either" for path in absent]
        root = settings.mirror_dir

        def force_recheck() -> None:
            with Publisher(root, target, settings) as publisher, publisher.hold() as held:
                for path, (size, digest) in wanted.items():
                    held.journal.force_recheck(path, size, digest)
                held.save()

        if wanted:
            with_retries(force_recheck)
            # What lies there is not trusted: no image is made from it, its bytes travel. What else
            # waits to be published goes on waiting: this is no night.
            only = wanted.keys()
            (report,) = publish_all(root, [target], settings, watcher=watcher, only=only)
            notes += [f"while repairing: {line}" for line in report.lines()[1:]]
        there = RemoteCheck(settings, target)
        wrong = {one.file for one in there.check(paths).findings}
        # What clients are not told of any more is not looked for, and not repaired either.
        told = {CKSUMS, *there.seen.described.documents, *there.seen.described.files}
        return wrong | (paths - told)

    return _repaired(found, repair)


def _right_here(settings: Settings, paths: set[str]) -> dict[str, tuple[int, str]]:
    """Return size and sha256 of those files that are right here."""
    local = take(settings.mirror_dir, "auditing")
    wrong = {one.file for one in LocalCheck(settings).look(paths, prove=False)[1]}
    now = take(settings.mirror_dir, "auditing").files  # a night withdraws what it changes
    same = {path: file for path, file in local.files.items() if now.get(path) == file}
    right = {p: (file.size, file.sha256) for p, file in same.items() if p not in wrong}
    for path, content in {CKSUMS: local.cksums, **local.documents}.items():
        if content is not None and path not in local.damaged:
            right[path] = len(content), sha256(content)
    return {path: right[path] for path in paths & right.keys()}


def _repaired(found: Checked, repair: Callable[[set[str], list[str]], set[str]]) -> Checked:
    """Repair what can be, and tell what is right again from what is not.

    ``repair`` repairs some files, makes notes, and returns those that are still wrong.
    """
    mended, notes = [one for one in found.findings if one.repairable], list(found.notes)
    paths = {one.file for one in mended}
    try:
        wrong = repair(paths, notes) if paths else set()
    except RepositoryError as error:
        wrong = paths
        notes.append(f"not repaired: {error}")
    mended = [one for one in mended if one.file not in wrong]
    return replace(
        found,
        findings=tuple(one for one in found.findings if one not in mended),
        repaired=tuple(replace(one, remedy="") for one in mended),
        notes=tuple(notes),
    )
