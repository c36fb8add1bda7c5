"""Encoding: the commands of an rdiff, from copies and the target's bytes.

Literals go from one buffer to the other in compiled code. The blocks of a target are encoded
side by side; ``Joiner`` puts them together and makes one command of a copy that goes on across
blocks. The format's source: librsync, ``src/prototab.h`` (see ``formats.rdiff``).
"""

from __future__ import annotations

import numpy as np

from puavo_repository.compiled import Bytes, Numbers, array, inlined, kernel
from puavo_repository.delta.engine import Sink
from puavo_repository.formats.rdiff import END, MAGIC

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

    def end(self) -> None:
        """End the rdiff."""
        self._flush()
        self._sink(memoryview(END))

    def _flush(self) -> None:
        if self._length:
            size = put_copy(self._command, 0, self._position, self._length)
            self._sink(self._command.data[:size])
            self._length = 0


@inlined
def width_of(number: int) -> int:
    """Return which of 1, 2, 4, 8 bytes a number takes, counted from 0."""
    if number < 1 << 8:
        return 0
    if number < 1 << 16:
        return 1
    return 2 if number < 1 << 32 else 3


@inlined
def put_number(out: Bytes, at: int, number: int, width: int) -> int:
    """Write a number, most significant byte first; returns where the next byte goes."""
    for shift in range((8 << width) - 8, -1, -8):
        out[at] = (number >> shift) & 0xFF
        at += 1
    return at


@kernel
def put_copy(out: Bytes, at: int, position: int, length: int) -> int:
    """Write a COPY command; returns where the next byte goes."""
    wide, long = width_of(position), width_of(length)
    out[at] = _COPY + 4 * wide + long
    at = put_number(out, at + 1, position, wide)
    at = put_number(out, at, length, long)
    return at  # noqa: RET504 - typed, where a compiled function is not


@inlined
def put_literal(out: Bytes, at: int, data: Bytes, start: int, stop: int) -> int:
    """Write a LITERAL command of ``data[start:stop]``; returns where the next byte goes."""
    length = stop - start
    if length <= _SHORT_LITERAL:
        out[at] = length
        at += 1
    else:
        width = width_of(length)
        out[at] = _LITERAL + width
        at = put_number(out, at + 1, length, width)
    out[at : at + length] = data[start:stop]
    return at + length


@kernel
def encode(data: Bytes, start: int, stop: int, copies: Numbers, out: Bytes) -> int:
    """Encode ``data[start:stop]`` of a block to ``out`` (see ``out_size``); returns the length.

    ``copies`` are those within: rows of (position in ``data``, position in the source, length).
    """
    at = 0
    done = start
    for i in range(len(copies)):
        if done < copies[i, 0]:
            at = put_literal(out, at, data, done, copies[i, 0])
        at = put_copy(out, at, copies[i, 1], copies[i, 2])
        done = copies[i, 0] + copies[i, 2]
    if done < stop:
        at = put_literal(out, at, data, done, stop)
    return at
