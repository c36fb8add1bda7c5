"""Files that lie in a mirror and that nothing speaks of. They are named, never removed."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from pathlib import Path

from puavo_repository.audit.report import LOCAL, Finding, warning
from puavo_repository.audit.steps import DAY
from puavo_repository.mirror.description import take
from puavo_repository.mirror.files import PART
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import FOLDER
from puavo_repository.remote import generations
from puavo_repository.remote.tree import Kind, RemoteStat

_FOLDERS = {FOLDER, ".checksums", ".signatures"}  # ours, and the old system's
_OF_A_MIRROR = {"CKSUMS", "meta", "rdiffs"}
KINDS = {
    Kind.FILE: "a file",
    Kind.FOLDER: "a folder",
    Kind.LINK: "a link",
    Kind.OTHER: "a pipe or device",
}
_REMEDY = "Remove it if nobody needs it"


def local_strays(root: Path) -> Iterator[Finding]:
    """Yield what lies in the local mirror and neither metadata nor a record knows.

    It is looked for twice: what a night adds meanwhile is described or on record by then.
    """
    suspects = _unknown(root)
    for path in sorted(suspects & _unknown(root) if suspects else ()):
        found = "a link" if (root / path).is_symlink() else ""
        found = found or ("a folder" if (root / path).is_dir() else "a file")
        yield warning(
            LOCAL,
            path,
            "is not part of the mirror: no metadata describes it, and no record knows it",
            found=found,
            remedy=_REMEDY,
        )


def _unknown(root: Path) -> set[str]:
    mirror = Mirror(root)
    found = {
        path.relative_to(root).as_posix()
        for folder in (root, mirror.meta, mirror.rdiffs)
        if folder.is_dir()
        for path in folder.iterdir()
        if not _is_ours(path)
    }
    # Listed first, looked up later: what a night was adding then is on record by now.
    described = take(root, "auditing")
    return found - {
        *_OF_A_MIRROR,
        *described.documents,
        *described.files,
        *mirror.state.images.names(),
        *(f"rdiffs/{name}" for name in mirror.state.rdiffs.names()),
    }


def _is_ours(path: Path) -> bool:
    """Say whether this is a folder of state, or a file that is being made."""
    if path.name in _FOLDERS:
        return True
    try:
        age = time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return True
    return path.name.startswith(".") and path.name.endswith(PART) and age < DAY


def remote_strays(
    where: str, listing: dict[str, RemoteStat], known: Collection[str], now: float
) -> Iterator[Finding]:
    """Yield what lies on a remote and neither its metadata nor the journal knows.

    Args:
        where: The remote.
        listing: What lies there.
        known: What is described there, or in the journal.
        now: The server's time in seconds, as far as it is known.
    """
    for path, found in sorted(listing.items()):
        name = path.rpartition("/")[2]
        part = name.startswith(".") and name.endswith(PART) and found.kind is Kind.FILE
        if path in known or path in {*_OF_A_MIRROR, generations.FOLDER}:
            continue
        if part and now - found.mtime < DAY:
            continue  # on its way
        what = (
            "was left by a transfer that nobody continued"
            if part
            else (
                f"is {KINDS[found.kind]} that is not part of the mirror: neither metadata nor "
                "the journal knows it"
            )
        )
        yield warning(where, path, what, found=f"{found.size} bytes", remedy=_REMEDY)
