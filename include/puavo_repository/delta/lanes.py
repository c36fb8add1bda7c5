"""Threads that work ahead by a few tasks: results come in order, memory stays bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Lanes:
    """Some threads for kernels that drop the GIL.

    Attributes:
        width: Number of threads. Of one ``map``, ``width + 1`` results at most are unread.
    """

    def __init__(self, pool: ThreadPoolExecutor, width: int) -> None:
        self._pool, self.width = pool, width

    @classmethod
    @contextmanager
    def open(cls, width: int) -> Iterator[Lanes]:
        """Start the threads; they end with the block."""
        with ThreadPoolExecutor(width, "delta") as pool:
            yield cls(pool, width)

    def map(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Iterate over the results, in order of the tasks."""
        running: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                running.append(self._pool.submit(work, task))
                if len(running) > self.width:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
