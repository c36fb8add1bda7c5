"""The repairs that are safe: one file sent again, one rdiff withdrawn to be made anew.

A local image is never touched and a stray file never removed: nobody but the operator knows
which one is right. What was repaired is looked at again before it is reported as repaired.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from puavo_repository.audit.local import still_wrong
from puavo_repository.audit.remote import look
from puavo_repository.audit.report import Checked
from puavo_repository.errors import RepositoryError
from puavo_repository.formats.metadata import DIGESTS, DescribedFile
from puavo_repository.mirror import files
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.progress import NO_WATCHER, Watcher, no_progress
from puavo_repository.publish.options import Options
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.run import publish_all
from puavo_repository.publish.state import CKSUMS, sha256
from puavo_repository.remote.target import Target
from puavo_repository.retry import with_retries
from puavo_repository.settings import Settings

logger = logging.getLogger(__name__)


def repair_local(settings: Settings, found: Checked, holder: str) -> Checked:
    """Remove wrong local rdiffs and their description, so that the next run makes them anew.

    Args:
        settings: Where the mirror is.
        found: What ``local.local`` found.
        holder: Who takes the mirror's lock.

    Returns:
        The same with what was repaired as such; why something could not be is in the notes.
    """
    mirror = Mirror(settings.mirror_dir)

    def repair(paths: set[str], notes: list[str]) -> set[str]:
        with mirror.locked(holder):
            # Under the lock nobody makes it anew at the same time; somebody may have before.
            for path in sorted(still_wrong(settings, paths)):
                name = path.removeprefix("rdiffs/")
                mirror.remove_from_metadata({path})
                mirror.state.rdiffs.remove(name)
                files.remove(mirror.rdiff(name))
                notes.append(f"{path}: removed; the next run makes it anew")
        return still_wrong(settings, paths)

    return _repaired(found, repair)


def repair_remote(
    mirror_dir: Path,
    target: Target,
    found: Checked,
    options: Options | None = None,
    watcher: Watcher = NO_WATCHER,
) -> Checked:
    """Send again what is missing or wrong on a remote and right here, by publishing.

    Args:
        mirror_dir: The local mirror.
        target: The remote.
        found: What ``remote.remote`` found.
        options: How to publish.
        watcher: Told of each file that is sent.

    Returns:
        The same with what was repaired as such; why something could not be is in the notes.
    """

    def repair(paths: set[str], notes: list[str]) -> set[str]:
        wanted = _verified(take(mirror_dir, "auditing"), paths, notes)
        if wanted:
            # What lies there is not trusted: no image is made from it, its bytes travel. What
            # else waits to be published goes on waiting: this is no night.
            how = replace(options or Options(), assemble=False, only=frozenset(wanted))
            with Publisher(mirror_dir, target, how) as publisher:
                with_retries(lambda: publisher.force_recheck(wanted))
            (report,) = publish_all(mirror_dir, [target], how, watcher=watcher)
            notes += [f"while repairing: {line}" for line in report.lines()[1:]]
        seen, again = look(mirror_dir, target, 0, 0, options, only=paths)
        # What clients are not told of any more is not looked for, and not repaired either.
        told = {CKSUMS, *seen.described.documents, *seen.described.files}
        return {one.file for one in again.findings} | (paths - told)

    return _repaired(found, repair)


def _verified(local: Description, paths: set[str], notes: list[str]) -> dict[str, tuple[int, str]]:
    """Return size and sha256 of those files that are right here; the others are noted."""
    wanted = {}
    for path in sorted(paths):
        content = local.cksums if path == CKSUMS else local.documents.get(path)
        if content is not None and path not in local.damaged:
            wanted[path] = len(content), sha256(content)
        elif path in local.files and _is_right(local.root / path, local.files[path]):
            wanted[path] = local.files[path].size, local.files[path].digests["sha256"]
        else:
            notes.append(f"{path}: not sent again, the local one is not right either")
    return wanted


def _is_right(path: Path, file: DescribedFile) -> bool:
    try:
        found = digest_file(path, no_progress).to_dict()
    except OSError as error:
        logger.warning("%s cannot be read: %s", path, error)
        return False
    return all(found[key] == file.digests.get(key) for key in DIGESTS)


def _repaired(found: Checked, repair: Callable[[set[str], list[str]], set[str]]) -> Checked:
    """Repair what can be, and tell what is right again from what is not.

    Args:
        found: What a check found.
        repair: Repairs these files, makes notes, and returns those that are still wrong.
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
