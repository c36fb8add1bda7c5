"""The commands of an rdiff: a librsync delta file.

Source of the format: librsync, ``src/prototab.h`` and ``src/command.c``. The magic
``72 73 02 36``, then commands of one byte with big-endian parameters: 0x00 END; 0x01 to 0x40
a literal of that many bytes; 0x41 to 0x44 a literal with its length in 1, 2, 4 or 8 bytes;
0x45 to 0x54 a copy, position and length in 1, 2, 4 or 8 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from puavo_repository.errors import DeltaError, storage_error

MAGIC = bytes.fromhex("72730236")
END = b"\x00"
_SHORT_LITERAL, _LITERAL, _COPY, _RESERVED = 0x01, 0x41, 0x45, 0x55
_WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Copy:
    """Bytes of the source: ``length`` bytes from ``position``."""

    position: int
    length: int


@dataclass(frozen=True)
class Literal:
    """Bytes of the rdiff itself: ``length`` bytes from ``position``."""

    position: int
    length: int


def commands(path: Path) -> Iterator[Copy | Literal]:
    """Iterate over the commands of an rdiff, in order of the target's bytes.

    Raises:
        DeltaError: It is no rdiff, is truncated, holds a command that clients cannot read
            (an unknown one, or one of length zero), or something follows its end.
    """
    try:
        with path.open("rb", buffering=1 << 20) as stream:
            yield from _Reader(path, stream).commands()
    except OSError as error:
        raise storage_error(path, error) from error


def check_commands(path: Path) -> None:
    """Read all commands of an rdiff; raises what ``commands`` raises."""
    for _ in commands(path):
        pass


class _Reader:
    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream = path, stream

    def commands(self) -> Iterator[Copy | Literal]:
        if self._stream.read(len(MAGIC)) != MAGIC:
            raise DeltaError(self._path, "this is not an rdiff", expected=MAGIC.hex(" "))
        while code := self._number(1):
            if code >= _RESERVED:
                raise DeltaError(self._path, f"an unknown command, {code:#04x}")
            if code >= _COPY:
                position = self._number(_WIDTHS[(code - _COPY) // 4])
                length = self._number(_WIDTHS[(code - _COPY) % 4])
                yield Copy(position, self._nonzero(length))
            else:
                length = code if code < _LITERAL else self._number(_WIDTHS[code - _LITERAL])
                yield Literal(self._stream.tell(), self._nonzero(length))
                self._stream.seek(length, 1)
        if self._stream.read(1):
            raise DeltaError(self._path, "something follows after the end of this rdiff")

    def _number(self, width: int) -> int:
        data = self._stream.read(width)
        if len(data) < width:
            raise DeltaError(self._path, "this rdiff is truncated")
        return int.from_bytes(data, "big")

    def _nonzero(self, length: int) -> int:
        if not length:
            raise DeltaError(self._path, "a command of length zero, which old clients refuse")
        return length
