"""How many bytes source and target have in common from two places on.

Bytes are compared where they lie in memory. Where both have a chunk with the same length and digest
(see ``anchors``), that counts as the same without a look: most of two images is, and an rdiff is
proven by looking at all of it in the end.
"""

from typing import NamedTuple

import numpy as np

from puavo_repository.compiled import Numbers, Word, inlined
from puavo_repository.delta.machine import same

SOON = 1 << 14  # bytes of a match that are compared before its chunks are looked for


class Content(NamedTuple):
    """An image in memory, and its chunks: see ``index.Index``."""

    address: int
    size: int  # bytes
    ends: Numbers
    digests: Numbers


class Both(NamedTuple):
    """What is compared."""

    source: Content
    target: Content


@inlined
def chunk_from(ends: Numbers, position: int) -> Word:
    """Return the number of the first chunk that begins at a position or behind it, if any."""
    return min(np.searchsorted(ends, position) + 1, len(ends)) if position > 0 else 0


@inlined
def same_chunks(both: Both, position: int, place: int) -> Word:
    """Count bytes of chunks that source and target have in common.

    They are counted from a ``position`` of the source, and a ``place`` of the target where a chunk
    begins. Chunks with the same digest have the same length.
    """
    source, target = both.source, both.target
    one, other = chunk_from(source.ends, position), chunk_from(target.ends, place)
    done = 0
    if position > 0 and (one == 0 or source.ends[one - 1] != position):
        return done
    while one < len(source.ends) and other < len(target.ends):
        digest = target.digests[other]
        if digest == 0 or source.digests[one] != digest:
            break
        done = target.ends[other] - place
        one, other = one + 1, other + 1
    return done


@inlined
def ahead_of(both: Both, position: int, place: int, length: int) -> Word:
    """Count equal bytes from a position of the source and a place of the target on.

    They are ``length`` at most. Chunks are compared by their digests, all else byte by byte.
    """
    one, other = both.source.address + position, both.target.address + place
    length, ends = min(length, both.source.size - position), both.target.ends
    done, until = 0, min(length, SOON) if len(ends) else length
    while True:
        done += same(one + done, other + done, until - done, back=False)
        if done < until or done == length:
            return done
        chunk = chunk_from(ends, place + done)
        if place + done == 0 or ends[chunk - 1] == place + done:
            done = min(length, done + same_chunks(both, position + done, place + done))
            chunk = chunk_from(ends, place + done) + 1  # the one behind that which differs
        until = length
        if chunk <= len(ends) and ends[chunk - 1] > place + done:
            until = min(length, ends[chunk - 1] - place)


@inlined
def behind_of(both: Both, position: int, place: int, length: int) -> Word:
    """Count equal bytes before a position of the source and a place of the target."""
    one, other = both.source.address + position, both.target.address + place
    return same(one, other, min(length, position), back=True)
