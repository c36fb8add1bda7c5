"""How far the work is: the one protocol to tell it, and log lines, few enough over hours."""

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_INTERVAL = 30.0  # seconds between two lines

Progress = Callable[[int], None]
"""Told how many bytes of work were done since the last call, now and then, from any thread. It
may raise to stop the work."""


def no_progress(_done: int) -> None:
    """No-op callback."""


class Watcher:
    """Is told what the work is on and how far; this one shows errors alone. From any thread."""

    def begin(self, name: str, total: int, files: int | None = None) -> Progress:  # noqa: ARG002
        """Begin a stage of so many files, or the transfer of one (``files`` is None), or again.

        ``total`` is in bytes, 0 where that is not known. Returns what is told of the bytes.
        """
        return no_progress

    def finish(self, stage: str) -> None:
        """Count one more file of a stage: it is done, or has failed."""

    def fail(self, error: str) -> None:
        """Tell an error when it happens: who ends a run of hours never sees its report."""
        logger.error("%s", error)


NO_WATCHER = Watcher()


class LoggedWatcher(Watcher):
    """Logs stages and transfers, where there is no terminal."""

    def begin(self, name: str, total: int, files: int | None = None) -> Progress:
        """Log the size of a stage."""
        if files is not None:
            logger.info("%s: %s, %s", name, count(files, "file"), format_bytes(total))
        return logged_progress(name, total)


def logged_progress(name: str, total: int = 0) -> Progress:
    """Return what counts bytes of work and logs them now and then; ``total`` is 0 if not known."""
    done, began = 0, time.monotonic()
    last, lock = began, threading.Lock()

    def tell(more: int) -> None:
        nonlocal done, last
        with lock:
            done += more
            now = time.monotonic()
            if now - last < _INTERVAL:
                return
            last = now
            rate, left = done / (now - began), total - done
        of_total = f" of {format_bytes(total)}" if total else ""
        line = f"{format_bytes(done)}{of_total}, {format_bytes(rate)}/s"
        if total and rate:
            line += f", about {left / rate:.0f} s left"
        logger.info("%s: %s", name, line)

    return tell


def format_bytes(count: float) -> str:
    """Render a number of bytes in the unit that suits it."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= 0.99995 * limit:  # not 1000.0 of the smaller one
            return f"{count / limit:.{2 if count < 10 * limit else 1}f} {unit}"
    return f"{count:.0f} B"


def count(number: int, thing: str) -> str:
    """Render so many of something."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
