"""The repairs that are safe: one file sent again, one rdiff withdrawn to be made anew.

A local image is never touched and a stray file never removed: nobody but the operator knows
which one is right. What was repaired is looked at again before it is reported as repaired.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from puavo_repository.audit.local import still_wrong
from puavo_repository.audit.remote import look
from puavo_repository.audit.report import Checked, Finding
from puavo_repository.errors import RepositoryError
from puavo_repository.formats.metadata import DIGESTS
from puavo_repository.mirror import files
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.progress import NO_WATCHER, Watcher
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
    paths = {finding.file for finding in found.findings if finding.repairable}
    if not paths:
        return found
    mirror, notes = Mirror(settings.mirror_dir), []
    try:
        with mirror.locked(holder):
            # Under the lock nobody makes it anew at the same time; somebody may have before.
            for path in sorted(still_wrong(settings, paths)):
                name = path.removeprefix("rdiffs/")
                mirror.remove_from_metadata({path})
                mirror.state.rdiffs.remove(name)
                files.remove(mirror.rdiff(name))
                notes.append(f"{path}: removed; the next run makes it anew")
        left = set(still_wrong(settings, paths))
    except RepositoryError as error:
        return replace(found, notes=(*found.notes, *notes, f"not repaired: {error}"))
    return _concluded(found, left, notes)


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
    paths = {finding.file for finding in found.findings if finding.repairable}
    if not paths:
        return found
    notes: list[str] = []
    try:
        wanted = _verified(mirror_dir, take(mirror_dir, "auditing"), paths, notes)
        if wanted:
            # What lies there is not trusted: no image is made from it, its bytes travel. What
            # else waits to be published goes on waiting: this is no night.
            how = replace(options or Options(), assemble=False, only=frozenset(wanted))
            with Publisher(mirror_dir, target, how) as publisher:
                with_retries(lambda: publisher.force_recheck(wanted))
            (report,) = publish_all(mirror_dir, [target], how, watcher=watcher)
            notes += [f"while repairing: {line}" for line in report.lines()[1:]]
        seen, again = look(mirror_dir, target, 0, 0, options, only=paths)
    except RepositoryError as error:
        return replace(found, notes=(*found.notes, *notes, f"not repaired: {error}"))
    # What clients are not told of any more is not looked for, and not repaired either.
    told = {CKSUMS, *seen.described.documents, *seen.described.files}
    return _concluded(found, {one.file for one in again.findings} | (paths - told), notes)


def _verified(
    root: Path, local: Description, paths: set[str], notes: list[str]
) -> dict[str, tuple[int, str]]:
    """Return size and sha256 of those files that are right here; the others are noted."""
    wanted = {}
    for path in sorted(paths):
        content = local.cksums if path == CKSUMS else local.documents.get(path)
        if content is not None and path not in local.damaged:
            wanted[path] = len(content), sha256(content)
        elif path in local.files and _is_right(root, local, path):
            wanted[path] = local.files[path].size, local.files[path].digests["sha256"]
        else:
            notes.append(f"{path}: not sent again, the local one is not right either")
    return wanted


def _is_right(root: Path, local: Description, path: str) -> bool:
    file = local.files[path]
    try:
        found = digest_file(root / path, lambda _done: None).to_dict()
    except OSError as error:
        logger.warning("%s cannot be read: %s", root / path, error)
        return False
    return all(found[key] == file.digests.get(key) for key in DIGESTS)


def _concluded(found: Checked, left: set[str], notes: list[str]) -> Checked:
    """Tell what is right again from what is not."""

    def is_repaired(finding: Finding) -> bool:
        return finding.repairable and finding.file not in left

    return replace(
        found,
        findings=tuple(one for one in found.findings if not is_repaired(one)),
        repaired=tuple(replace(one, remedy="") for one in found.findings if is_repaired(one)),
        notes=(*found.notes, *notes),
    )
