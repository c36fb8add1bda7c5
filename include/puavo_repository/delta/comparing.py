"""Comparing: how far the bytes around a position of the source equal those at an address.

No strong hash is needed to trust a match, since the bytes themselves are compared. The source is
read in windows that grow with the match: a false hit costs one small read, and a long match runs
at the speed of the page cache.
"""

from __future__ import annotations

from puavo_repository.compiled import Bytes, Word, inlined
from puavo_repository.delta.machine import differing, leading_zeros, read, trailing_zeros

WINDOW = 1 << 18  # bytes of the source that are compared at a time, at most
SHORT = -1  # a read was short: the source is not as long as it was
_FORWARD, _BACKWARD, _GROWTH = 512, 256, 8  # bytes of the first reads; factor of the next ones


@inlined
def same_after(one: int, other: int, length: int) -> Word:
    """Count equal bytes from two addresses on, ``length`` at most."""
    for i in range(0, length, 64):
        unequal = differing(one + i, other + i)
        if unequal:
            return min(i + trailing_zeros(unequal), length)
    return length


@inlined
def same_before(one: int, other: int, length: int) -> Word:
    """Count equal bytes before two addresses, ``length`` at most."""
    for i in range(0, length, 64):
        unequal = differing(one - i - 64, other - i - 64)
        if unequal:
            return min(i + leading_zeros(unequal), length)
    return length


@inlined
def equal_after(
    source: int, size: int, position: int, address: int, length: int, window: Bytes
) -> Word:
    """Count equal bytes from a position of the source and an address on.

    Args:
        source: Descriptor of the source.
        size: Its size in bytes.
        position: Where in it.
        address: Where in memory.
        length: How many bytes to compare at most.
        window: Scratch of ``WINDOW`` bytes and slack.

    Returns:
        How many are equal, or ``SHORT``.
    """
    place = window.ctypes.data
    length = min(length, size - position)
    step = _FORWARD
    done = 0
    while done < length:
        part = min(step, length - done)
        if not read(source, place, part, position + done):
            return SHORT
        same = same_after(place, address + done, part)
        done += same
        if same < part:
            break
        step = min(_GROWTH * step, WINDOW)
    return done


@inlined
def equal_before(source: int, position: int, address: int, length: int, window: Bytes) -> Word:
    """Count equal bytes before a position and an address; 64 bytes before those are readable."""
    place = window.ctypes.data + 64
    length = min(length, position)
    step = _BACKWARD
    done = 0
    while done < length:
        part = min(step, length - done)
        if not read(source, place, part, position - done - part):
            return SHORT
        same = same_before(place + part, address - done, part)
        done += same
        if same < part:
            break
        step = min(_GROWTH * step, WINDOW - 64)
    return done
