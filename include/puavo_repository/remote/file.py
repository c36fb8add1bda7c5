"""The contract of an open file on a remote."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from puavo_repository.errors import RepositoryError


@dataclass(frozen=True, slots=True)
class Range:
    """``length`` bytes at ``offset``."""

    offset: int
    length: int


Data = bytes | memoryview
Acknowledge = Callable[[int], None]
"""Called with the number of bytes that the server has acknowledged since the last call."""


def no_callback(_count: int) -> None:
    """No-op callback."""


class RemoteFile(ABC):
    """An open file. Writes and copies may be under way until ``flush`` returns.

    As a context manager it is flushed and closed at the end of the block.
    """

    @abstractmethod
    def read(self, ranges: Iterable[Range]) -> Iterator[bytes]:
        """Read ranges, in order; a range beyond the end comes back short."""

    @abstractmethod
    def write(self, offset: int, data: Data, acknowledge: Acknowledge = no_callback) -> None:
        """Write ``data`` at ``offset``."""

    @abstractmethod
    def copy(self, source: Self, taken: Range, offset: int, acknowledge: Acknowledge) -> None:
        """Have the server copy a range of ``source`` to ``offset`` here."""

    @abstractmethod
    def flush(self) -> None:
        """Wait until everything written and copied is acknowledged."""

    @abstractmethod
    def sync(self) -> None:
        """Flush, and have the server put the file on its disk where it can."""

    @abstractmethod
    def close(self) -> None:
        """Give the file back to the server."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            with contextlib.suppress(RepositoryError):  # the first error is the one that counts
                self.close()
            return
        try:
            self.flush()
        finally:
            self.close()
