"""One file onto the remote: resumed, sent or assembled, proven, and only then named.

What is on its way has a hidden name tied to its content (``Transfer.part``), so whatever lies
there is the beginning of this very file, put there by any run on any machine. Pieces are
handed out in order and never more than ``AHEAD`` bytes beyond the first one that the server
has not acknowledged: so of a part of S bytes, all but the last ``AHEAD`` are whole, however
many connections wrote it and however they ended, and no list of pieces is needed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from puavo_repository.errors import (
    ConnectionLostError,
    DeltaError,
    PublishError,
    RepositoryError,
    StorageError,
    storage_error,
)
from puavo_repository.stages.assemble import assemble
from puavo_repository.stages.publish_plan import How, Transfer, mega
from puavo_repository.stages.publish_survey import check_local, same_bytes, samples
from puavo_repository.storage.pool import Pool
from puavo_repository.storage.remote import Access, Kind, RemoteFile, RemoteTree
from puavo_repository.storage.throttle import Throttle

logger = logging.getLogger(__name__)

PIECE = 4 * (255 << 10)  # bytes handed out at once: four of the largest SFTP writes
AHEAD = 24 << 20  # bytes; sent twice after a kill: at most AHEAD, and what was ahead of it
LONG_TRIP = 0.005  # seconds of round trip from which one connection cannot fill the line
SEVERAL = 16 << 20  # bytes from which a file is worth several connections

Progress = Callable[[str, int, int], None]
"""Told (path, bytes that the server has, bytes in all) now and then, from any thread."""


def no_progress(_path: str, _done: int, _size: int) -> None:
    """Take no notice."""


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


@dataclass(frozen=True)
class Ways:
    """How transfers go about it.

    Attributes:
        pool: Connections to the remote.
        throttle: The bandwidth limit.
        progress: Told of the bytes that the server has.
    """

    pool: Pool
    throttle: Throttle
    progress: Progress = no_progress


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
    local = mirror_dir / item.path
    check_local(local, item.size)
    with _digesting(local) as digest, ways.pool.tree() as tree:
        how = _fill(tree, item, mirror_dir, ways)
        if digest() != item.sha256:
            tree.remove(item.part)
            raise PublishError(
                local, "its content is not what the metadata describes", remedy="Prepare again"
            )
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
            seams = assemble(
                tree, item, mirror_dir, begin, lambda n: ways.progress(item.path, n, item.size)
            )
            _prove(tree, item, local, seams)
            return How.ASSEMBLED
        except ConnectionLostError:
            raise
        except (StorageError, PublishError, DeltaError) as error:
            logger.warning("%s: not assembled, uploaded instead: %s", item.path, error)
            tree.remove(item.part)
    begin = resume_point(tree, item, local)
    _upload(tree, item, local, begin, ways)
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


def _upload(tree: RemoteTree, item: Transfer, local: Path, begin: int, ways: Ways) -> None:
    pieces = _Pieces(begin, item.size, lambda done: ways.progress(item.path, done, item.size))
    try:
        source = os.open(local, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise storage_error(local, error) from error
    try:
        with tree.open(item.part, Access.WRITE) as file:
            several = tree.round_trip > LONG_TRIP and item.size - begin > SEVERAL
            extra = ways.pool.limit - 1 if several else 0
            helpers = [
                threading.Thread(target=_help, args=(item, source, pieces, ways), daemon=True)
                for _ in range(extra)
            ]
            for helper in helpers:
                helper.start()
            try:
                _send(file, source, pieces, ways.throttle)
            except BaseException as error:
                pieces.stop(error)
                raise
            finally:
                for helper in helpers:
                    helper.join()
            pieces.check()
            file.sync()
    finally:
        os.close(source)


def _help(item: Transfer, source: int, pieces: _Pieces, ways: Ways) -> None:
    """Send pieces over one more connection; without one, the others send them."""
    try:
        tree = ways.pool.take()
    except RepositoryError as error:
        logger.info("one connection fewer: %s", error)
        return
    try:
        with tree.open(item.part, Access.WRITE) as file:
            _send(file, source, pieces, ways.throttle)
            file.sync()
    except BaseException as error:  # noqa: BLE001 - raised again where the others are awaited
        pieces.stop(error)
        tree.close()
    else:
        ways.pool.give(tree)


def _send(file: RemoteFile, source: int, pieces: _Pieces, throttle: Throttle) -> None:
    """Send pieces until none is left; returns when all that were sent are acknowledged."""
    while True:
        piece = pieces.take()
        if piece is None:
            file.flush()
            if pieces.wait():
                continue
            return
        at, length = piece
        throttle.admit(length, file.flush)
        data = os.pread(source, length, at)
        if len(data) != length:
            raise PublishError("the local file", "was cut short while it was sent")
        file.write(at, data, lambda count, at=at: pieces.acknowledged(at, count))  # type: ignore[misc]


class _Pieces:
    """Hands out the pieces of a file in order, and knows how far it is whole.

    Args:
        begin: Where to begin, in bytes.
        size: Of the file, in bytes.
        progress: Told how many bytes the server has.
    """

    def __init__(self, begin: int, size: int, progress: Callable[[int], None]) -> None:
        self._next = begin
        self._done = begin
        self._size = size
        self._progress = progress
        self._under_way: dict[int, int] = {}  # in order of their offsets
        self._error: BaseException | None = None
        self._change = threading.Condition()

    def take(self) -> tuple[int, int] | None:
        """Return (offset, length) of the next piece, or None if there is none just now."""
        with self._change:
            first = next(iter(self._under_way), self._next)
            if self._error or self._next >= self._size or self._next - first >= AHEAD:
                return None
            at, length = self._next, min(PIECE, self._size - self._next)
            self._next += length
            self._under_way[at] = length
            return at, length

    def acknowledged(self, at: int, count: int) -> None:
        """Note that the server has ``count`` more bytes of the piece at ``at``."""
        with self._change:
            self._under_way[at] -= count
            self._done += count
            if not self._under_way[at]:
                del self._under_way[at]
                self._change.notify_all()
            done = self._done
        self._progress(done)

    def wait(self) -> bool:
        """Wait until there may be a piece again; False when there will be none."""
        with self._change:
            while not self._error and self._next < self._size:
                first = next(iter(self._under_way), self._next)
                if self._next - first < AHEAD:
                    return True
                self._change.wait()
            return False

    def stop(self, error: BaseException) -> None:
        """Hand out nothing more: something failed."""
        with self._change:
            self._error = self._error or error
            self._change.notify_all()

    def check(self) -> None:
        """Raise what failed on any connection."""
        if self._error is not None:
            raise self._error


@contextmanager
def _digesting(path: Path) -> Iterator[Callable[[], str]]:
    """Compute a file's sha256 in a thread beside its transfer; yields how to wait for it."""
    result: list[str | BaseException] = []
    ended = threading.Event()

    def run() -> None:
        digest = hashlib.sha256()
        try:
            with path.open("rb", buffering=0) as stream:
                while not ended.is_set() and (block := stream.read(4 << 20)):
                    digest.update(block)
            result.append(digest.hexdigest())
        except OSError as error:
            result.append(storage_error(path, error))

    thread = threading.Thread(target=run, name="digest", daemon=True)
    thread.start()

    def wait() -> str:
        thread.join()
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    try:
        yield wait
    finally:
        ended.set()
