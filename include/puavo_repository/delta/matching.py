"""Matching: which bytes of a segment of the target are in the source, on two levels.

Sparse: the anchors of the whole source stand in a table (see ``index``). At each anchor of the
target that is found there the bytes are compared, forwards and backwards, and the longest of few
candidates becomes a copy; the anchors that it covers are passed over unseen.

Dense: the compressed blocks of a changed file lie between unchanged ones. So what is left of a gap
is most likely found between the copies before and after it, and ``PAD`` bytes around: a region so
small that one in a few bytes can be an anchor, in a table that stays in the processor's cache.
There a slot is simply overwritten (as in LZ4): the newest region matters, and older entries still
help.

All work is bounded, whatever the images hold: a look-up visits one group and compares
``CANDIDATES`` slots of it, and a segment has an allowance of comparisons, of learned bytes, and
of comparisons far away.

What is found in a segment depends on its bytes and the source alone: not on what lies around it,
so that it is the same wherever in a target it lies.
"""

import numpy as np

from puavo_repository.compiled import Numbers, Word, inlined, kernel
from puavo_repository.delta import machine
from puavo_repository.delta.anchors import CELL, KEY, choose, key_of, threshold
from puavo_repository.delta.comparing import Both, Content, ahead_of, behind_of
from puavo_repository.delta.index import GROUP, PLACE, next_slot, slot_of
from puavo_repository.delta.machine import trailing_zeros

ENOUGH = 1 << 16  # bytes; a match as long as this is taken without looking for a longer one
FEWEST = 1 << 8  # comparisons, and strays, that any segment may make
EACH = 1 << 8  # bytes of a segment that allow one more

DENSE_KEY = 16  # bytes that a key covers there; a copy of fewer saves next to nothing
PAD = 1 << 14  # bytes of the source around a region
SLOTS = 1 << 17
REGION = 4 << 20  # bytes of the largest region
LEARN = 4  # bytes of regions for each byte of a segment that it may learn, beside one region


@inlined
def longest(
    both: Both, start: int, anchor: int, done: int, length: int, table: Numbers, best: Numbers
) -> int:
    """Find the longest match around one anchor; returns the comparisons made.

    The segment of the target begins at ``start``. The match goes to ``best``: position in the
    segment, position in the source, length; or length 0.
    """
    best[2] = 0
    comparisons = 0
    key = key_of(both.target.address + start + anchor)
    slot = slot_of(len(table), key << np.uint64(32))
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
        ahead = ahead_of(both, position, start + anchor, length - anchor)
        if ahead < KEY:
            continue
        behind = behind_of(both, position, start + anchor, anchor - done)
        if ahead + behind > best[2]:
            best[0], best[1], best[2] = anchor - behind, position - behind, ahead + behind
            if ahead + behind >= ENOUGH:
                break
    return comparisons


@kernel
def match_sparse(
    both: Both, start: int, length: int, table: Numbers, spacing: int, chosen: Numbers,
    copies: Numbers,
) -> int:  # fmt: skip
    """Find copies for a segment of the target; returns how many.

    The segment has ``length`` bytes from ``start``.
    ``table`` and ``spacing`` are of the source's anchors, ``chosen`` is scratch. ``copies`` takes
    rows of (position in the segment, position in the source, length), ascending.
    """
    best = np.zeros(3, np.int64)
    address = both.target.address + start
    allowance = FEWEST + length // EACH
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
            allowance -= longest(both, start, chosen[i], done, length, table, best)
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
    both: Both, learned: tuple[int, int], segment: int, start: int, stop: int, limit: int,
    table: Numbers, strays: Numbers, copies: Numbers,
) -> int:  # fmt: skip
    """Put the copies found in one gap into ``copies``; returns how many.

    It is from ``start`` to ``stop`` of a segment that begins at ``segment``. ``learned`` is the
    region of the source that was learned last; what an older one has counts as one of ``strays``,
    of which so many are left.
    """
    count = 0
    address = both.target.address + segment
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
            entry = table[slot_of(len(table), key)]
            if entry == 0 or (entry ^ (key << np.uint64(40))) > PLACE:
                continue
            position = np.int64(entry & PLACE) - 1
            if not learned[0] <= position < learned[1]:
                strays[0] -= 1
                if strays[0] < 0:
                    continue
            ahead = ahead_of(both, position, segment + anchor, stop - anchor)
            if ahead < DENSE_KEY:
                continue
            behind = behind_of(both, position, segment + anchor, anchor - done)
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
def learn(source: Content, start: int, stop: int, limit: int, table: Numbers) -> None:
    """Put the anchors of a region of the source into the table."""
    place = source.address + start
    last = stop - start - DENSE_KEY
    for group in range(0, last + 1, 64):
        hits = machine.selected(place + group, limit)
        while hits != 0:
            bit = trailing_zeros(hits)
            hits &= hits - np.uint64(1)
            position = group + 4 * (bit & 15) + (bit >> 4)
            if position <= last:
                key = dense_key(place + position)
                entry = (key << np.uint64(40)) | np.uint64(start + position + 1)
                table[slot_of(len(table), key)] = entry


@kernel
def match_dense(
    both: Both, segment: int, length: int, sparse: Numbers, spacing: int, table: Numbers,
    copies: Numbers,
) -> int:  # fmt: skip
    """Find further copies, in the gaps between those in ``sparse``; returns how many.

    The segment of ``length`` bytes begins at ``segment`` of the target. ``table`` is scratch,
    uint64[``SLOTS``]. ``copies`` takes all copies, those of ``sparse`` among them; it has as many
    rows at least as that.
    """
    limit = threshold(spacing)
    allowance = REGION + LEARN * length
    strays = np.full(1, FEWEST + length // EACH)  # comparisons beyond the region
    cleared = False
    begin = end = 0  # of the region that is learned
    count = done = 0
    for i in range(len(sparse) + 1):
        until = sparse[i, 0] if i < len(sparse) else length
        if len(sparse) > 0 and until - done >= DENSE_KEY and allowance > 0:
            start, stop = region_between(sparse, i, until - done, both.source.size)
            if not begin <= start <= end or stop - begin > REGION:
                begin = end = start
            if not cleared:
                table[:] = 0
                cleared = True
            if stop > end:
                learn(both.source, max(begin, end - DENSE_KEY), stop, limit, table)
                allowance -= stop - end
                end = stop
            rows = copies[count : len(copies) - (len(sparse) - i)]  # the others are for ``sparse``
            region = begin, end
            count += match_gap(both, region, segment, done, until, limit, table, strays, rows)
        if i < len(sparse) and count < len(copies):
            copies[count] = sparse[i]
            count += 1
            done = until + sparse[i, 2]
    return count


@kernel
def match(
    both: Both, first: int, ends: Numbers, table: Numbers, spacing: int, dense: int,
    shortest: int, scratch: tuple[Numbers, Numbers, Numbers, Numbers], copies: Numbers,
) -> int:  # fmt: skip
    """Find copies for segments that follow each other; returns how many.

    They begin at ``first`` and have their ``ends`` from there. Each may have a copy for
    ``shortest`` bytes, what more could be found stays literal. ``copies`` takes rows as for one
    segment, but with positions from ``first``; one of no length ends a literal where a segment
    ends.
    """
    chosen, slots, sparse, every = scratch
    count = start = 0
    for end in ends:
        segment, length = first + start, end - start
        rows = 1 + length // shortest
        found = sparse
        made = match_sparse(both, segment, length, table, spacing, chosen, sparse[:rows])
        if made > 0 and dense > 0:
            found = every
            made = match_dense(both, segment, length, sparse[:made], dense, slots, every[:rows])
        for i in range(made):
            count = add_copy(copies, count, start + found[i, 0], found[i, 1], found[i, 2])
        if made == 0 or found[made - 1, 0] + found[made - 1, 2] < length:
            count = add_copy(copies, count, end, 0, 0)
        start = end
    return count


@inlined
def add_copy(copies: Numbers, count: int, at: int, position: int, length: int) -> int:
    """Add a copy, or make the last one longer where it goes on; returns how many there are."""
    if count > 0 and length > 0:
        before = copies[count - 1]
        if before[0] + before[2] == at and before[1] + before[2] == position and before[2] > 0:
            before[2] += length
            return count
    copies[count, 0], copies[count, 1], copies[count, 2] = at, position, length
    return count + 1
