"""A step that is done again where a retry may help."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from puavo_repository.errors import LockedError, TransientError, as_storage_error

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

ATTEMPTS = 5
FIRST_DELAY = 2.0  # seconds before the second attempt; each later one waits twice as long


def with_retries(step: Callable[[], Result], *, stop: threading.Event | None = None) -> Result:
    """Do a step, again and again where a retry may help; the last attempt raises its error.

    Args:
        step: What to do; it can be done again at any time.
        stop: Ends the waiting: once it is set there is no further attempt.
    """
    stop = stop or threading.Event()
    for delay in (FIRST_DELAY * 2**number for number in range(ATTEMPTS - 1)):
        try:
            return _attempt(step)
        except LockedError:
            raise  # whoever has the lock keeps it for longer than this waits
        except TransientError as error:
            if stop.is_set():
                raise
            logger.warning("%s; again in %.0f s", error, delay)
            if stop.wait(delay):
                raise
    return _attempt(step)


def _attempt(step: Callable[[], Result]) -> Result:
    with as_storage_error("a local file"):
        return step()
