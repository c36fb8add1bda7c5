"""Many files onto a remote: small ones side by side, large ones one after another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial

from puavo_repository.errors import LockedError, PublishError, RepositoryError, TransientError
from puavo_repository.progress import format_bytes
from puavo_repository.publish.locked import LockedRemote
from puavo_repository.publish.plan import Transfer
from puavo_repository.publish.transfer import transfer
from puavo_repository.retry import with_retries

logger = logging.getLogger(__name__)

LARGE = 64 << 20  # bytes; such files go one after another, each over several connections
SAVE_EVERY = 30.0  # seconds between two journals, or more where it takes long to write one
_SAVE_SHARE = 20  # times as long as one takes to write


class Upload:
    """The files that one step brings to a remote; the journal is saved now and then."""

    def __init__(self, remote: LockedRemote) -> None:
        self._remote = remote
        self._report = remote.report  # told of each file that arrived, or why it did not
        self._stop = threading.Event()
        self._stopped_by: RepositoryError | None = None
        self._next_save = time.monotonic() + SAVE_EVERY

    def run(self, items: Sequence[Transfer]) -> None:
        """Bring all of them there; those that fail hold back no other.

        Raises:
            LockedError: The lock was lost: nothing more is sent.
        """
        large = [item for item in items if item.rdiff or item.size >= LARGE]
        try:
            self._side_by_side([item for item in items if not item.rdiff and item.size < LARGE])
            for item in large:
                self._note(item, partial(self._one, item))
        finally:
            self._stop.set()
        if items:
            self._remote.save()

    def _side_by_side(self, items: Sequence[Transfer]) -> None:
        pool = self._remote.pool
        workers = ThreadPoolExecutor(pool.limit, thread_name_prefix="transfer")
        try:
            futures = {workers.submit(self._one, item): item for item in items}
            for future in as_completed(futures):
                self._note(futures[future], future.result)
        except BaseException:
            # Ended from outside, or the lock is lost: what is under way ends with its connection.
            self._stop.set()
            pool.close()
            raise
        finally:
            workers.shutdown(cancel_futures=True)

    def _one(self, item: Transfer) -> tuple[bool, int | None]:
        if self._stopped_by is not None:
            raise PublishError(item.path, f"not tried: {self._stopped_by}")
        begun = time.monotonic()
        made, mtime = with_retries(partial(transfer, item, self._remote), stop=self._stop)
        rate = format_bytes(item.size / max(time.monotonic() - begun, 1e-3))
        how, size = "assembled" if made else "uploaded", format_bytes(item.size)
        logger.info("%s: %s, %s, %s/s", item.path, how, size, rate)
        return made, mtime

    def _note(self, item: Transfer, result: Callable[[], tuple[bool, int | None]]) -> None:
        try:
            made, mtime = result()
        except LockedError:
            raise
        except RepositoryError as error:
            self._fail(item, error)
            return
        if mtime is not None:
            self._remote.journal.placed(item.path, item.size, item.sha256, mtime)
        (self._report.assembled if made else self._report.uploaded)[item.path] = item.size
        begun = time.monotonic()
        if begun > self._next_save:
            self._remote.save()
            now = time.monotonic()
            self._next_save = now + max(SAVE_EVERY, _SAVE_SHARE * (now - begun))

    def _fail(self, item: Transfer, error: RepositoryError) -> None:
        why = self._report.failed[item.path] = str(error).removeprefix(f"{item.path}: ")
        self._remote.watcher.fail(f"{self._report.target}: {item.path}: {why}")
        self._report.transient |= isinstance(error, TransientError)
        if not isinstance(error, PublishError):
            self._stopped_by = error  # the server, not the file: the others would fail too
