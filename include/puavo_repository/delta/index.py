"""The index of an image: its anchors in a table, and the borders of its segments.

It depends on the image alone, is made while the image is read, and serves every pair: the table
where the image is the source, the borders where it is the target.

The table has open addressing, and linear probing within a group of ``GROUP`` slots, so that it
can be filled part by part: what is being filled stays in a core's cache, threads do it side by
side, and an index is kept without ever having its whole table in memory.

A target is searched segment by segment, each by itself. A segment ends at an anchor with a low
key, so equal content has equal segments wherever it lies, and what was found for a segment of one
image holds for the same segment of another (see ``shared``). The keys also tell how much two
images have in common. Where that is nearly all, the search is short without that, and segments of
``anchors.BLOCK`` give a smaller rdiff: they have fewer edges, where less is known around a gap.

A kept index is a header (``_HEADER``), the identity of the image, the borders (int64), the ends of
the chunks (int64), their digests (uint64), the keys of the borders (uint32) and the table (uint64),
little-endian. At the usual spacing of 512 bytes it is 1/48 to 1/24 of an image.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Iterable
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from isal import isal_zlib

from puavo_repository.compiled import Numbers, Word, array, inlined, kernel
from puavo_repository.delta import anchors
from puavo_repository.delta.anchors import Anchors, BlockAnchors
from puavo_repository.delta.machine import trailing_zeros
from puavo_repository.mirror import files

logger = logging.getLogger(__name__)

GROUP = 64  # slots; a power of two
PART = 1 << 20  # slots of a table that are filled together, 8 MiB; a multiple of the groups
CANDIDATES = 4  # equal keys that the table keeps, and that a look-up compares
PLACE = np.uint64((1 << 40) - 1)  # of a slot: 24 bits of the key above 40 of the position + 1
_FEWEST = 1 << 10  # slots of the smallest table
_NEAR = 0.95  # share of the borders that two images have in common if they are nearly the same
_SEGMENTS = 2  # in ``anchors.BLOCK`` on average

_MAGIC = b"PuavoAn3"  # its last digit is the version: of this format, and of what an anchor is
# Magic, CRC-32 of all but the table, CRC-32 of the table, spacing, image, borders, chunks,
# identity.
_HEADER = struct.Struct("<8sIIIQIII")


class Index(NamedTuple):
    """What is known of the content of an image."""

    borders: Numbers  # where its segments end, ascending, int64[n]
    keys: Numbers  # of the anchors there, uint32[n]; 0 where there is none
    ends: Numbers  # where its chunks end, ascending, int64[m]
    digests: Numbers  # of its chunks, uint64[m]
    table: Numbers  # uint64[a power of two]


class Indexer(Anchors):
    """Takes the anchors of an image, and keeps its index."""

    def save(self, path: Path, identity: str, size: int) -> None:
        """Keep it (atomically), tied to the identity of the image, which has ``size`` bytes."""
        borders, keys, ends, digests, _ = index_of(self, size, table=False)
        name = _padded(identity)
        head = name + b"".join(one.tobytes() for one in (borders, ends, digests, keys))
        slots, crc = slots_for(self.count), 0
        with files.new_file(path) as stream:
            stream.seek(_HEADER.size + len(head))
            for start in range(0, slots, PART):
                part = array(min(PART, slots), np.uint64)
                fill(part, start, slots, self.blocks)
                stream.write(part.data)
                crc = isal_zlib.crc32(part.data, crc)
            fields = crc, self.spacing, size, len(borders), len(ends), len(name)
            crc = isal_zlib.crc32(_HEADER.pack(_MAGIC, 0, *fields) + head)
            stream.seek(0)
            stream.write(_HEADER.pack(_MAGIC, crc, *fields) + head)


def load(path: Path, identity: str, size: int, spacing: int, *, table: bool) -> Index | None:
    """Return a kept index, without its ``table`` or with it; None unless it is for this image."""
    try:
        with path.open("rb", buffering=0) as stream:
            known, crc = _read_head(stream, _padded(identity), size, spacing)
            return Index(*known, _read_table(stream, crc) if table else array(0, np.uint64))
    except (OSError, ValueError, struct.error) as why:
        logger.debug("no index at %s can be used: %s", path, why)
        return None


def _read_head(
    stream: FileIO, name: bytes, size: int, spacing: int
) -> tuple[tuple[Numbers, Numbers, Numbers, Numbers], int]:
    """Return all that a kept index has before its table, and the CRC of that."""
    head = _HEADER.unpack(stream.read(_HEADER.size))
    magic, crc, crc_of_table, *kind, count, chunks, length = head
    if magic != _MAGIC:
        raise ValueError("it is of another version")
    if kind != [spacing, size] or length != len(name):
        raise ValueError("it is of another image, or its anchors were chosen otherwise")
    rest = length + 12 * count + 16 * chunks
    if rest > os.fstat(stream.fileno()).st_size:  # else memory is asked for that nobody has
        raise ValueError("it is damaged")
    body = bytearray(rest)  # the numbers stay where they are read to
    stream.readinto(body)
    fields = crc_of_table, *kind, count, chunks, length
    if crc != isal_zlib.crc32(_HEADER.pack(magic, 0, *fields) + body) or body[:length] != name:
        raise ValueError("it is damaged, or of another image")
    borders = np.frombuffer(body, "<i8", count, length)
    ends = np.frombuffer(body, "<i8", chunks, length + 8 * count)
    digests = np.frombuffer(body, "<u8", chunks, length + 8 * (count + chunks))
    keys = np.frombuffer(body, "<u4", count, length + 8 * count + 16 * chunks)
    return (borders, keys, ends, digests), crc_of_table


def _read_table(stream: FileIO, crc: int) -> Numbers:
    """Return the table at the end of a kept index."""
    table = np.fromfile(stream, "<u8")
    if stream.read(1) or len(table).bit_count() != 1 or crc != isal_zlib.crc32(table.data):
        raise ValueError("its table is damaged")
    return table


def _padded(identity: str) -> bytes:
    """Return an identity as bytes, filled up so that the numbers after it are aligned."""
    name = identity.encode()
    return name.ljust(-(-len(name) // 8) * 8)


def segments(source: Index, target: Index) -> tuple[Numbers, bool]:
    """Return where the segments of a target end, and whether its content chose that."""
    chosen = target.keys[target.keys > 0]
    if np.isin(chosen, source.keys).sum() < _NEAR * len(chosen):
        return target.borders, True
    size = int(target.borders[-1]) if len(target.borders) else 0
    return np.append(np.arange(anchors.BLOCK, size, anchors.BLOCK), [size][: size > 0]), False


def index_of(
    found: Anchors, size: int, do: Callable[..., Iterable[None]] = map, *, table: bool
) -> Index:
    """Return the index of an image of which all anchors were found, with its ``table`` or without.

    The parts of the table may be filled at the same time.
    """
    slots = slots_for(found.count) if table else 0
    filled = array(slots, np.uint64)

    def fill_part(start: int) -> None:
        fill(filled[start : start + PART], start, slots, found.blocks)

    for _ in do(fill_part, range(0, slots, PART)):
        pass
    chunks = np.concatenate(found.ends), np.concatenate(found.digests)
    return Index(*borders_of(found, size), *chunks, filled)


def fill(part: Numbers, start: int, slots: int, blocks: Iterable[BlockAnchors]) -> None:
    """Fill the part of a table of so many slots that begins at slot ``start``."""
    for block in blocks:
        insert(*block, part, start, slots)


def borders_of(found: Anchors, size: int) -> tuple[Numbers, Numbers]:
    """Return borders and keys of an image of which all anchors were found."""
    mean = anchors.BLOCK // _SEGMENTS
    limit = (1 << 32) * found.spacing // mean
    least, most = mean // 4, anchors.BLOCK
    borders, keys = array(size // least + 2, np.int64), array(size // least + 2, np.uint32)
    count = 0
    for block in found.blocks:
        count = add_borders(*block, limit, least, most, borders, keys, count)
    last = int(borders[count - 1]) if count else 0
    rest = [*range(last + most, size, most), size] if size > last else []
    keys = keys[: count + len(rest)]
    return np.concatenate([borders[:count], np.array(rest, np.int64)]), keys.copy()


@kernel
def add_borders(
    first: int, keys: Numbers, offsets: Numbers, limit: int, least: int, most: int,
    borders: Numbers, chosen: Numbers, count: int,
) -> int:  # fmt: skip
    """Add the borders that the anchors of a block make; returns how many there are by then.

    A segment has ``least`` bytes or more, and ``most`` or fewer.
    """
    last = borders[count - 1] if count else 0
    for i in range(len(keys)):
        position = first + np.int64(offsets[i])
        if keys[i] < limit and position - last >= least:
            while position - last > most:
                last += most
                borders[count] = last
                count += 1
            if position > last:
                last = position
                borders[count], chosen[count] = last, keys[i]
                count += 1
    return count


def slots_for(anchors: int) -> int:
    """Return how many slots the table for that many anchors has, a power of two."""
    slots = _FEWEST
    while slots * 3 < anchors * 4:
        slots *= 2
    return slots


def most_anchors(memory: int) -> int:
    """Return how many anchors fit into so many bytes: 8 bytes each, and their table."""
    tables = (1 << bits for bits in range(_FEWEST.bit_length() - 1, 40))
    return max(min(slots * 3 // 4, memory // 8 - slots) for slots in tables)


@inlined
def slot_of(slots: int, key: Word) -> Word:
    """Return where the search for a 64-bit key begins in a table of so many slots: its top bits."""
    return np.int64(key >> np.uint64(64 - trailing_zeros(np.uint64(slots))))


@inlined
def next_slot(slot: int) -> int:
    """Return the slot after another one in its group, round and round."""
    return (slot & ~(GROUP - 1)) | ((slot + 1) & (GROUP - 1))


@kernel
def insert(
    first: int, keys: Numbers, offsets: Numbers, part: Numbers, start: int, slots: int
) -> None:
    """Put the anchors of a block, which is at ``first``, into a part of a table.

    The part begins at slot ``start`` of a table of so many ``slots``; it has whole groups of them.
    Anchors of other parts are passed over.
    """
    for i in range(len(keys)):
        key = np.uint64(keys[i])
        slot = slot_of(slots, key << np.uint64(32)) - start
        if not 0 <= slot < len(part):
            continue
        tag = key << np.uint64(40)
        equals = 0
        for _ in range(GROUP):
            found = part[slot]
            if found == 0:
                part[slot] = tag | np.uint64(first + offsets[i] + 1)
                break
            if (found ^ tag) <= PLACE:
                equals += 1
                if equals == CANDIDATES:
                    break
            slot = next_slot(slot)
