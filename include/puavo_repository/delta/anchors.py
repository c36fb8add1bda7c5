"""Anchors: positions of an image that its content chooses, so equal content has equal anchors.

A position is an anchor when a hash of the 8 bytes there is below a threshold, which makes one in
``spacing`` bytes; its key is a hash of the ``KEY`` bytes there. That is content-defined chunking
(Muthitacharoen et al., "A low-bandwidth network file system", 2001), but the hash has no state
that rolls from byte to byte: 16 positions are hashed in one vector.

Content of low entropy (runs, short periods) has windows that always or never hit. So an image is
cut into cells of ``CELL * spacing`` bytes: one without a hit gives its first lowest hash, which is
the same window wherever such a period lies, and one with too many gives the first ones only.

Some of the anchors cut each block into chunks. Where those of two images have the same digest they
are taken for equal, unseen, and the proof of the rdiff shows that they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from puavo_repository.compiled import Bytes, Numbers, Word, array, inlined, kernel
from puavo_repository.delta import machine

BLOCK = 4 << 20  # bytes of an image that are looked at together; a multiple of every cell
KEY = 32  # bytes that the key of an anchor covers
KEY_FACTORS = np.array(  # odd, from xxHash's primes and splitmix64
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64
)
DIGEST_SEEDS = KEY_FACTORS[::-1].copy()
CELL = 8  # spacings in a cell
MOST = 4 * CELL  # anchors in a cell
CHUNK = 32 << 10  # bytes of a chunk on average
LEAST = CHUNK // 4  # bytes of the smallest, but for the last of a block
_STRIPE = 32  # bytes that a digest takes at once


class BlockAnchors(NamedTuple):
    """The anchors of one block of an image."""

    first: int  # position of the block
    keys: Numbers  # uint32[n]
    offsets: Numbers  # their positions from ``first``, ascending, uint32[n]

    def thinned(self, cell: int, each: int) -> BlockAnchors:
        """Return the first ``each`` anchors of every cell."""
        cells = self.offsets // cell
        kept = np.arange(len(cells)) - np.searchsorted(cells, cells) < each
        return BlockAnchors(self.first, self.keys[kept], self.offsets[kept])


class Found(NamedTuple):
    """What was found in one block of an image: its anchors, and its chunks."""

    anchors: BlockAnchors
    ends: Numbers  # positions where its chunks end, ascending, int64[n]
    digests: Numbers  # of these chunks, uint64[n]


class Anchors:
    """The anchors of an image, taken block by block, and no more than ``most``; and its chunks.

    Runs and short periods have up to ``MOST`` anchors in a cell, four times as many as other
    content. Where that makes too many in all, every cell keeps half of ``MOST``, or half of that,
    and so on: what is left depends on the image alone, not on the order of the work.
    """

    def __init__(self, spacing: int, most: int) -> None:
        self.blocks: list[BlockAnchors] = []
        self.ends, self.digests = [array(0, np.int64)], [array(0, np.uint64)]  # of its chunks
        self.count = 0
        self.spacing, self._most, self._each = spacing, most, MOST

    def next_block(self, data: Bytes, size: int) -> None:
        """Find those of the next block of an image of ``size`` bytes, which lie in ``data``."""
        first = BLOCK * len(self.blocks)
        if first + KEY <= size:
            self.add(find(data[first:], first, size, self.spacing))

    def add(self, found: Found) -> None:
        """Take the anchors and chunks of the next block."""
        self.ends.append(found.ends)
        self.digests.append(found.digests)
        block = found.anchors
        if self._each < MOST:
            block = block.thinned(CELL * self.spacing, self._each)
        self.blocks.append(block)
        self.count += len(block.keys)
        while self.count > self._most and self._each > 1:
            self._each //= 2
            self.blocks = [one.thinned(CELL * self.spacing, self._each) for one in self.blocks]
            self.count = sum(len(one.keys) for one in self.blocks)


def find(data: Bytes, first: int, size: int, spacing: int) -> Found:
    """Find the anchors of a block, and its chunks.

    Args:
        data: The block from its first byte on, what follows it in the image, and slack.
        first: Position of the block.
        size: Size of the image: no key reaches beyond it.
        spacing: Of the anchors in bytes, on average.
    """
    room = -(-BLOCK // (CELL * spacing)) * MOST
    keys, offsets = array(room, np.uint32), array(room, np.uint32)
    length = min(BLOCK, size - KEY + 1 - first)
    count: int = find_anchors(data, length, spacing, array(MOST, np.int64), keys, offsets)
    anchors = BlockAnchors(first, keys[:count].copy(), offsets[:count].copy())
    whole = min(BLOCK, size - first)
    ends, digests = array(whole // LEAST + 1, np.int64), array(whole // LEAST + 1, np.uint64)
    number = find_chunks(data, whole, anchors.offsets, ends, digests)
    return Found(anchors, first + ends[:number], digests[:number].copy())


@kernel
def find_anchors(
    data: Bytes, length: int, spacing: int, chosen: Numbers, keys: Numbers, offsets: Numbers
) -> int:
    """Find the anchors among the first ``length`` positions; returns how many there are."""
    address = data.ctypes.data
    count = 0
    for start in range(0, length, CELL * spacing):
        stop = min(start + CELL * spacing, length)
        for i in range(choose(address, start, stop, spacing, chosen)):
            if count >= len(keys):
                return count
            keys[count] = key_of(address + chosen[i])
            offsets[count] = chosen[i]
            count += 1
    return count


@kernel
def find_chunks(data: Bytes, length: int, offsets: Numbers, ends: Numbers, digests: Numbers) -> int:
    """Cut a block of so many bytes into chunks, at some of its anchors; returns how many there are.

    ``ends`` and ``digests`` have room for one chunk more than ``length`` has ``LEAST`` bytes.
    """
    address = data.ctypes.data
    limit = threshold(CHUNK)
    count = start = 0
    for i in range(len(offsets) + 1):
        end: Word = np.int64(offsets[i]) if i < len(offsets) else length
        if end < length and (end - start < LEAST or machine.selector(address + end) >= limit):
            continue
        ends[count], digests[count] = end, digest(address + start, end - start)
        count += 1
        start = end
    return count


@inlined
def digest(address: int, length: int) -> Word:
    """Return a 64-bit digest of so many bytes, of stripes of 32, much as XXH64 does; never 0.

    Fewer than one stripe have 0: that is no digest. What is behind the last stripe is covered by
    one more, that ends with the last byte.
    """
    if length < _STRIPE:
        return np.uint64(0)
    one, two, three, four = DIGEST_SEEDS[0], DIGEST_SEEDS[1], DIGEST_SEEDS[2], DIGEST_SEEDS[3]
    for step in range(0, length + _STRIPE - 1, _STRIPE):
        place = address + min(step, length - _STRIPE)
        one = lane(one, machine.load64(place))
        two = lane(two, machine.load64(place + 8))
        three = lane(three, machine.load64(place + 16))
        four = lane(four, machine.load64(place + 24))
    mixed = np.uint64(length)
    for part in (one, two, three, four):
        mixed = (mixed ^ lane(np.uint64(0), part)) * KEY_FACTORS[0] + KEY_FACTORS[1]
    mixed = (mixed ^ (mixed >> np.uint64(33))) * KEY_FACTORS[1]
    mixed = (mixed ^ (mixed >> np.uint64(29))) * KEY_FACTORS[2]
    return (mixed ^ (mixed >> np.uint64(32))) | np.uint64(1)


@inlined
def lane(mixed: Word, word: Word) -> Word:
    """Take the next word into one of the four lanes of a digest."""
    mixed += word * KEY_FACTORS[1]
    return ((mixed << np.uint64(31)) | (mixed >> np.uint64(33))) * KEY_FACTORS[0]


@inlined
def choose(address: int, start: int, stop: int, spacing: int, chosen: Numbers) -> int:
    """Choose the anchors of one cell, or of what is left of it: positions below ``stop``.

    71 bytes from any position can be read. The positions go to ``chosen``, ascending, as many as
    it has room for; returns how many there are, at least one.
    """
    limit = threshold(spacing)
    count = 0
    for group in range(start, stop, 64):
        hits = machine.selected(address + group, limit)
        if hits != 0:
            hits = machine.in_order(hits)
        while hits != 0:
            position = group + machine.trailing_zeros(hits)
            hits &= hits - np.uint64(1)
            if position >= stop:
                break
            if count >= len(chosen):
                return count
            chosen[count] = position
            count += 1
    if count > 0:
        return count
    position, least = start, machine.selector(address + start)  # the first with the lowest hash
    for candidate in range(start + 1, stop):
        found = machine.selector(address + candidate)
        if found < least:
            position, least = candidate, found
    chosen[0] = position
    return 1


@inlined
def threshold(spacing: int) -> Word:
    """Return the limit that the hash of one position in ``spacing`` is below."""
    return np.uint32((1 << 32) // spacing)


@inlined
def key_of(address: int) -> Word:
    """Return the 32-bit key of the ``KEY`` bytes at an address, as a 64-bit number."""
    mixed = np.uint64(0)
    for i in range(KEY // 8):
        mixed += machine.load64(address + 8 * i) * KEY_FACTORS[i]
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xFF51AFD7ED558CCD)
    return mixed >> np.uint64(32)
