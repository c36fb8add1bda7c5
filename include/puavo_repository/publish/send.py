"""A file's bytes onto the remote, over as many connections as are worth their while.

Pieces are handed out in order and never more than ``AHEAD`` bytes beyond the first one that the
server has not acknowledged. Now and then the server is asked to put the file on its disk: what was
acknowledged before that is safe, and it is noted how far that goes (``parts``). So a run that ends
anywhere is gone on with from there.
"""

import logging
import os
import threading
from functools import partial

from puavo_repository.errors import PublishError, RepositoryError
from puavo_repository.publish.plan import Transfer
from puavo_repository.publish.publisher import LockedRemote
from puavo_repository.remote.journal import Part
from puavo_repository.remote.tree import OpenMode, RemoteFile, RemoteTree

logger = logging.getLogger(__name__)

PIECE = 4 * (255 << 10)  # bytes handed out at once: four of the largest SFTP writes
AHEAD = 48 << 20  # bytes: twice what eight connections have under way
SYNC_EVERY = 64 << 20  # bytes of a file
LONG_TRIP = 0.005  # seconds of round trip from which one connection cannot fill the line
SEVERAL = 16 << 20  # bytes from which a file is worth several connections


def send(tree: RemoteTree, item: Transfer, begin: int, remote: LockedRemote) -> None:
    """Send a file's bytes from ``begin`` to its part and have the server put them on its disk."""
    local, part = remote.publisher.mirror_dir / item.path, item.part(remote.lock.token)
    mode = OpenMode.CHANGE if begin else OpenMode.CREATE
    with local.open("rb", buffering=0) as source, tree.open(part, mode) as file:
        sending = _Sending(item, begin, source.fileno(), remote, notes=tree.can_sync)
        # OpenSSH lets 2 MiB a connection be on their way, so a long round trip needs several. On a
        # short one others send while one waits for the server's disk.
        most = remote.publisher.pool.limit
        most = most if tree.round_trip > LONG_TRIP else min(3, most)
        count = most if item.size - begin >= SEVERAL else 1
        helpers = [threading.Thread(target=sending.help, daemon=True) for _ in range(count - 1)]
        for helper in helpers:
            helper.start()
        try:
            sending.send(file)
        except BaseException as error:
            sending.stop(error)
            raise
        finally:
            for helper in helpers:
                helper.join()
        if sending.error is not None:  # on any connection
            raise sending.error
        file.sync()


class _Sending:
    """The pieces of one file, sent over as many connections as ask for some; all in bytes."""

    def __init__(
        self, item: Transfer, begin: int, source: int, remote: LockedRemote, *, notes: bool
    ) -> None:
        self.error: BaseException | None = None  # what failed first
        self._item = item
        self._part = item.part(remote.lock.token)
        self._source = source  # its descriptor here
        self._remote = remote
        self._notes = notes  # whether it is noted how far the file is on the server's disk
        self._progress = remote.publisher.watcher.begin(item.path, item.size)
        self._progress(begin)
        self._next = self._synced = begin
        self._syncing = False  # one connection waits for the disk at a time, the others send
        self._under_way: dict[int, int] = {}  # by offset, in their order
        self._change = threading.Condition()

    def help(self) -> None:
        """Send pieces over a connection from the pool; without one the others send them."""
        pool = self._remote.publisher.pool
        try:
            tree = pool.take()
        except RepositoryError as error:
            logger.info("one connection fewer: %s", error)
            return
        try:
            with tree.open(self._part, OpenMode.CHANGE) as file:
                self.send(file)
        except BaseException as error:  # noqa: BLE001 - raised again where the others are awaited
            self.stop(error)
            tree.close()
        else:
            pool.give(tree)

    def send(self, file: RemoteFile) -> None:
        """Send pieces until none is left; returns when all that were sent are acknowledged."""
        while True:
            with self._change:
                due = not self._syncing and self._next - self._synced > SYNC_EVERY
                self._syncing = self._syncing or due
            if due:
                self._sync(file)
            piece = self._take()
            if piece is not None:
                at, length = piece
                self._remote.publisher.throttle.admit(length, file.flush)
                data = os.pread(self._source, length, at)
                if len(data) != length:
                    raise PublishError("the local file", "was cut short while it was sent")
                file.write(at, data, partial(self._acknowledged, at))
                continue
            file.flush()
            with self._change:
                self._change.wait_for(lambda: self._is_over() or not self._is_far_ahead())
                if self._is_over():
                    return

    def stop(self, error: BaseException) -> None:
        """Hand out nothing more: something failed."""
        with self._change:
            self.error = self.error or error
            self._change.notify_all()

    def _take(self) -> tuple[int, int] | None:
        """Return (offset, length) of the next piece, or None if there is none just now."""
        with self._change:
            if self._is_over() or self._is_far_ahead():
                return None
            at, length = self._next, min(PIECE, self._item.size - self._next)
            self._next += length
            self._under_way[at] = length
            return at, length

    def _sync(self, file: RemoteFile) -> None:
        """Have the server put the file on its disk, and note how far it is safe there."""
        whole = self._whole()  # before: what is acknowledged meanwhile may not be on it
        file.sync()
        if self._notes:
            known = Part(self._part, self._item.sha256, synced=whole)
            self._remote.parts.put(self._item.path, known)
        with self._change:
            self._synced, self._syncing = whole, False

    def _acknowledged(self, at: int, count: int) -> None:
        """Note that the server has ``count`` more bytes of the piece at ``at``."""
        with self._change:
            self._under_way[at] -= count
            if not self._under_way[at]:
                del self._under_way[at]
                self._change.notify_all()
        self._progress(count)

    def _whole(self) -> int:
        """Return how many bytes from the begin of the file the server has without a gap."""
        with self._change:
            return next(iter(self._under_way), self._next)

    def _is_over(self) -> bool:
        return self.error is not None or self._next >= self._item.size

    def _is_far_ahead(self) -> bool:
        return self._next - self._whole() >= AHEAD
