"""The commands of an rdiff, read and written: a librsync delta file.

Source of the format: librsync, ``src/prototab.h`` and ``src/command.c``. The magic
``72 73 02 36``, then commands of one byte with big-endian parameters: 0x00 END; 0x01 to 0x40
a literal of that many bytes; 0x41 to 0x44 a literal with its length in 1, 2, 4 or 8 bytes;
0x45 to 0x54 a copy, position and length in 1, 2, 4 or 8 bytes each.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from puavo_repository.compiled import Bytes, Numbers, Word, array, inlined, kernel
from puavo_repository.errors import DeltaError, as_storage_error

MAGIC = bytes.fromhex("72730236")
END = b"\x00"

COPY, LITERAL = 1, 0  # kinds of commands
# Columns of commands: kind; position of a copy in the source, or of a literal's bytes in the rdiff;
# length in bytes; position in the target; where the command begins and ends in the rdiff.
KIND, POSITION, LENGTH, TARGET, BEGIN, END_AT = COLUMNS = range(6)
_WINDOW = 1 << 20  # bytes of an rdiff that are read at a time
_LONGEST_SHORT, _FIRST_LITERAL, _FIRST_COPY, _RESERVED = 0x40, 0x41, 0x45, 0x55
_LONGEST_COPY, _LONGEST_HEAD = 17, 9  # bytes of the longest commands, literals without theirs
_LARGEST = 1 << 62  # bytes; the sum of two such numbers fits as well
_GOES_ON, _ENDED, _UNKNOWN, _EMPTY, _HUGE = range(5)
_PROBLEMS = {
    _UNKNOWN: "it holds an unknown command",
    _EMPTY: "it holds a command of length zero, which old clients refuse",
    _HUGE: "it holds a number that no file can have",
}


class Command(NamedTuple):
    """Bytes of the source, or literal ones of the rdiff itself."""

    is_copy: bool
    position: int
    length: int


def commands(path: Path) -> Iterator[Command]:
    """Iterate over the commands of an rdiff one by one, as ``command_blocks`` does."""
    for block in command_blocks(path):
        for kind, position, length in block[:, :TARGET].tolist():
            yield Command(kind == COPY, position, length)


def command_blocks(path: Path) -> Iterator[Numbers]:
    """Iterate over the commands of an rdiff, many at a time, in order of the target's bytes.

    Each is a row with the columns above. Bounded memory: a block has at most half a million
    commands. Literals are not read.

    Raises:
        DeltaError: It is no rdiff, is truncated, holds a command that clients cannot read
            (an unknown one, or one of length zero), or something follows its end.
    """
    data = array(_WINDOW, np.uint8)
    rows = array((_WINDOW // 2, len(COLUMNS)), np.int64)  # a command takes two bytes at least
    with as_storage_error(path), path.open("rb", buffering=0) as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise DeltaError(path, "this is not an rdiff", expected=MAGIC.hex(" "))
        at, target, status = len(MAGIC), 0, _GOES_ON
        while status == _GOES_ON:
            length = os.preadv(stream.fileno(), [data.data], at)
            count, used, status = parse(data, length, at, target, rows)
            if not used and status == _GOES_ON:
                raise DeltaError(path, "this rdiff is truncated", found=f"its end at byte {at}")
            yield rows[:count].copy()
            at += used
            target = int(rows[count - 1, TARGET] + rows[count - 1, LENGTH]) if count else target
        if status != _ENDED:
            raise DeltaError(path, _PROBLEMS[status], found=f"at byte {at}")
        if at < os.fstat(stream.fileno()).st_size:
            raise DeltaError(path, "something follows after the end of this rdiff")


@inlined
def number(data: Bytes, at: int, width: int) -> Word:
    """Return the number of so many bytes, the most significant first."""
    value: Word = 0
    for i in range(at, at + width):
        value = (value << 8) | np.int64(data[i])
    return value


@kernel
def parse(
    data: Bytes, length: int, position: int, target: int, rows: Numbers
) -> tuple[int, int, int]:
    """Parse into rows the commands whose heads lie wholly in a window of an rdiff.

    The window has ``length`` bytes and begins at ``position`` of the rdiff, and the commands in
    it at ``target`` of the target. Returns the number of commands,
    the bytes used (the last literal may end far behind the window), and how it goes on.
    """
    count = at = 0
    while at < length:
        code: Word = np.int64(data[at])
        if code == 0:
            return count, at + 1, _ENDED
        if code >= _RESERVED:
            return count, at, _UNKNOWN
        first = second = 0  # widths of the parameters
        if code >= _FIRST_COPY:
            first, second = 1 << ((code - _FIRST_COPY) >> 2), 1 << ((code - _FIRST_COPY) & 3)
        elif code >= _FIRST_LITERAL:
            second = 1 << (code - _FIRST_LITERAL)
        head = 1 + first + second
        if at + head > length:
            break
        start: Word = number(data, at + 1, first) if first else position + at + head
        size: Word = number(data, at + 1 + first, second) if second else code
        if size == 0:
            return count, at, _EMPTY
        if not (0 <= start < _LARGEST and 0 <= size < _LARGEST):
            return count, at, _HUGE
        rows[count, 0], rows[count, 1], rows[count, 2] = COPY if first else LITERAL, start, size
        rows[count, 3], rows[count, 4] = target, position + at
        count, target = count + 1, target + size
        at += head if first else head + size
        rows[count - 1, 5] = position + at
    return count, at, _GOES_ON


Part = tuple[int, int] | memoryview
"""Of a target: a copy, as position and length, or commands that ``encode`` wrote."""


def joined(parts: Iterable[Part]) -> Iterator[memoryview]:
    """Join the parts of a target, in order, to an rdiff; copies that follow each other to one."""
    command = array(_LONGEST_COPY, np.uint8)
    position = length = 0  # the copy that may go on
    yield memoryview(MAGIC)
    for part in chain(parts, [memoryview(END)]):
        if isinstance(part, tuple) and length and part[0] == position + length:
            length += part[1]
            continue
        if length:
            yield command.data[: put_copy(command, 0, position, length)]
            length = 0
        if isinstance(part, tuple):
            position, length = part
        else:
            yield part


def out_size(size: int, copies: int) -> int:
    """Return how long ``encode``'s output is at most, for so many bytes and copies."""
    return size + copies * _LONGEST_COPY + (copies + 1) * _LONGEST_HEAD


@kernel
def encode(data: Bytes, start: int, stop: int, copies: Numbers, out: Bytes) -> int:
    """Encode ``data[start:stop]`` of a block to ``out`` (see ``out_size``); returns the length.

    ``copies`` are those within: rows of (position in ``data``, position in the source, length).
    One of no length only ends a literal.
    """
    at = 0
    for i in range(len(copies) + 1):
        until = copies[i, 0] if i < len(copies) else stop
        length = until - start
        if length > _LONGEST_SHORT:
            width, end = put_number(out, at + 1, length)
            out[at] = _FIRST_LITERAL + width
            at = end
        elif length > 0:
            out[at] = length
            at += 1
        if length > 0:
            out[at : at + length] = data[start:until]
            at += length
        if i < len(copies):
            if copies[i, 2] > 0:
                at = put_copy(out, at, copies[i, 1], copies[i, 2])
            start = until + copies[i, 2]
    return at


@kernel
def put_copy(out: Bytes, at: int, position: int, length: int) -> Word:
    """Write a COPY command; returns where the next byte goes."""
    wide, end = put_number(out, at + 1, position)
    long, end = put_number(out, end, length)
    out[at] = _FIRST_COPY + 4 * wide + long
    return end


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
