"""Encoding: the commands of an rdiff, from copies and the target's bytes.

Literals go from one buffer to the other in compiled code. The blocks of a target are encoded
side by side; ``Joiner`` puts them together and makes one command of a copy that goes on across
blocks. The format's source: librsync, ``src/prototab.h`` (see ``formats.rdiff``).
"""

from __future__ import annotations

import numpy as np

from puavo_repository.compiled import Bytes, Numbers, Word, array, inlined, kernel
from puavo_repository.delta.engine import Sink
from puavo_repository.formats.rdiff import MAGIC

_LONGEST_COPY, _LONGEST_HEAD = 17, 9  # bytes of the longest commands, literals without theirs
_SHORT_LITERAL, _LITERAL, _COPY = 0x40, 0x41, 0x45


def out_size(size: int, copies: int) -> int:
    """Return how long ``encode``'s output is at most, for so many bytes and copies."""
    return size + copies * _LONGEST_COPY + (copies + 1) * _LONGEST_HEAD


class Joiner:
    """Joins the encoded blocks of a target, in order, to one rdiff."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._position = self._length = 0  # the copy that may go on
        self._command = array(_LONGEST_COPY, np.uint8)
        sink(memoryview(MAGIC))

    def copy(self, position: int, length: int) -> None:
        """Take a copy, of the block's begin or end; one of no bytes is none."""
        if self._length and self._position + self._length == position:
            self._length += length
        elif length:
            self._flush()
            self._position, self._length = position, length

    def commands(self, encoded: memoryview) -> None:
        """Take encoded commands."""
        if encoded:
            self._flush()
            self._sink(encoded)

    def _flush(self) -> None:
        if self._length:
            size = put_copy(self._command, 0, self._position, self._length)
            self._sink(self._command.data[:size])
            self._length = 0


@inlined
def put_number(out: Bytes, at: int, number: int) -> tuple[int, int]:
    """Write a number, most significant byte first, in as few of 1, 2, 4 or 8 bytes as hold it.

    Returns which of these, counted from 0, and where the next byte goes.
    """
    width = 0 if number < 1 << 8 else 1 if number < 1 << 16 else 2 if number < 1 << 32 else 3
    for shift in range((8 << width) - 8, -1, -8):
        out[at] = (number >> shift) & 0xFF
        at += 1
    return width, at


@kernel
def put_copy(out: Bytes, at: int, position: int, length: int) -> Word:
    """Write a COPY command; returns where the next byte goes."""
    wide, end = put_number(out, at + 1, position)
    long, end = put_number(out, end, length)
    out[at] = _COPY + 4 * wide + long
    return end


@kernel
def encode(data: Bytes, start: int, stop: int, copies: Numbers, out: Bytes) -> int:
    """Encode ``data[start:stop]`` of a block to ``out`` (see ``out_size``); returns the length.

    ``copies`` are those within: rows of (position in ``data``, position in the source, length).
    """
    at = 0
    for i in range(len(copies) + 1):
        until = copies[i, 0] if i < len(copies) else stop
        length = until - start
        if length > _SHORT_LITERAL:
            width, end = put_number(out, at + 1, length)
            out[at] = _LITERAL + width
            at = end
        elif length > 0:
            out[at] = length
            at += 1
        if length > 0:
            out[at : at + length] = data[start:until]
            at += length
        if i < len(copies):
            at = put_copy(out, at, copies[i, 1], copies[i, 2])
            start = until + copies[i, 2]
    return at
