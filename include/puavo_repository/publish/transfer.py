"""One file onto the remote: resumed, sent or assembled, proven, and only then named.

What is on its way has a hidden name tied to its content and to the step that sends it
(``Transfer.part``), so no two ever write the same file. What an earlier step sent is taken over
by its name: as far as it is noted to be on the server's disk (``parts``), and no further.

A new file claims a name that must be free: whoever slept while another publisher took over does
not put it over that one's.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from puavo_repository.errors import (
    ConnectionLostError,
    DeltaError,
    PublishError,
    StorageError,
    StorageRefusedError,
    storage_error,
)
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.progress import format_bytes
from puavo_repository.publish.assemble import assemble
from puavo_repository.publish.compare import check_local, every_range, same_bytes, samples
from puavo_repository.publish.plan import How, Transfer
from puavo_repository.publish.send import Uplink, upload
from puavo_repository.remote.parts import Part, Parts
from puavo_repository.remote.tree import Kind, RemoteStat, RemoteTree

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transferred:
    """A file that is proven on the remote.

    Attributes:
        path: Where.
        size: Bytes.
        sha256: Of its content.
        mtime: On the server's clock; None while it still waits under its part name.
        how: Which way it came.
    """

    path: str
    size: int
    sha256: str
    mtime: int | None
    how: How


def transfer(item: Transfer, mirror_dir: Path, uplink: Uplink) -> Transferred:
    """Bring one file to the remote.

    Args:
        item: What, and how.
        mirror_dir: The local mirror it comes from.
        uplink: Connections, limit and watcher.

    Raises:
        PublishError: The local file is not what the metadata describes.
        TransientError: The connection broke; what arrived is kept for the next attempt.
        StorageRefusedError: The server refuses, or its disk is full.
    """
    try:
        return _transfer(item, mirror_dir, uplink)
    except OSError as error:  # of the local file: those of the remote are errors of ours
        raise storage_error(mirror_dir / item.path, error) from error


def _transfer(item: Transfer, mirror_dir: Path, uplink: Uplink) -> Transferred:
    local, part = mirror_dir / item.path, item.part(uplink.token)
    check_local(local, item.size)
    with uplink.pool.tree() as tree:
        if _is_proven(tree, item, uplink.parts):
            return Transferred(item.path, item.size, item.sha256, None, item.how)
        there = None if item.wrong else tree.stat(item.path)
        if there is not None and _is_this(tree, item, there, local):
            # An attempt before this one got as far, and could not say so any more.
            return Transferred(item.path, item.size, item.sha256, there.mtime, item.how)
        with _watched(mirror_dir, item) as check:
            how = _fill(tree, item, mirror_dir, uplink)
            try:
                check()
            except PublishError:
                tree.remove(part)
                uplink.parts.forget([item.path])
                raise
        if item.replaces:
            whole = Part(part, item.size, item.sha256, item.size, proven=True)
            uplink.parts.put(item.path, whole)
            return Transferred(item.path, item.size, item.sha256, None, how)
        if item.wrong:
            uplink.check()  # what has the name now is in no metadata, or it would be withdrawn
        placed = rename_into_place(tree, item, part, how)
        uplink.parts.forget([item.path])
        return placed


def _is_this(tree: RemoteTree, item: Transfer, found: RemoteStat, local: Path) -> bool:
    same_size = found.kind is Kind.FILE and found.size == item.size
    return same_size and same_bytes(tree, item.path, local, every_range(item.size))


def _is_proven(tree: RemoteTree, item: Transfer, parts: Parts) -> bool:
    """Say whether an earlier step proved this file, and it only waits for its name."""
    known = parts.get(item.path)
    if known is None or not known.proven or known.sha256 != item.sha256 or not item.replaces:
        return False
    found = tree.stat(known.name)
    return found is not None and (found.kind, found.size) == (Kind.FILE, item.size)


def rename_into_place(tree: RemoteTree, item: Transfer, part: str, how: How) -> Transferred:
    """Give a proven part its name; one that takes the place of nothing must find it free."""
    if item.wrong:
        tree.rename(part, item.path)
    else:
        tree.rename_exclusive(part, item.path)
    found = tree.stat(item.path)
    if found is None or found.size != item.size:
        raise StorageError(f"{tree.name}/{item.path}", "was changed while it was published")
    return Transferred(item.path, item.size, item.sha256, found.mtime, how)


def _fill(tree: RemoteTree, item: Transfer, mirror_dir: Path, uplink: Uplink) -> How:
    """Complete the part and prove it; an assembly that fails gives way to an upload."""
    local, part = mirror_dir / item.path, item.part(uplink.token)
    if item.how is How.ASSEMBLED:
        try:
            _begin_anew(tree, item, uplink)
            with uplink.pool.requests(tree) as requests:
                seams = assemble(
                    requests,
                    item,
                    part,
                    mirror_dir / item.rdiff,
                    uplink.watcher.begin(item.path, item.size),
                )
            _prove(tree, part, item.size, local, seams)
            return How.ASSEMBLED
        except ConnectionLostError:
            raise
        except (StorageError, StorageRefusedError, DeltaError) as error:
            logger.warning("%s: not assembled, uploaded instead: %s", item.path, error)
    begin = _resume_point(tree, item, local, uplink)
    upload(tree, item, local, begin, uplink)
    try:
        _prove(tree, part, item.size, local, [begin] if begin else [])
    except StorageError:
        _begin_anew(tree, item, uplink)
        raise
    return How.UPLOADED


def _resume_point(tree: RemoteTree, item: Transfer, local: Path, uplink: Uplink) -> int:
    """Return how many bytes need not be sent, with what an earlier step sent under our part name.

    Those are the bytes that are noted to be on the server's disk; some are compared as well. A
    part that holds anything else is removed.
    """
    known, part = uplink.parts.get(item.path), item.part(uplink.token)
    if known is not None and known.sha256 == item.sha256 and known.synced:
        found = tree.stat(known.name)
        whole = samples(known.synced, also=[known.synced - 1, known.synced // 2])
        if (
            found is not None
            and found.kind is Kind.FILE
            and known.synced <= found.size <= item.size
            and same_bytes(tree, known.name, local, whole)
        ):
            if known.name != part:
                tree.rename(known.name, part)
                uplink.parts.put(item.path, replace(known, name=part, proven=False))
            logger.info("%s: goes on at %s", item.path, format_bytes(known.synced))
            return known.synced
    _begin_anew(tree, item, uplink)
    return 0


def _begin_anew(tree: RemoteTree, item: Transfer, uplink: Uplink) -> None:
    """Remove what there is of a file that has no name yet."""
    known = uplink.parts.get(item.path)
    if known is not None:
        tree.remove(known.name)
        uplink.parts.forget([item.path])
    tree.remove(item.part(uplink.token))


def _prove(tree: RemoteTree, part: str, size: int, local: Path, seams: list[int]) -> None:
    found = tree.stat(part)
    there = found.size if found else -1
    if there != size:
        raise StorageError(
            f"{tree.name}/{part}", "has the wrong size", expected=f"{size}", found=f"{there}"
        )
    if not same_bytes(tree, part, local, samples(size, also=seams)):
        raise StorageError(f"{tree.name}/{part}", "differs from the file that was sent")


@contextmanager
def _watched(mirror_dir: Path, item: Transfer) -> Iterator[Callable[[], None]]:
    """Watch a local file while it is sent; yields how to make sure it is what is described.

    Of a file whose bytes travel the sha256 is computed beside the transfer: a disk may have
    forgotten some since the mirror was prepared. Where the server makes the file, its identity
    must be the one that the mirror's records know, until the end.
    """
    local = mirror_dir / item.path
    identity = Identity.at(local)
    made = item.how is How.ASSEMBLED
    known = made and _recorded(Mirror(mirror_dir), item) == identity is not None
    ended = threading.Event()
    digest = None if known else _Digest(local, ended)

    def check() -> None:
        found = digest.result() if digest else item.sha256
        if found != item.sha256 or Identity.at(local) != identity:
            raise PublishError(
                local,
                "its content is not what the metadata describes",
                remedy="Prepare again; if that does not help, the audit says which file is damaged",
            )

    try:
        yield check
    finally:
        ended.set()


def _recorded(mirror: Mirror, item: Transfer) -> Identity | None:
    """Return the identity that the file had when its digest was computed, if that is known."""
    name = item.path.rpartition("/")[2]
    image, rdiff = mirror.state.images.get(name), mirror.state.rdiffs.get(name)
    if image is not None and image.digests.sha256 == item.sha256:
        here = Identity.at(mirror.root / name)
        return here if here in {image.identity, image.copy} else None
    if rdiff is not None and rdiff.digests.sha256 == item.sha256:
        return rdiff.identity
    return None


class _Digest(threading.Thread):
    """Computes a file's sha256 in a thread of its own.

    Args:
        path: The file.
        ended: Tells that nobody waits for it any more.
    """

    def __init__(self, path: Path, ended: threading.Event) -> None:
        super().__init__(name="digest", daemon=True)
        self._path = path
        self._ended = ended
        self._found: str | OSError = ""
        self.start()

    def run(self) -> None:
        """Read the file."""
        digest = hashlib.sha256()
        try:
            with self._path.open("rb", buffering=0) as stream:
                while not self._ended.is_set() and (block := stream.read(4 << 20)):
                    digest.update(block)
            self._found = digest.hexdigest()
        except OSError as error:
            self._found = error

    def result(self) -> str:
        """Wait for the digest."""
        self.join()
        if isinstance(self._found, OSError):
            raise storage_error(self._path, self._found)
        return self._found
