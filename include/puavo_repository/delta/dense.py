"""The dense level: the gaps of a block against the source between the gaps' neighbours.

The compressed blocks of a changed file lie between unchanged ones. So what is left of a gap is
most likely found between the copies before and after it, and ``pad`` bytes around: a region so
small that one in a few bytes can be an anchor, in a table that stays in the processor's cache.
A slot is simply overwritten (as in LZ4): the newest region matters, and older entries still
help. The work is bounded: a block has an allowance of learned bytes, and one of reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from puavo_repository.compiled import Numbers, Word, inlined, kernel
from puavo_repository.delta import machine
from puavo_repository.delta.anchors import threshold
from puavo_repository.delta.machine import SHORT, Basis
from puavo_repository.delta.sparse import PLACE, slot_of

DENSE_KEY = 16  # bytes that a key covers here; a copy of fewer saves next to nothing
PAD = 1 << 14  # bytes of the source around a region
SLOTS = 1 << 17
REGION = 4 << 20  # bytes of the largest region
LEARN = 16 << 20  # bytes of regions that one block may learn
STRAYS = 1 << 14  # reads for comparing beyond the region that one block may make


class Region(NamedTuple):
    """What of the source a buffer holds."""

    place: int  # address of the buffer
    start: int  # positions in the source
    stop: int


@inlined
def dense_key(address: int) -> Word:
    """Return a 64-bit key of ``DENSE_KEY`` bytes."""
    mixed = machine.load64(address) * np.uint64(0x9E3779B97F4A7C15)
    mixed += machine.load64(address + 8) * np.uint64(0xC2B2AE3D27D4EB4F)
    return (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xFF51AFD7ED558CCD)


@inlined
def learn(region: Region, start: int, limit: int, table: Numbers) -> None:
    """Put the anchors of a region, from a position on, into the table."""
    place = region.place + start - region.start
    last = region.stop - start - DENSE_KEY
    for group in range(0, last + 1, 64):
        hits = machine.selected(place + group, limit)
        while hits != 0:
            bit = machine.trailing_zeros(hits)
            hits &= hits - np.uint64(1)
            position = group + 4 * (bit & 15) + (bit >> 4)
            if position <= last:
                key = dense_key(place + position)
                entry = (key << np.uint64(40)) | np.uint64(start + position + 1)
                table[slot_of(table, key)] = entry


@inlined
def extend(
    basis: Basis, region: Region, position: int, address: int, after: int, before: int
) -> tuple[int, int]:
    """Count equal bytes from and before a position: in memory if the region ends beyond them."""
    if region.start <= position < region.stop:
        near = region.place + position - region.start
        ahead_room = min(after, region.stop - position)
        behind_room = min(before, position - region.start)
        ahead = machine.same(near, address, ahead_room, back=False)
        behind = machine.same(near, address, behind_room, back=True)
        if (ahead < ahead_room or ahead == after) and (behind < behind_room or behind == before):
            return ahead, behind
    ahead = machine.equal(basis, position, address, after, back=False)
    if ahead < DENSE_KEY:
        return ahead, 0
    behind = machine.equal(basis, position, address, before, back=True)
    return min(ahead, behind) if behind < 0 else ahead, behind


@inlined
def match_gap(
    basis: Basis, region: Region, address: int, start: int, stop: int, limit: int,
    table: Numbers, strays: Numbers, copies: Numbers,
) -> int:  # fmt: skip
    """Put the copies found in one gap into ``copies``; returns how many, or ``SHORT``."""
    count = 0
    done = group = start
    last = stop - DENSE_KEY
    while group <= last:
        hits = machine.in_order(machine.selected(address + group, limit))
        while hits != 0:
            anchor = group + machine.trailing_zeros(hits)
            hits &= hits - np.uint64(1)
            if anchor > last or anchor < done:
                continue
            key = dense_key(address + anchor)
            entry = table[slot_of(table, key)]
            if entry == 0 or (entry ^ (key << np.uint64(40))) > PLACE:
                continue
            position = np.int64(entry & PLACE) - 1
            if not region.start <= position < region.stop:
                strays[0] -= 1
                if strays[0] < 0:
                    continue
            after, before = stop - anchor, anchor - done
            ahead, behind = extend(basis, region, position, address + anchor, after, before)
            if ahead < 0:
                return SHORT
            if ahead < DENSE_KEY:
                continue
            if count >= len(copies):
                return count
            copies[count, 0] = anchor - behind
            copies[count, 1] = position - behind
            copies[count, 2] = ahead + behind
            count += 1
            done = anchor + ahead
        group = max(group + 64, done)
    return count


@inlined
def region_between(copies: Numbers, i: int, gap: int, size: int) -> tuple[int, int]:
    """Return the region of the source to learn for the gap before copy ``i``: start and stop."""
    if i == 0:
        stop = copies[0, 1]
        start = stop - gap
    else:
        start = copies[i - 1, 1] + copies[i - 1, 2]
        stop = start + gap
        if i < len(copies) and start <= copies[i, 1] <= start + 4 * gap + PAD:
            stop = copies[i, 1]
    start = max(0, start - PAD)
    return start, min(stop + PAD, size, start + REGION)


@kernel
def match_dense(
    basis: Basis, address: int, length: int, sparse: Numbers, spacing: int, table: Numbers,
    place: int, copies: Numbers,
) -> int:  # fmt: skip
    """Find further copies in the gaps between those of the sparse level.

    Args:
        basis: The source.
        address: Where the block of the target lies, as for ``match_sparse``.
        length: Size of the block in bytes.
        sparse: What ``match_sparse`` found.
        spacing: Bytes an anchor, on average.
        table: Scratch, uint64[``SLOTS``].
        place: Address of a buffer for ``REGION`` bytes, with ``HEAD`` bytes before it.
        copies: Takes all copies, those of ``sparse`` among them; as many rows at least as that.

    Returns:
        Number of copies, or ``SHORT``.
    """
    limit = threshold(spacing)
    table[:] = 0
    allowance = LEARN
    strays = np.full(1, STRAYS)
    held = Region(place, 0, 0)
    count = done = 0
    for i in range(len(sparse) + 1):
        until = sparse[i, 0] if i < len(sparse) else length
        if len(sparse) > 0 and until - done >= DENSE_KEY and allowance > 0:
            start, stop = region_between(sparse, i, until - done, basis.size)
            if not held.start <= start <= held.stop or stop - held.start > REGION:
                held = Region(place, start, start)
            if held.stop < stop:
                fresh, size = held.stop, stop - held.stop
                if not machine.read(basis.descriptor, place + fresh - held.start, size, fresh):
                    return SHORT
                held = Region(place, held.start, stop)
                learn(held, max(held.start, fresh - DENSE_KEY), limit, table)
                allowance -= size
            rows = copies[count : len(copies) - (len(sparse) - i)]  # the others are for ``sparse``
            found = match_gap(basis, held, address, done, until, limit, table, strays, rows)
            if found < 0:
                return SHORT
            count += found
        if i < len(sparse) and count < len(copies):
            copies[count] = sparse[i]
            count += 1
            done = until + sparse[i, 2]
    return count
