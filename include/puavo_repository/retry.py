"""A step that is done again where a retry may help."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from puavo_repository.errors import LockedError, TransientError, as_storage_error

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

ATTEMPTS = 5
FIRST_DELAY = 2.0  # seconds before the second attempt; each later one waits twice as long
PAUSE = 5.0  # seconds between two looks for a lock


def with_retries(step: Callable[[], Result], *, stop: threading.Event | None = None) -> Result:
    """Do a step that can be done again at any time; the last attempt raises its error.

    Once ``stop`` is set there is no further attempt, and no more waiting for one.
    """
    stop, attempt, delay = stop or threading.Event(), 1, FIRST_DELAY
    while True:
        try:
            with as_storage_error("a local file"):
                return step()
        except LockedError:
            raise  # whoever has the lock keeps it for longer than this waits
        except TransientError as error:
            if attempt == ATTEMPTS or stop.is_set():
                raise
            logger.warning("%s; again in %.0f s", error, delay)
            if stop.wait(delay):
                raise
        attempt, delay = attempt + 1, 2 * delay


def when_free(step: Callable[[], Result], patience: float) -> Result:
    """Do a step, and wait for who has its lock, so many seconds at most.

    A step that lost its lock begins anew, too. A retry of Airflow waits longer, and counts from the
    clock of its machine, which may be ahead.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return step()
        except LockedError as error:
            if time.monotonic() > until:
                raise
            logger.warning("%s; again in %.0f s", error, PAUSE)
            time.sleep(PAUSE)
