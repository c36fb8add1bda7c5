"""What an earlier rdiff says of a target: segments that need not be searched again.

The engine makes the same commands of the same segment, whichever target it lies in. So where the
rdiff to another image exists (``Between.first``), and a second one shows by its copies which of
that image's segments the target has as well, their commands are taken from the first, as bytes.

A copy in an rdiff may reach over many segments: of one that reaches over the border of a run the
part within is taken.
"""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from puavo_repository.compiled import Numbers
from puavo_repository.delta.anchors import BLOCK
from puavo_repository.delta.engine import Between
from puavo_repository.errors import DeltaError
from puavo_repository.formats.rdiff import (
    BEGIN,
    COLUMNS,
    COPY,
    END_AT,
    KIND,
    LENGTH,
    POSITION,
    TARGET,
    command_blocks,
)


class Run(NamedTuple):
    """Segments of a target, one after the other, whose commands are known."""

    first: int  # number of its first segment
    stop: int  # and of the first one behind it
    size: int  # bytes of the target
    parts: list[range | tuple[int, int]]  # bytes of the earlier rdiff, and copies


def runs(between: Between, other: Numbers, borders: Numbers) -> list[Run]:
    """Return the runs of a target with these ``borders``; ``other`` are those between.

    Raises:
        DeltaError, StorageError: An rdiff is damaged, or cannot be read.
    """
    if not len(borders) or not len(other):
        return []
    same = _same(between.second, other, borders)
    edges = [0, *(np.flatnonzero(np.diff(same) != 1) + 1).tolist(), len(same)]
    kept = [(first, stop) for first, stop in pairwise(edges) if same[first] >= 0]
    starts = np.concatenate([[0], other[:-1]])
    ends = [(int(starts[same[first]]), int(other[same[stop - 1]])) for first, stop in kept]
    positions = np.unique(np.array([(start, end - 1) for start, end in ends], np.int64))
    found = _commands_at(between.first, positions)
    if len(found) < len(positions):
        raise DeltaError(between.first, "this rdiff is too short for the image that it gives")
    commands = dict(zip(positions.tolist(), found, strict=True))
    return [
        Run(first, stop, end - start, _parts(commands[start], commands[end - 1], start, end))
        for (first, stop), (start, end) in zip(kept, ends, strict=True)
    ]


def _same(rdiff: Path, other: Numbers, borders: Numbers) -> Numbers:
    """Return for each segment which one of the other image it is, as a copy shows; else -1 less.

    Numbers of segments that are none of them fall, so that no two of them follow each other.
    """
    starts, theirs = (np.concatenate([[0], ends[:-1]]) for ends in (borders, other))
    least = int((borders - starts).min())
    copies = np.concatenate(
        [
            block[(block[:, KIND] == COPY) & (block[:, LENGTH] >= least)]
            for block in command_blocks(rdiff)
        ]
    )
    at = np.searchsorted(copies[:, TARGET], starts, "right") - 1
    found = (
        copies[np.maximum(at, 0)]
        if len(copies)
        else np.zeros((len(starts), len(COLUMNS)), np.int64)
    )
    offset = starts - found[:, TARGET]
    place = found[:, POSITION] + offset
    number = np.minimum(np.searchsorted(theirs, place), len(other) - 1)
    same = (at >= 0) & (borders <= found[:, TARGET] + found[:, LENGTH])
    same &= (theirs[number] == place) & (other[number] == place + borders - starts)
    return np.where(same, number, -2 - 2 * np.arange(len(starts)))


def _commands_at(rdiff: Path, positions: Numbers) -> Numbers:
    """Return the commands that give the bytes of the target at some positions, ascending."""
    found, done = [np.empty((0, len(COLUMNS)), np.int64)], 0
    for block in command_blocks(rdiff):
        if len(block):
            until = int(np.searchsorted(positions, block[-1, TARGET] + block[-1, LENGTH]))
            at = np.searchsorted(block[:, TARGET], positions[done:until], "right") - 1
            found.append(block[at])
            done = until
    return np.concatenate(found)


def _parts(head: Numbers, tail: Numbers, start: int, end: int) -> list[range | tuple[int, int]]:
    """Return what gives the bytes from ``start`` to ``end``, by their first and last command."""
    before: list[range | tuple[int, int]] = []
    after: list[range | tuple[int, int]] = []
    begin, stop = int(head[BEGIN]), int(tail[END_AT])
    if head[KIND] == COPY:
        skipped = start - int(head[TARGET])
        length = min(int(head[LENGTH]) - skipped, end - start)
        before, begin = [(int(head[POSITION]) + skipped, length)], int(head[END_AT])
    if tail[KIND] == COPY:
        stop = int(tail[BEGIN])
        if tail[TARGET] > head[TARGET]:
            after = [(int(tail[POSITION]), end - int(tail[TARGET]))]
    between = [range(at, min(at + BLOCK, stop)) for at in range(begin, stop, BLOCK)]
    return [*before, *between, *after]
