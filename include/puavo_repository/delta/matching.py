"""Matching: which bytes of a block of the target are in the source, on two levels.

Sparse: the anchors of the whole source stand in a table: open addressing, linear probing within a
group of ``GROUP`` slots, so that threads can fill it side by side. At each anchor of the target
that is found there the bytes are compared, forwards and backwards, and the longest of few
candidates becomes a copy; the anchors that it covers are passed over unseen.

Dense: the compressed blocks of a changed file lie between unchanged ones. So what is left of a gap
is most likely found between the copies before and after it, and ``PAD`` bytes around: a region so
small that one in a few bytes can be an anchor, in a table that stays in the processor's cache.
There a slot is simply overwritten (as in LZ4): the newest region matters, and older entries still
help.

All work is bounded, whatever the images hold: a look-up visits one group and compares
``CANDIDATES`` slots of it, and a block has an allowance of comparisons, of learned bytes, and of
reads.
"""

import numpy as np

from puavo_repository.compiled import Numbers, Word, array, inlined, kernel
from puavo_repository.delta import machine
from puavo_repository.delta.anchors import CELL, KEY, choose, key_of, threshold
from puavo_repository.delta.machine import SHORT, Basis, equal, trailing_zeros

HEAD = 64  # bytes before a block in its buffer: backward compares may look at them
GROUP = 64  # slots; a power of two
CANDIDATES = 4  # equal keys that the table keeps, and that a look-up compares
ENOUGH = 1 << 16  # bytes; a match as long as this is taken without looking for a longer one
COMPARISONS = 1 << 13  # in one block, at most
_FEWEST = 1 << 10  # slots of the smallest table

DENSE_KEY = 16  # bytes that a key covers there; a copy of fewer saves next to nothing
PAD = 1 << 14  # bytes of the source around a region
SLOTS = 1 << 17
REGION = 4 << 20  # bytes of the largest region
LEARN = 16 << 20  # bytes of regions that one block may learn
STRAYS = 1 << 14  # reads for comparing beyond the region that one block may make

PLACE = np.uint64((1 << 40) - 1)  # of a slot: 24 bits of the key above 40 of the position + 1


def table_for(anchors: int) -> Numbers:
    """Return an empty table for that many anchors, uint64[a power of two]."""
    slots = _FEWEST
    while slots * 3 < anchors * 4:
        slots *= 2
    return array(slots, np.uint64)


def most_anchors(memory: int) -> int:
    """Return how many anchors fit into so many bytes: 8 bytes each, and their table."""
    tables = (1 << bits for bits in range(_FEWEST.bit_length() - 1, 40))
    return max(min(slots * 3 // 4, memory // 8 - slots) for slots in tables)


@inlined
def slot_of(table: Numbers, key: Word) -> Word:
    """Return where the search for a 64-bit key begins: its top bits."""
    return np.int64(key >> np.uint64(64 - trailing_zeros(np.uint64(len(table)))))


@inlined
def next_slot(slot: int) -> int:
    """Return the slot after another one in its group, round and round."""
    return (slot & ~(GROUP - 1)) | ((slot + 1) & (GROUP - 1))


@kernel
def insert(
    first: int, keys: Numbers, offsets: Numbers, table: Numbers, part: int, parts: int
) -> None:
    """Put the anchors of a block, which is at ``first``, into the table.

    Each of ``parts`` threads fills a ``part`` of the groups of slots, and passes over the anchors
    of the others.
    """
    for i in range(len(keys)):
        key = np.uint64(keys[i])
        slot = slot_of(table, key << np.uint64(32))
        if slot // GROUP % parts != part:
            continue
        tag = key << np.uint64(40)
        equals = 0
        for _ in range(GROUP):
            found = table[slot]
            if found == 0:
                table[slot] = tag | np.uint64(first + offsets[i] + 1)
                break
            if (found ^ tag) <= PLACE:
                equals += 1
                if equals == CANDIDATES:
                    break
            slot = next_slot(slot)


@inlined
def longest(
    basis: Basis, address: int, anchor: int, done: int, length: int, table: Numbers, best: Numbers
) -> int:
    """Find the longest match around one anchor; returns the comparisons made, or ``SHORT``.

    It goes to ``best``: position in the block, position in the source, length; or length 0.
    """
    best[2] = 0
    comparisons = 0
    key = key_of(address + anchor)
    slot = slot_of(table, key << np.uint64(32))
    tag = key << np.uint64(40)
    for _ in range(GROUP):
        entry = table[slot]
        slot = next_slot(slot)
        if entry == 0:
            break
        if (entry ^ tag) > PLACE:
            continue
        comparisons += 1
        position = np.int64(entry & PLACE) - 1
        ahead = equal(basis, position, address + anchor, length - anchor, back=False)
        if ahead < 0:
            return SHORT
        if ahead < KEY:
            continue
        behind = equal(basis, position, address + anchor, anchor - done, back=True)
        if behind < 0:
            return SHORT
        if ahead + behind > best[2]:
            best[0], best[1], best[2] = anchor - behind, position - behind, ahead + behind
            if ahead + behind >= ENOUGH:
                break
    return comparisons


@kernel
def match_sparse(
    basis: Basis, address: int, length: int, table: Numbers, spacing: int, chosen: Numbers,
    copies: Numbers,
) -> int:  # fmt: skip
    """Find copies for a block of the target; returns how many, or ``SHORT``.

    The block has ``length`` bytes at ``address``, with ``HEAD`` bytes before it and slack behind.
    ``table`` and ``spacing`` are of the source's anchors, ``chosen`` is scratch. ``copies`` takes
    rows of (position in the block, position in the source, length), ascending.
    """
    best = np.zeros(3, np.int64)
    allowance = COMPARISONS
    cell = CELL * spacing
    stop = length - KEY + 1
    count = done = at = 0
    while at < stop:
        end = min((at // cell + 1) * cell, stop)
        for i in range(choose(address, at, end, spacing, chosen)):
            if chosen[i] < done:
                continue
            if allowance <= 0 or count >= len(copies):
                return count
            made = longest(basis, address, chosen[i], done, length, table, best)
            if made < 0:
                return SHORT
            allowance -= made
            if best[2] > 0:
                copies[count] = best
                count += 1
                done = best[0] + best[2]
        at = max(end, done)
    return count


@inlined
def dense_key(address: int) -> Word:
    """Return a 64-bit key of ``DENSE_KEY`` bytes."""
    mixed = machine.load64(address) * np.uint64(0x9E3779B97F4A7C15)
    mixed += machine.load64(address + 8) * np.uint64(0xC2B2AE3D27D4EB4F)
    return (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xFF51AFD7ED558CCD)


@inlined
def match_gap(
    basis: Basis, address: int, start: int, stop: int, limit: int, table: Numbers,
    strays: Numbers, copies: Numbers,
) -> int:  # fmt: skip
    """Put the copies found in one gap into ``copies``; returns how many, or ``SHORT``."""
    count = 0
    done = group = start
    last = stop - DENSE_KEY
    while group <= last:
        hits = machine.in_order(machine.selected(address + group, limit))
        while hits != 0:
            anchor = group + trailing_zeros(hits)
            hits &= hits - np.uint64(1)
            if anchor > last or anchor < done:
                continue
            key = dense_key(address + anchor)
            entry = table[slot_of(table, key)]
            if entry == 0 or (entry ^ (key << np.uint64(40))) > PLACE:
                continue
            position = np.int64(entry & PLACE) - 1
            if not basis.start <= position < basis.stop:
                strays[0] -= 1
                if strays[0] < 0:
                    continue
            ahead = equal(basis, position, address + anchor, stop - anchor, back=False)
            if ahead < 0:
                return SHORT
            if ahead < DENSE_KEY:
                continue
            behind = equal(basis, position, address + anchor, anchor - done, back=True)
            if behind < 0:
                return SHORT
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


@inlined
def holding(basis: Basis, start: int, stop: int) -> Basis:
    """Return the source with another region of it in memory."""
    return Basis(basis.descriptor, basis.size, basis.window, basis.place, start, stop)


@inlined
def learn(basis: Basis, start: int, limit: int, table: Numbers) -> None:
    """Put the anchors of the region in memory, from a position on, into the table."""
    place = basis.place + start - basis.start
    last = basis.stop - start - DENSE_KEY
    for group in range(0, last + 1, 64):
        hits = machine.selected(place + group, limit)
        while hits != 0:
            bit = trailing_zeros(hits)
            hits &= hits - np.uint64(1)
            position = group + 4 * (bit & 15) + (bit >> 4)
            if position <= last:
                key = dense_key(place + position)
                entry = (key << np.uint64(40)) | np.uint64(start + position + 1)
                table[slot_of(table, key)] = entry


@kernel
def match_dense(
    basis: Basis, address: int, length: int, sparse: Numbers, spacing: int, table: Numbers,
    copies: Numbers,
) -> int:  # fmt: skip
    """Find further copies, in the gaps between those in ``sparse``; returns how many, or ``SHORT``.

    The block is as for ``match_sparse``. ``table`` is scratch, uint64[``SLOTS``]. ``copies`` takes
    all copies, those of ``sparse`` among them; it has as many rows at least as that.
    """
    limit = threshold(spacing)
    table[:] = 0
    allowance = LEARN
    strays = np.full(1, STRAYS)
    held = holding(basis, 0, 0)
    count = done = 0
    for i in range(len(sparse) + 1):
        until = sparse[i, 0] if i < len(sparse) else length
        if len(sparse) > 0 and until - done >= DENSE_KEY and allowance > 0:
            start, stop = region_between(sparse, i, until - done, basis.size)
            if not held.start <= start <= held.stop or stop - held.start > REGION:
                held = holding(basis, start, start)
            fresh, size = held.stop, stop - held.stop
            if size > 0:
                place = basis.place + fresh - held.start
                if not machine.read(basis.descriptor, place, size, fresh):
                    return SHORT
                held = holding(basis, held.start, stop)
                learn(held, max(held.start, fresh - DENSE_KEY), limit, table)
                allowance -= size
            rows = copies[count : len(copies) - (len(sparse) - i)]  # the others are for ``sparse``
            found = match_gap(held, address, done, until, limit, table, strays, rows)
            if found < 0:
                return SHORT
            count += found
        if i < len(sparse) and count < len(copies):
            copies[count] = sparse[i]
            count += 1
            done = until + sparse[i, 2]
    return count
