"""A file's bytes onto the remote, over as many connections as are worth their while.

Pieces are handed out in order and never more than ``AHEAD`` bytes beyond the first one that the
server has not acknowledged. Now and then the server is asked to put the file on its disk: what was
acknowledged before that is safe, and it is noted how far that goes (``parts``). So a run that ends
anywhere is gone on with from there.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from functools import partial

from puavo_repository.errors import PublishError, RepositoryError
from puavo_repository.progress import Progress
from puavo_repository.publish.plan import Transfer
from puavo_repository.publish.publisher import LockedRemote
from puavo_repository.remote.parts import Part
from puavo_repository.remote.tree import OpenMode, RemoteFile, RemoteTree

logger = logging.getLogger(__name__)

PIECE = 4 * (255 << 10)  # bytes handed out at once: four of the largest SFTP writes
AHEAD = 24 << 20  # bytes
SYNC_EVERY = 64 << 20  # bytes of a file; one connection waits for the disk, the others send
LONG_TRIP = 0.005  # seconds of round trip from which one connection cannot fill the line
SEVERAL = 16 << 20  # bytes from which a file is worth several connections


def send(tree: RemoteTree, item: Transfer, begin: int, remote: LockedRemote) -> None:
    """Send a file's bytes from ``begin`` to its part and have the server put them on its disk.

    Beside the connection ``tree``, others are taken from the pool.
    """
    publisher, part = remote.publisher, item.part(remote.lock.token)
    progress = publisher.watcher.begin(item.path, item.size)
    progress(begin)
    local = publisher.mirror_dir / item.path
    with local.open("rb", buffering=0) as source, tree.open(part, OpenMode.WRITE) as file:
        pieces = _Pieces(begin, item.size, progress)
        sender = _Sender(item, part, source.fileno(), pieces, remote, notes=tree.can_sync)
        # OpenSSH lets 2 MiB a connection be on their way, so a long round trip needs several. On a
        # short one others send while one waits for the server's disk.
        most = publisher.pool.limit if tree.round_trip > LONG_TRIP else min(3, publisher.pool.limit)
        count = most if item.size - begin >= SEVERAL else 1
        helpers = [threading.Thread(target=sender.help, daemon=True) for _ in range(count - 1)]
        for helper in helpers:
            helper.start()
        try:
            sender.send(file)
        except BaseException as error:
            pieces.stop(error)
            raise
        finally:
            for helper in helpers:
                helper.join()
        if pieces.error is not None:  # on any connection
            raise pieces.error
        file.sync()


@dataclass(frozen=True)
class _Sender:
    """Sends the pieces of one file, over as many connections as ask it to."""

    item: Transfer
    part: str  # its hidden name there
    source: int  # its descriptor here
    pieces: _Pieces
    remote: LockedRemote
    notes: bool  # whether it is noted how far the file is on the server's disk

    def help(self) -> None:
        """Send pieces over a connection from the pool; without one the others send them."""
        pool = self.remote.publisher.pool
        try:
            tree = pool.take()
        except RepositoryError as error:
            logger.info("one connection fewer: %s", error)
            return
        try:
            with tree.open(self.part, OpenMode.WRITE) as file:
                self.send(file)
        except BaseException as error:  # noqa: BLE001 - raised again where the others are awaited
            self.pieces.stop(error)
            tree.close()
        else:
            pool.give(tree)

    def send(self, file: RemoteFile) -> None:
        """Send pieces until none is left; returns when all that were sent are acknowledged."""
        while True:
            if self.pieces.to_be_synced():
                self._sync(file)
            piece = self.pieces.take()
            if piece is None:
                file.flush()
                if self.pieces.wait():
                    continue
                return
            at, length = piece
            self.remote.publisher.throttle.admit(length, file.flush)
            data = os.pread(self.source, length, at)
            if len(data) != length:
                raise PublishError("the local file", "was cut short while it was sent")
            file.write(at, data, partial(self.pieces.acknowledged, at))

    def _sync(self, file: RemoteFile) -> None:
        """Have the server put the file on its disk, and note how far it is safe there."""
        whole = self.pieces.whole()  # before: what is acknowledged meanwhile may not be on it
        file.sync()
        if self.notes:
            known = Part(self.part, self.item.size, self.item.sha256, synced=whole)
            self.remote.parts.put(self.item.path, known)


class _Pieces:
    """Hands out the pieces of a file in order, and knows how far it is whole; all in bytes."""

    def __init__(self, begin: int, size: int, progress: Progress) -> None:
        self._next = self._synced = begin
        self._size = size
        self._progress = progress
        self._under_way: dict[int, int] = {}  # in order of their offsets
        self._change = threading.Condition()
        self.error: BaseException | None = None  # what failed first

    def take(self) -> tuple[int, int] | None:
        """Return (offset, length) of the next piece, or None if there is none just now."""
        with self._change:
            if self.error or self._next >= self._size or self._is_far_ahead():
                return None
            at, length = self._next, min(PIECE, self._size - self._next)
            self._next += length
            self._under_way[at] = length
            return at, length

    def to_be_synced(self) -> bool:
        """Say whether so much was sent that one connection should have it put on the disk."""
        with self._change:
            due = self._next - self._synced > SYNC_EVERY
            if due:
                self._synced = self._next
            return due

    def whole(self) -> int:
        """Return how many bytes from the begin of the file the server has without a gap."""
        with self._change:
            return next(iter(self._under_way), self._next)

    def acknowledged(self, at: int, count: int) -> None:
        """Note that the server has ``count`` more bytes of the piece at ``at``."""
        with self._change:
            self._under_way[at] -= count
            if not self._under_way[at]:
                del self._under_way[at]
                self._change.notify_all()
        self._progress(count)

    def wait(self) -> bool:
        """Wait until there may be a piece again; False when there will be none."""
        with self._change:
            self._change.wait_for(
                lambda: self.error or self._next >= self._size or not self._is_far_ahead()
            )
            return self.error is None and self._next < self._size

    def stop(self, error: BaseException) -> None:
        """Hand out nothing more: something failed."""
        with self._change:
            self.error = self.error or error
            self._change.notify_all()

    def _is_far_ahead(self) -> bool:
        return self._next - next(iter(self._under_way), self._next) >= AHEAD
