"""The sparse level: a block of the target against the anchors of the whole source.

The anchors of the source stand in a table: open addressing, linear probing within a group of
``GROUP`` slots, so that threads can fill it side by side. At each anchor of the target that is
found there the bytes are compared, forwards and backwards, and the longest of few candidates
becomes a copy; the anchors that it covers are passed over unseen.

All work is bounded, whatever the images hold: a look-up visits one group and compares
``CANDIDATES`` slots of it, and a block has an allowance of comparisons.
"""

from __future__ import annotations

import numpy as np

from puavo_repository.compiled import Numbers, Word, array, inlined, kernel
from puavo_repository.delta.anchors import CELL, KEY, choose, key_of
from puavo_repository.delta.machine import SHORT, Basis, equal, trailing_zeros

HEAD = 64  # bytes before a block in its buffer: backward compares may look at them
GROUP = 64  # slots; a power of two
CANDIDATES = 4  # equal keys that the table keeps, and that a look-up compares
ENOUGH = 1 << 16  # bytes; a match as long as this is taken without looking for a longer one
COMPARISONS = 1 << 13  # in one block, at most
_FEWEST = 1 << 10  # slots of the smallest table

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
    keys: Numbers, offsets: Numbers, first: int, table: Numbers, part: int, parts: int
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
        equal = 0
        for _ in range(GROUP):
            found = table[slot]
            if found == 0:
                table[slot] = tag | np.uint64(first + offsets[i] + 1)
                break
            if (found ^ tag) <= PLACE:
                equal += 1
                if equal == CANDIDATES:
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

    Args:
        basis: The source.
        address: Where the block lies: ``HEAD`` bytes are before it, and slack is behind it.
        length: Size of the block in bytes.
        table: Anchors of the source.
        spacing: Theirs.
        chosen: Scratch for the anchors of a cell.
        copies: Takes rows of (position in the block, position in the source, length), ascending.
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
