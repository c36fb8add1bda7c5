"""The dense level: the gaps of a block against the source between the gaps' neighbours.

The compressed blocks of a changed file lie between unchanged ones. So what is left of a gap is
most likely found between the copies before and after it, and ``pad`` bytes around: a region so
small that one in a few bytes can be an anchor, in a table that stays in the processor's cache.
A slot is simply overwritten (as in LZ4): the newest region matters, and older entries still
help. The work is bounded: a block has an allowance of learned bytes, and one of reads.
"""

from __future__ import annotations

import numpy as np

from puavo_repository.compiled import Bytes, Numbers, Word, inlined, kernel
from puavo_repository.delta.anchors import columns_of
from puavo_repository.delta.comparing import (
    SHORT,
    equal_after,
    equal_before,
    same_after,
    same_before,
)
from puavo_repository.delta.machine import load64, read, selected, trailing_zeros
from puavo_repository.delta.sparse import HEAD, PLACE

DENSE_KEY = 16  # bytes that a key covers here; a copy of fewer saves next to nothing
PAD = 1 << 14  # bytes of the source around a region
SLOTS = 1 << 17
REGION = 4 << 20  # bytes of the largest region
LEARN = 16 << 20  # bytes of regions that one block may learn
STRAYS = 1 << 14  # reads for comparing beyond the region that one block may make


@inlined
def dense_key(address: int) -> Word:
    """Return a 64-bit key of ``DENSE_KEY`` bytes."""
    mixed = load64(address) * np.uint64(0x9E3779B97F4A7C15)
    mixed += load64(address + 8) * np.uint64(0xC2B2AE3D27D4EB4F)
    return (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xFF51AFD7ED558CCD)


@inlined
def dense_slot(table: Numbers, key: Word) -> Word:
    """Return the slot of a key: its top bits."""
    return np.int64(key >> np.uint64(64 - trailing_zeros(np.uint64(len(table)))))


@inlined
def learn(place: int, start: int, stop: int, limit: int, table: Numbers) -> None:
    """Put the anchors of a region of the source, which lies at ``place``, into the table."""
    last = stop - start - DENSE_KEY
    for group in range(0, last + 1, 64):
        hits = selected(place + group, limit)
        while hits != 0:
            bit = trailing_zeros(hits)
            hits &= hits - np.uint64(1)
            position = group + 4 * (bit & 15) + (bit >> 4)
            if position <= last:
                key = dense_key(place + position)
                entry = (key << np.uint64(40)) | np.uint64(start + position + 1)
                table[dense_slot(table, key)] = entry


@inlined
def extend(
    source: int,
    size: int,
    region: tuple[int, int, int],
    position: int,
    address: int,
    after: int,
    before: int,
    window: Bytes,
) -> tuple[int, int]:
    """Count equal bytes from and before a position: in memory if the region ends beyond them."""
    place, start, stop = region
    if start <= position < stop:
        near = place + position - start
        ahead_room, behind_room = min(after, stop - position), min(before, position - start)
        ahead = same_after(near, address, ahead_room)
        behind = same_before(near, address, behind_room)
        if (ahead < ahead_room or ahead == after) and (behind < behind_room or behind == before):
            return ahead, behind
    ahead = equal_after(source, size, position, address, after, window)
    if ahead < DENSE_KEY:
        return ahead, 0
    behind = equal_before(source, position, address, before, window)
    return min(ahead, behind) if behind < 0 else ahead, behind


@inlined
def match_gap(
    source: int,
    size: int,
    region: tuple[int, int, int],
    address: int,
    start: int,
    stop: int,
    limit: int,
    table: Numbers,
    window: Bytes,
    strays: Numbers,
    copies: Numbers,
    count: int,
    room: int,
) -> int:
    """Add the copies that are found in one gap, up to ``room`` in all; see ``match_dense``.

    Returns:
        How many there are now, or ``SHORT``.
    """
    done = start
    last = stop - DENSE_KEY
    group = start
    while group <= last:
        hits = selected(address + group, limit)
        columns = columns_of(hits)
        while columns != 0:
            column = trailing_zeros(columns)
            columns &= columns - np.uint64(1)
            for phase in range(4):
                anchor = group + 4 * column + phase
                hit = (hits >> np.uint64(16 * phase + column)) & np.uint64(1)
                if not hit or anchor > last or anchor < done:
                    continue
                key = dense_key(address + anchor)
                entry = table[dense_slot(table, key)]
                if entry == 0 or (entry ^ (key << np.uint64(40))) > PLACE:
                    continue
                position = np.int64(entry & PLACE) - 1
                if not region[1] <= position < region[2]:
                    strays[0] -= 1
                    if strays[0] < 0:
                        continue
                after, before = stop - anchor, anchor - done
                ahead, behind = extend(
                    source, size, region, position, address + anchor, after, before, window
                )
                if ahead < 0:
                    return SHORT
                if ahead < DENSE_KEY:
                    continue
                if count >= room:
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
    source: int,
    size: int,
    data: Bytes,
    length: int,
    sparse: Numbers,
    limit: int,
    table: Numbers,
    region: Bytes,
    window: Bytes,
    copies: Numbers,
) -> int:
    """Find further copies in the gaps between those of the sparse level.

    Args:
        source: Descriptor of the source.
        size: Its size in bytes.
        data: ``HEAD`` bytes, the block of the target, and slack.
        length: Size of the block in bytes.
        sparse: What ``match_sparse`` found.
        limit: Hashes below it hit.
        table: Scratch, uint64[``SLOTS``].
        region: Scratch of ``HEAD + REGION`` bytes and slack.
        window: Scratch for comparing.
        copies: Takes all copies, those of ``sparse`` among them; as many rows at least as that.

    Returns:
        Number of copies, or ``SHORT``.
    """
    address = data.ctypes.data + HEAD
    place = region.ctypes.data + HEAD
    table[:] = 0
    allowance = LEARN
    strays = np.full(1, STRAYS)
    held_start = held_stop = 0  # what of the source the region buffer holds
    count = done = 0
    for i in range(len(sparse) + 1):
        until = sparse[i, 0] if i < len(sparse) else length
        room = len(copies) - (len(sparse) - i)  # what follows of ``sparse`` keeps its rows
        if len(sparse) > 0 and until - done >= DENSE_KEY and allowance > 0:
            start, stop = region_between(sparse, i, until - done, size)
            if not held_start <= start <= held_stop or stop - held_start > REGION:
                held_start = held_stop = start
            if held_stop < stop:
                if not read(source, place + held_stop - held_start, stop - held_stop, held_stop):
                    return SHORT
                fresh = max(held_start, held_stop - DENSE_KEY)
                learn(place + fresh - held_start, fresh, stop, limit, table)
                allowance -= stop - held_stop
                held_stop = stop
            held = (place, held_start, held_stop)
            gap = (source, size, held, address, done, until)
            count = match_gap(*gap, limit, table, window, strays, copies, count, room)
            if count < 0:
                return SHORT
        if i < len(sparse) and count < len(copies):
            copies[count] = sparse[i]
            count += 1
            done = until + sparse[i, 2]
    return count
