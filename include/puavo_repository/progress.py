"""Who watches the work: log lines, one every half minute, so that a log stays short over hours."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

INTERVAL = 30.0  # seconds between two lines


class Watcher(Protocol):
    """Sees how the work goes on, from any thread."""

    def begin(self, stage: str, items: int, total: int) -> None:
        """A stage begins with so many files and bytes of work."""

    def advance(self, done: int) -> None:
        """So many more bytes are done."""

    def finish(self, name: str) -> None:
        """One file of the stage is done, or has failed."""


class Nobody:
    """A watcher that looks away."""

    def begin(self, stage: str, items: int, total: int) -> None:
        """Take no notice."""

    def advance(self, done: int) -> None:
        """Take no notice."""

    def finish(self, name: str) -> None:
        """Take no notice."""


class LoggedProgress:
    """Counts bytes of work and logs a line now and then.

    Args:
        name: What is worked on.
        total: Bytes of work in all; 0 where that is not known.
        clock: Seconds from any origin.
    """

    def __init__(
        self, name: str, total: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._total = total
        self._clock = clock
        self._done = 0
        self._started = self._last = clock()

    def __call__(self, done: int) -> None:
        """Take note of so many more bytes."""
        self._done += done
        now = self._clock()
        if now - self._last < INTERVAL:
            return
        self._last = now
        rate = self._done / (now - self._started)
        if self._total:
            logger.info(
                "%s: %.0f of %.0f MB, %.0f MB/s, about %.0f s left",
                self._name,
                self._done / 1e6,
                self._total / 1e6,
                rate / 1e6,
                (self._total - self._done) / rate if rate else 0,
            )
        else:
            logger.info("%s: %.0f MB, %.0f MB/s", self._name, self._done / 1e6, rate / 1e6)


TransferProgress = Callable[[str, int, int], None]
"""Told (path, bytes that the server has, bytes in all) now and then, from any thread."""


def no_transfer_progress(_path: str, _done: int, _size: int) -> None:
    """Take no notice."""


class TransferLog:
    """Progress of publishing as log lines, one every half minute a file."""

    def __init__(self) -> None:
        self._logs: dict[str, LoggedProgress] = {}
        self._done: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, path: str, done: int, size: int) -> None:
        """Take note of how much of a file is there."""
        with self._lock:
            if path not in self._logs:
                self._logs[path], self._done[path] = LoggedProgress(path, size), 0
            self._logs[path](done - self._done[path])
            self._done[path] = done


class LoggedWatcher:
    """Watches the work as log lines, where nobody looks on."""

    def __init__(self) -> None:
        self.transferred = TransferLog()
        self._progress = LoggedProgress("")
        self._lock = threading.Lock()

    def begin(self, stage: str, items: int, total: int) -> None:
        """Say what comes."""
        logger.info("%s: %d files, %.0f MB", stage, items, total / 1e6)
        self._progress = LoggedProgress(stage, total)

    def advance(self, done: int) -> None:
        """Say now and then how far it is."""
        with self._lock:
            self._progress(done)

    def finish(self, name: str) -> None:
        """Say nothing: the stage does."""
