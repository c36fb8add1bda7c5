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


def with_retries(
    step: Callable[[], Result],
    *,
    attempts: int | None = None,
    first_delay: float | None = None,
    stop: threading.Event | None = None,
) -> Result:
    """Do a step, again and again where a retry may help.

    Args:
        step: What to do; it can be done again at any time.
        attempts: How often at most; default ``ATTEMPTS``.
        first_delay: Seconds before the second attempt, default ``FIRST_DELAY``; each later
            one waits twice as long.
        stop: Ends the waiting: once it is set there is no further attempt.

    Raises:
        RepositoryError: What the last attempt raised; where a retry cannot help, the first.
    """
    stop = stop or threading.Event()
    attempts = ATTEMPTS if attempts is None else attempts
    delay = FIRST_DELAY if first_delay is None else first_delay
    for left in range(attempts - 1, -1, -1):
        try:
            with as_storage_error("a local file"):
                return step()
        except LockedError:
            raise  # whoever has the lock keeps it for longer than this waits
        except TransientError as error:
            if not left or stop.is_set():
                raise
            logger.warning("%s; again in %.0f s", error, delay)
            if stop.wait(delay):
                raise
            delay *= 2
    raise ValueError("a step needs at least one attempt")
