"""Anchors: positions of an image that its content chooses, so equal content has equal anchors.

A position is an anchor when a hash of the 8 bytes there is below a threshold, which makes one in
``spacing`` bytes; its key is a hash of the ``KEY`` bytes there. That is content-defined chunking
(Muthitacharoen et al., "A low-bandwidth network file system", 2001), but the hash has no state
that rolls from byte to byte: 16 positions are hashed in one vector.

Content of low entropy (runs, short periods) has windows that always or never hit. So an image is
cut into cells of ``CELL * spacing`` bytes: one without a hit gives its first lowest hash, which is
the same window wherever such a period lies, and one with too many gives the first ones only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from puavo_repository.compiled import Bytes, Numbers, Word, array, inlined, kernel
from puavo_repository.delta.machine import load64, selected, selector, trailing_zeros

BLOCK = 4 << 20  # bytes of an image that are looked at together; a multiple of every cell
KEY = 32  # bytes that the key of an anchor covers
KEY_FACTORS = np.array(  # odd, from xxHash's primes and splitmix64
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64
)
CELL = 8  # spacings in a cell
MOST = 4 * CELL  # anchors in a cell


@dataclass(frozen=True)
class BlockAnchors:
    """The anchors of one block.

    Attributes:
        first: Position of the block in the image.
        keys: Their keys, uint32[n].
        offsets: Their positions from ``first``, ascending, uint32[n].
    """

    first: int
    keys: Numbers
    offsets: Numbers

    def thinned(self, cell: int, each: int) -> BlockAnchors:
        """Return the first ``each`` anchors of every cell."""
        cells = self.offsets // cell
        kept = np.arange(len(cells)) - np.searchsorted(cells, cells) < each
        return BlockAnchors(self.first, self.keys[kept], self.offsets[kept])


class Collector:
    """Takes the anchors of an image, block by block, and keeps no more than it may.

    Runs and short periods have up to ``MOST`` anchors in a cell, four times as many as other
    content. Where that makes too many in all, every cell keeps half of ``MOST``, or half of that,
    and so on: what is left depends on the image alone, not on the order of the work.

    Args:
        spacing: Of the anchors in bytes, on average.
        most: How many to keep.
    """

    def __init__(self, spacing: int, most: int) -> None:
        self.blocks: list[BlockAnchors] = []
        self._cell, self._most, self._each = CELL * spacing, most, MOST
        self._count = 0

    def add(self, block: BlockAnchors) -> None:
        """Take the anchors of the next block."""
        if self._each < MOST:
            block = block.thinned(self._cell, self._each)
        self.blocks.append(block)
        self._count += len(block.keys)
        while self._count > self._most and self._each > 1:
            self._each //= 2
            self.blocks = [one.thinned(self._cell, self._each) for one in self.blocks]
            self._count = sum(len(one.keys) for one in self.blocks)


class Finder:
    """Finds anchors, block by block; one for each thread."""

    def __init__(self, spacing: int) -> None:
        self.spacing = spacing
        self._cell = CELL * spacing
        self._chosen = array(MOST, np.int64)
        room = -(-BLOCK // self._cell) * MOST
        self._keys, self._offsets = array(room, np.uint32), array(room, np.uint32)

    def find(self, data: Bytes, first: int, size: int) -> BlockAnchors:
        """Find the anchors of a block.

        Args:
            data: The block from its first byte on, what follows it in the image, and slack.
            first: Position of the block.
            size: Size of the image: no key reaches beyond it.
        """
        length = min(BLOCK, size - KEY + 1 - first)
        found = self._chosen, self._keys, self._offsets
        count: int = find_anchors(data, length, self._cell, threshold(self.spacing), *found)
        return BlockAnchors(first, self._keys[:count].copy(), self._offsets[:count].copy())


def threshold(spacing: int) -> np.uint32:
    """Return the limit that the hash of one position in ``spacing`` is below."""
    return np.uint32((1 << 32) // spacing)


@inlined
def key_of(address: int) -> Word:
    """Return the 32-bit key of the ``KEY`` bytes at an address, as a 64-bit number."""
    mixed = np.uint64(0)
    for i in range(KEY // 8):
        mixed += load64(address + 8 * i) * KEY_FACTORS[i]
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xFF51AFD7ED558CCD)
    return mixed >> np.uint64(32)


@inlined
def choose(address: int, start: int, stop: int, limit: int, chosen: Numbers) -> int:
    """Choose the anchors of one cell, or of what is left of it.

    Args:
        address: Where the data lies; 71 bytes from any position can be read.
        start: First position.
        stop: Position after the last one; above ``start``.
        limit: Hashes below it hit.
        chosen: Takes the positions, ascending; ``len(chosen)`` at most.

    Returns:
        How many there are, at least one.
    """
    count = 0
    for group in range(start, stop, 64):
        hits = selected(address + group, limit)
        columns = columns_of(hits)
        while columns != 0:
            column = trailing_zeros(columns)
            columns &= columns - np.uint64(1)
            for phase in range(4):
                position = group + 4 * column + phase
                if (hits >> np.uint64(16 * phase + column)) & np.uint64(1) and position < stop:
                    if count >= len(chosen):
                        return count
                    chosen[count] = position
                    count += 1
    if count == 0:
        chosen[0] = lowest(address, start, stop)
        count = 1
    return count


@inlined
def columns_of(hits: Word) -> Word:
    """Return the columns of ``selected`` that have a hit in any phase, as 16 bits."""
    pairs = hits | (hits >> np.uint64(32))
    return (pairs | (pairs >> np.uint64(16))) & np.uint64(0xFFFF)


@inlined
def lowest(address: int, start: int, stop: int) -> int:
    """Return the first position with the lowest hash."""
    position, least = start, selector(address + start)
    for candidate in range(start + 1, stop):
        found = selector(address + candidate)
        if found < least:
            position, least = candidate, found
    return position


@kernel
def find_anchors(
    data: Bytes,
    length: int,
    cell: int,
    limit: int,
    chosen: Numbers,
    keys: Numbers,
    offsets: Numbers,
) -> int:
    """Find the anchors among the first ``length`` positions; returns how many there are."""
    address = data.ctypes.data
    count = 0
    for start in range(0, length, cell):
        found = choose(address, start, min(start + cell, length), limit, chosen)
        for i in range(found):
            if count >= len(keys):
                return count
            keys[count] = key_of(address + chosen[i])
            offsets[count] = chosen[i]
            count += 1
    return count
