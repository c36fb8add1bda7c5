"""The dense level: the gaps of a block against the source between the gaps' neighbours.

The compressed blocks of a changed file lie between unchanged ones. So what is left of a gap is
most likely found between the copies before and after it, and ``pad`` bytes around: a region so
small that one in a few bytes can be an anchor, in a table that stays in the processor's cache.
A slot is simply overwritten (as in LZ4): the newest region matters, and older entries still
help. The work is bounded by an allowance of learned bytes a block.
"""

from __future__ import annotations

import numpy as np

from puavo_repository.delta.anchors import columns_of
from puavo_repository.delta.comparing import SHORT, equal_after, equal_before
from puavo_repository.delta.machine import (
    Bytes,
    Numbers,
    Word,
    inlined,
    kernel,
    load64,
    read,
    selected,
    trailing_zeros,
)
from puavo_repository.delta.sparse import HEAD, PLACE

DENSE_KEY = 16  # bytes that a key covers here; a copy of fewer saves next to nothing
PAD = 1 << 14  # bytes of the source around a region
SLOTS = 1 << 17
REGION = 4 << 20  # bytes of the largest region
LEARN = 16 << 20  # bytes of regions that one block may learn


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
def learn(source: int, start: int, stop: int, limit: int, table: Numbers, region: Bytes) -> bool:
    """Put the anchors of a region of the source into the table; False if a read was short."""
    place = region.ctypes.data
    if not read(source, place, stop - start, start):
        return False
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
    return True


@inlined
def match_gap(
    source: int,
    size: int,
    address: int,
    start: int,
    stop: int,
    limit: int,
    table: Numbers,
    window: Bytes,
    copies: Numbers,
    count: int,
) -> int:
    """Add the copies that are found in one gap; returns how many there are now, or ``SHORT``."""
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
                ahead = equal_after(source, size, position, address + anchor, stop - anchor, window)
                if ahead < 0:
                    return SHORT
                if ahead < DENSE_KEY:
                    continue
                behind = equal_before(source, position, address + anchor, anchor - done, window)
                if behind < 0:
                    return SHORT
                copies[count, 0] = anchor - behind
                copies[count, 1] = position - behind
                copies[count, 2] = ahead + behind
                count += 1
                if count == len(copies):
                    return count
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
        region: Scratch of ``REGION`` bytes and slack.
        window: Scratch for comparing.
        copies: Takes all copies, those of ``sparse`` among them.

    Returns:
        Number of copies, or ``SHORT``.
    """
    address = data.ctypes.data + HEAD
    table[:] = 0
    allowance = LEARN
    known_start = known_stop = 0
    count = done = 0
    for i in range(len(sparse) + 1):
        until = sparse[i, 0] if i < len(sparse) else length
        if len(sparse) > 0 and until - done >= DENSE_KEY and allowance > 0:
            start, stop = region_between(sparse, i, until - done, size)
            if known_start <= start <= known_stop:  # the regions of neighbours overlap
                start = max(start, known_stop - DENSE_KEY)
            else:
                known_start = known_stop = start
            if start < stop:
                if not learn(source, start, stop, limit, table, region):
                    return SHORT
                known_stop = stop
                allowance -= stop - start
            count = match_gap(
                source, size, address, done, until, limit, table, window, copies, count
            )
            if count < 0:
                return SHORT
        if count == len(copies):
            break
        if i < len(sparse):
            copies[count] = sparse[i]
            count += 1
            done = until + sparse[i, 2]
    return count
