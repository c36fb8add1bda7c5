"""What the checks of an audit have in common: turns, work side by side, one that fails whole."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from puavo_repository.audit.report import Checked, Counts, Finding
from puavo_repository.errors import RepositoryError, storage_error
from puavo_repository.formats.metadata import DescribedFile

T = TypeVar("T")
R = TypeVar("R")

DAY = 24 * 3600.0  # seconds
FEW = 1 << 30  # bytes that are always looked at in full: it costs little
DIGEST_THREADS = 2  # cores that the digests of one file, or one proof, keep busy


def is_due(path: str, turn: int, share: float) -> bool:
    """Say whether it is a file's turn to be read in full.

    With ``rounds`` = 1/share, rounded up, any so many audits in a row read every file, whatever
    was added or removed between them: a file's turn depends on its own name alone.

    Args:
        path: The file, as metadata names it.
        turn: Counts the audits.
        share: The share of all files that one audit reads; 1 for all of them, 0 for none.
    """
    if share <= 0:
        return False
    rounds = math.ceil(1 / share)
    place = int.from_bytes(hashlib.sha256(path.encode("utf-8", "replace")).digest()[:8], "big")
    return place % rounds == turn % rounds


def due(files: Collection[DescribedFile], turn: int, share: float) -> set[str]:
    """Return the paths of the files whose turn it is; of a small mirror, of all.

    Args:
        files: All of them.
        turn: Counts the audits.
        share: As for ``is_due``.
    """
    if share > 0 and sum(file.size for file in files) <= FEW:
        share = 1
    return {file.path for file in files if is_due(file.path, turn, share)}


def attempted(where: str, check: Callable[[], Checked]) -> Checked:
    """Make a check; what keeps it from being made is a finding."""
    try:
        return check()
    except RepositoryError as error:
        return Checked(where, findings=(Finding.of(where, error),))
    except OSError as error:
        return Checked(where, findings=(Finding.of(where, storage_error(where, error)),))


def side_by_side(step: Callable[[T], R], work: Iterable[T], workers: int) -> list[R]:
    """Do a step for each item, several at a time; return the results in the order of the items.

    An error ends it: what has not begun by then is not done.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="audit")
    try:
        futures = [pool.submit(step, item) for item in work]
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Tally:
    """Counts from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = Counts()

    def add(self, more: Counts) -> None:
        """Take note of what was looked at."""
        with self._lock:
            self._counts += more

    @property
    def counts(self) -> Counts:
        """All of it."""
        with self._lock:
            return self._counts
