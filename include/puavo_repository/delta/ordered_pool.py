"""Threads that work ahead by a few tasks: results come in order, memory stays bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class OrderedPool(ThreadPoolExecutor):
    """Some threads for kernels that drop the GIL; they end with the block.

    Attributes:
        width: Number of threads. Of one ``in_order``, ``width + 1`` results at most are unread.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, "delta")
        self.width = width

    def in_order(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Iterate over the results, in order of the tasks."""
        running: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                running.append(self.submit(work, task))
                if len(running) > self.width:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
