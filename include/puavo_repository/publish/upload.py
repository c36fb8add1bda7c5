"""Many files onto a remote: small ones side by side, large ones one after another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from puavo_repository.errors import (
    LockedError,
    PublishError,
    RepositoryError,
    StorageError,
    TransientError,
)
from puavo_repository.progress import count, format_bytes
from puavo_repository.publish.plan import How, Transfer
from puavo_repository.publish.send import Uplink
from puavo_repository.publish.transfer import Transferred, transfer
from puavo_repository.retry import with_retries

logger = logging.getLogger(__name__)

LARGE = 64 << 20  # bytes; such files go one after another, each over several connections
SAVE_EVERY = 30.0  # seconds between two journals, or more where it takes long to write one
_NAMED = 10  # files that the error itself names; the others are in the log
_SAVE_SHARE = 20  # times as long as one takes to write


@dataclass
class Uploaded:
    """How it went.

    Attributes:
        failed: What could not be brought there, and why, by file.
        transient: Whether trying again later may help some of it.
    """

    failed: dict[str, str] = field(default_factory=dict)
    transient: bool = False

    def checked(self, target: str) -> None:
        """Raise if something failed at the remote ``target``; the rest is done.

        Raises:
            StorageError: Trying again later may help some of it.
            PublishError: It does not help.
        """
        if self.failed:
            kind = StorageError if self.transient else PublishError
            failed = [f"{path}: {why}" for path, why in self.failed.items()]
            for text in failed[_NAMED:]:
                logger.error("%s", text)
            problem = f"{count(len(failed), 'file')} could not be sent"
            raise kind(target, problem, found="; ".join(failed[:_NAMED]))


class Upload:
    """The files that one step brings to a remote.

    Args:
        mirror_dir: The local mirror.
        uplink: The remote; its journal is brought up to date and saved now and then.
        arrived: Called with each file that arrived.
    """

    def __init__(
        self, mirror_dir: Path, uplink: Uplink, arrived: Callable[[Transferred], object]
    ) -> None:
        self._mirror_dir = mirror_dir
        self._remote = uplink.remote
        self._uplink = uplink
        self._arrived = arrived
        self._result = Uploaded()
        self._stop = threading.Event()
        self._stopped_by: RepositoryError | None = None
        self._next_save = time.monotonic() + SAVE_EVERY

    def run(self, items: Sequence[Transfer]) -> Uploaded:
        """Bring all of them there; one that fails does not hold back the others.

        Raises:
            LockedError: The lock was lost: nothing more is sent.
        """
        small = [item for item in items if item.how is How.UPLOADED and item.size < LARGE]
        others = {item.path for item in small}
        try:
            self._side_by_side(small)
            for item in items:
                if item.path not in others:
                    self._note(item, partial(self._one, item))
        finally:
            self._stop.set()
        if items:
            self._remote.save()
        return self._result

    def _side_by_side(self, items: Sequence[Transfer]) -> None:
        workers = ThreadPoolExecutor(self._uplink.pool.limit, thread_name_prefix="transfer")
        try:
            futures = {workers.submit(self._one, item): item for item in items}
            for future in as_completed(futures):
                self._note(futures[future], future.result)
        except BaseException:
            # Ended from outside, or the lock is lost: what is under way ends with its connection.
            self._stop.set()
            self._uplink.pool.close()
            raise
        finally:
            workers.shutdown(cancel_futures=True)

    def _one(self, item: Transfer) -> Transferred:
        if self._stopped_by is not None:
            raise PublishError(item.path, f"not tried: {self._stopped_by}")
        begun = time.monotonic()
        attempt = partial(transfer, item, self._mirror_dir, self._uplink)
        done = with_retries(attempt, stop=self._stop)
        rate = format_bytes(item.size / max(time.monotonic() - begun, 1e-3))
        size = format_bytes(item.size)
        logger.info("%s: %s, %s, %s/s", item.path, done.how.value, size, rate)
        return done

    def _note(self, item: Transfer, result: Callable[[], Transferred]) -> None:
        try:
            done = result()
        except LockedError:
            raise
        except RepositoryError as error:
            self._failed(item, error)
            return
        if done.mtime is not None:
            self._remote.journal.placed(item.path, item.size, item.sha256, done.mtime)
        self._arrived(done)
        if time.monotonic() > self._next_save:
            begun = time.monotonic()
            self._remote.save()
            now = time.monotonic()
            self._next_save = now + max(SAVE_EVERY, _SAVE_SHARE * (now - begun))

    def _failed(self, item: Transfer, error: RepositoryError) -> None:
        self._result.failed[item.path] = str(error).removeprefix(f"{item.path}: ")
        self._result.transient |= isinstance(error, TransientError)
        if not isinstance(error, PublishError):
            self._stopped_by = error  # the server, not the file: the others would fail too
