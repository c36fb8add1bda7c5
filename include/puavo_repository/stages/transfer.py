"""One file onto the remote: resumed, sent or assembled, proven, and only then named.

What is on its way has a hidden name tied to its content (``Transfer.part``), so whatever lies
there is the beginning of this very file, put there by any run on any machine.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from puavo_repository.errors import (
    ConnectionLostError,
    DeltaError,
    PublishError,
    StorageError,
    storage_error,
)
from puavo_repository.stages.assemble import assemble
from puavo_repository.stages.compare import check_local, same_bytes, same_file, samples
from puavo_repository.stages.publish_plan import How, Transfer, mega
from puavo_repository.stages.upload import AHEAD, PIECE, Ways, upload
from puavo_repository.storage.files import Identity
from puavo_repository.storage.mirror import Mirror
from puavo_repository.storage.remote import Kind, RemoteTree

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placed:
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "how": self.how.value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Placed:
        """Read what ``to_dict`` returned."""
        return cls(**{**values, "how": How(values["how"])})


def transfer(item: Transfer, mirror_dir: Path, ways: Ways) -> Placed:
    """Bring one file to the remote.

    Args:
        item: What, and how.
        mirror_dir: The local mirror it comes from.
        ways: Connections, limit and progress.

    Raises:
        PublishError: The local file is not what the metadata describes.
        TransientError: The connection broke; what arrived is kept for the next attempt.
        StorageRefusedError: The server refuses, or its disk is full.
    """
    try:
        return _transfer(item, mirror_dir, ways)
    except OSError as error:  # of the local file: those of the remote are errors of ours
        raise storage_error(mirror_dir / item.path, error) from error


def _transfer(item: Transfer, mirror_dir: Path, ways: Ways) -> Placed:
    local = mirror_dir / item.path
    check_local(local, item.size)
    with _vouched(mirror_dir, item) as check, ways.pool.tree() as tree:
        there = None if item.wrong else tree.stat(item.path)
        if there and same_file(tree, item.path, there, local, item.size):
            # An attempt before this one got as far, and could not say so any more.
            return Placed(item.path, item.size, item.sha256, there.mtime, item.how)
        how = _fill(tree, item, mirror_dir, ways)
        try:
            check()
        except PublishError:
            tree.remove(item.part)
            raise
        ways.progress(item.path, item.size, item.size)
        if item.replaces:
            return Placed(item.path, item.size, item.sha256, None, how)
        return settle(tree, item, how)


def settle(tree: RemoteTree, item: Transfer, how: How) -> Placed:
    """Give a proven part its name."""
    tree.rename(item.part, item.path)
    found = tree.stat(item.path)
    if found is None or found.size != item.size:
        raise StorageError(f"{tree.name}/{item.path}", "was changed while it was published")
    return Placed(item.path, item.size, item.sha256, found.mtime, how)


def _fill(tree: RemoteTree, item: Transfer, mirror_dir: Path, ways: Ways) -> How:
    """Complete the part and prove it; an assembly that fails gives way to an upload."""
    local = mirror_dir / item.path
    if item.how is How.ASSEMBLED:
        try:
            begin = resume_point(tree, item, local)
            with ways.pool.requests(tree) as requests:
                seams = assemble(
                    requests,
                    item,
                    mirror_dir,
                    begin,
                    lambda n: ways.progress(item.path, n, item.size),
                )
            _prove(tree, item, local, seams)
            return How.ASSEMBLED
        except ConnectionLostError:
            raise
        except (StorageError, PublishError, DeltaError) as error:
            logger.warning("%s: not assembled, uploaded instead: %s", item.path, error)
            tree.remove(item.part)
    begin = resume_point(tree, item, local)
    upload(tree, item, local, begin, ways)
    try:
        _prove(tree, item, local, [begin] if begin else [])
    except StorageError:
        tree.remove(item.part)
        raise
    return How.UPLOADED


def resume_point(tree: RemoteTree, item: Transfer, local: Path) -> int:
    """Return how many bytes of a file need not be sent, after looking whether they are its own.

    A part that holds anything else is removed.
    """
    found = tree.stat(item.part)
    if found is None:
        return 0
    # Complete only in length: its last pieces may still have holes. They are sent again.
    begin = max(0, min(found.size, item.size) - AHEAD) // PIECE * PIECE
    if found.kind is Kind.FILE and found.size <= item.size and begin:
        tail = [begin - 1, begin // 2]
        if same_bytes(tree, item.part, local, samples(begin, also=tail)):
            logger.info("%s: goes on at %s", item.path, mega(begin))
            return begin
    if found.kind is not Kind.FILE or found.size > item.size or begin:
        tree.remove(item.part)
    return 0


def _prove(tree: RemoteTree, item: Transfer, local: Path, seams: list[int]) -> None:
    found = tree.stat(item.part)
    size = found.size if found else -1
    if size != item.size:
        raise StorageError(
            f"{tree.name}/{item.part}",
            "has the wrong size",
            expected=f"{item.size}",
            found=f"{size}",
        )
    if not same_bytes(tree, item.part, local, samples(item.size, also=seams)):
        raise StorageError(f"{tree.name}/{item.part}", "differs from the file that was sent")


@contextmanager
def _vouched(mirror_dir: Path, item: Transfer) -> Iterator[Callable[[], None]]:
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
