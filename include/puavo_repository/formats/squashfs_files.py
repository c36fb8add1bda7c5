"""Where in a squashfs image what lies: its files, their blocks and fragments, its tables.

Source of the format: Linux, ``fs/squashfs/squashfs_fs.h``. An image is foreign bytes: every number
of it is checked before it is used, what is read and made of it has a limit, and a folder is entered
once. So reading ends, in time that grows with the image, and what is damaged is an error.
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from puavo_repository.errors import ImageError, as_storage_error
from puavo_repository.formats.decompress import decompressor
from puavo_repository.formats.squashfs import REPLACE, SUPERBLOCK, check

_BASE = struct.Struct("<HHHHII")
_DIRECTORY, _LONG_DIRECTORY = struct.Struct("<IIHHI"), struct.Struct("<IIIIHHI")
_FILE, _LONG_FILE = struct.Struct("<IIII"), struct.Struct("<QQQIIII")
_LISTING, _ENTRY = struct.Struct("<III"), struct.Struct("<HhHH")
_FRAGMENT, _INDEX, _LENGTH = struct.Struct("<QII"), struct.Struct("<Q"), struct.Struct("<H")
IS_DIRECTORY, IS_FILE, _LONG = 1, 2, 7  # types of inodes; with a long one so much more
_INODES, _DIRECTORIES = "inode table", "directory table"
_BLOCK = 8192  # bytes of a block of a table, unpacked
_RAW_BLOCK, RAW = 1 << 15, 1 << 24  # this block of a table, of a file is not compressed
_NONE, _ABSENT = 0xFFFFFFFF, (1 << 64) - 1  # no fragment; no such table
_OPTIONS = 1 << 10  # a flag: how it was compressed is told after the superblock
_LARGEST_TABLE = 256 << 20  # bytes of a table, unpacked; of a million files they are 50 MB
_MOST_FRAGMENTS = 1 << 20  # of which each is a block of many small files
_LONGEST_PATH = 4096  # bytes, as the system has it
_CACHED = 16 << 20  # bytes of fragment blocks that are kept, of each image


class File(NamedTuple):
    """A plain file: where its blocks lie, one after the other, and its end in a fragment."""

    size: int
    start: int  # of its first block in the image
    stored: int  # bytes of its blocks there
    blocks: int
    words: int  # where in the inode table the lengths of its blocks lie
    fragment: int  # number of the fragment block, -1 where there is none
    offset: int  # in that, unpacked
    tail: int  # bytes there


class Segment(NamedTuple):
    """A part of the image and what it is."""

    start: int
    end: int
    name: str


class Squashfs:
    """An image, open for reading."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, SUPERBLOCK.size, 0)
        (_, _, _, self.block_size, self._fragment_count, self.compression, _, self._flags, ids,
         _, _, root, self.used, self._ids, self._xattrs, self._inode_start, self._directory_start,
         self._fragment_start, self._lookup) = SUPERBLOCK.unpack(head)  # fmt: skip
        if self.block_size not in {1 << power for power in range(12, 21)}:
            raise ValueError(f"its blocks have {self.block_size} bytes")
        self._decompress = decompressor(self.compression)
        if self._fragment_count > _MOST_FRAGMENTS:  # they may all be the same few bytes
            raise ValueError(f"it has {self._fragment_count} blocks of fragments")
        self.segments = list(self._find_segments(ids))  # what is no file's, in order
        tables = {one.name: one for one in self.segments}
        self._inodes, self._inode_blocks = self._table(tables[_INODES])
        self._listings, self._listing_blocks = self._table(tables[_DIRECTORIES])
        self._root = self._inode_blocks[root >> 16] + (root & 0xFFFF)
        self.fragments = list(self._read_fragments())
        kept = max(2, _CACHED // self.block_size)
        self._fragment: Callable[[int], bytes] = lru_cache(kept)(self._unpacked_fragment)

    def _find_segments(self, ids: int) -> Iterator[Segment]:
        """Yield the superblock and the tables."""
        head = SUPERBLOCK.size
        if self._flags & _OPTIONS:
            head += 2 + (_LENGTH.unpack(self.read(head, 2))[0] & ~_RAW_BLOCK)
        yield Segment(0, head, "superblock")
        starts = [(self._inode_start, _INODES), (self._directory_start, _DIRECTORIES)]
        indexed = (
            (self._fragment_count, self._fragment_start, "fragment table"),
            (self._lookup != _ABSENT, self._lookup, "lookup table"),
            (ids, self._ids, "id table"),
            (self._xattrs != _ABSENT, self._xattrs, "xattr table"),
        )
        starts += [(self._first(index), name) for is_there, index, name in indexed if is_there]
        starts.sort()
        for (start, name), (end, _) in zip(starts, [*starts[1:], (self.used, "")], strict=True):
            if not head <= start <= end:
                raise ValueError(f"its {name} lies at byte {start}")
            yield Segment(start, end, name)

    def _first(self, index: int) -> int:
        """Return where a table begins, whose index lies at a position: that comes after it."""
        return int(_INDEX.unpack(self.read(index, 8))[0])

    def read(self, position: int, length: int) -> bytes:
        """Return so many bytes of the image as they are."""
        if position + length > self.used:
            raise ValueError(f"it refers to byte {position + length}, behind its end")
        return os.pread(self._descriptor, length, position)

    def _metadata_block(self, position: int) -> tuple[bytes, int]:
        """Return a block of a table, unpacked, and where the next one begins."""
        word = _LENGTH.unpack(self.read(position, 2))[0]
        length = word & ~_RAW_BLOCK
        data = self.read(position + 2, length)
        if not word & _RAW_BLOCK:
            data = self._decompress(data, _BLOCK)
        if not 0 < len(data) <= _BLOCK:
            raise ValueError(f"the block of a table at byte {position} is empty or too long")
        return data, position + 2 + length

    def _table(self, table: Segment) -> tuple[bytes, dict[int, int]]:
        """Return a table, unpacked, and where in that the blocks begin, by their positions."""
        blocks, at, position, parts = {}, 0, table.start, []
        while position < table.end:
            blocks[position - table.start] = at
            data, position = self._metadata_block(position)
            parts.append(data)
            at += len(data)
            if at > _LARGEST_TABLE:
                raise ValueError(f"a table of it has more than {_LARGEST_TABLE >> 20} MiB")
        return b"".join(parts), blocks

    def _read_fragments(self) -> Iterator[tuple[int, int]]:
        """Yield position and word of each fragment block."""
        each = _BLOCK // _FRAGMENT.size
        for number in range(0, self._fragment_count, each):
            index = self._first(self._fragment_start + number // each * 8)
            data, _ = self._metadata_block(index)
            for at in range(min(each, self._fragment_count - number)):
                start, word, _ = _FRAGMENT.unpack_from(data, at * _FRAGMENT.size)
                if start + (word & ~RAW) > self.used:
                    raise ValueError(f"a fragment block lies at byte {start}")
                yield start, word

    def _unpacked_fragment(self, number: int) -> bytes:
        start, word = self.fragments[number]
        return self._unpacked(start, word)

    def _unpacked(self, start: int, word: int) -> bytes:
        data = self.read(start, word & ~RAW)
        return data if word & RAW else self._decompress(data, self.block_size)

    def folder(self, path: str) -> Iterator[tuple[str, int, int]]:
        """Yield of all in a folder its name, type and what ``file`` takes; of none, nothing.

        No link on the way to it is followed.
        """
        kind, at = IS_DIRECTORY, self._root
        for part in path.split("/"):
            inside = self._entries(self._listing(at)) if kind == IS_DIRECTORY else ()
            kind, at = next((one[1:] for one in inside if one[0] == part), (0, 0))
        if kind == IS_DIRECTORY:
            yield from self._entries(self._listing(at))

    def walk(self) -> Iterator[tuple[str, int]]:
        """Yield each plain file's path and what ``file`` takes; of several links, each."""
        waiting = [("", self._root)]
        seen, left = set(), len(self._listings)
        while waiting:
            folder, at = waiting.pop()
            if at in seen:
                raise ValueError(f"the folder {folder} is in it twice")
            seen.add(at)
            listing = self._listing(at)
            left -= len(listing)
            if left < 0:  # else each of many folders might have all entries of a large one
                raise ValueError("its folders share their lists")
            folders = []
            for name, kind, inside in self._entries(listing):
                path = f"{folder}/{name}"
                if len(path) > _LONGEST_PATH:
                    raise ValueError("a path in it is too long")
                if kind == IS_DIRECTORY:
                    folders.append((path, inside))
                elif kind == IS_FILE:
                    yield path, inside
            waiting += reversed(folders)

    def _listing(self, at: int) -> memoryview:
        """Return the list of a folder by its inode."""
        kind = _BASE.unpack_from(self._inodes, at)[0]
        if kind == IS_DIRECTORY:
            block, _, size, offset, _ = _DIRECTORY.unpack_from(self._inodes, at + _BASE.size)
        elif kind == IS_DIRECTORY + _LONG:
            _, size, block, _, _, offset, _ = _LONG_DIRECTORY.unpack_from(
                self._inodes, at + _BASE.size
            )
        else:
            raise ValueError("what should be a folder is none")
        if size <= 3:  # as Linux counts "." and ".."
            return memoryview(b"")
        start = self._listing_blocks[block] + offset
        if start + size - 3 > len(self._listings):
            raise ValueError("the list of a folder goes beyond its table")
        return memoryview(self._listings)[start : start + size - 3]

    def _entries(self, listing: memoryview) -> Iterator[tuple[str, int, int]]:
        """Yield of each entry its name, its type, and where its inode lies in their table."""
        at = 0
        while at < len(listing):
            count, block, _ = _LISTING.unpack_from(listing, at)
            at += _LISTING.size
            for _ in range(count + 1):
                offset, _, kind, length = _ENTRY.unpack_from(listing, at)
                at += _ENTRY.size + length + 1
                name = os.fsdecode(bytes(listing[at - length - 1 : at]))
                yield name, kind, self._inode_blocks[block] + offset

    def file(self, at: int) -> File:
        """Return a file by the place of its inode in their table."""
        kind = _BASE.unpack_from(self._inodes, at)[0]
        at += _BASE.size
        if kind == IS_FILE:
            start, fragment, offset, size = _FILE.unpack_from(self._inodes, at)
            at += _FILE.size
        elif kind == IS_FILE + _LONG:
            start, size, _, _, fragment, offset, _ = _LONG_FILE.unpack_from(self._inodes, at)
            at += _LONG_FILE.size
        else:
            raise ValueError("what should be a file is none")
        blocks, tail = divmod(size, self.block_size)
        if fragment == _NONE:
            blocks, tail, fragment, offset = blocks + bool(tail), 0, -1, 0
        elif fragment >= len(self.fragments) or offset + tail > self.block_size:
            raise ValueError(f"a file refers to fragment {fragment}")
        if at + 4 * blocks > len(self._inodes):
            raise ValueError("a file has more blocks than its table")
        stored = sum(word & ~RAW for word in self.words_of(at, blocks))
        if start + stored > self.used:
            raise ValueError(f"a file lies at byte {start}")
        return File(size, start, stored, blocks, at, fragment, offset, tail)

    def words_of(self, at: int, blocks: int) -> memoryview:
        """Return of each block how long it is, and whether compressed; 0 for a hole."""
        return memoryview(self._inodes)[at : at + 4 * blocks].cast("I")

    def content(self, file: File) -> Iterator[bytes]:
        """Yield what a file contains, a block at a time."""
        position, left = file.start, file.size
        for word in self.words_of(file.words, file.blocks):
            length = min(self.block_size, left)
            yield self._exactly(length, self._unpacked(position, word) if word else bytes(length))
            position, left = position + (word & ~RAW), left - length
        if file.tail:
            data = self._fragment(file.fragment)[file.offset : file.offset + file.tail]
            yield self._exactly(file.tail, data)

    @staticmethod
    def _exactly(length: int, data: bytes) -> bytes:
        if len(data) != length:
            raise ValueError(f"a block of a file has {len(data)} bytes, not {length}")
        return data


@contextmanager
def opened(path: Path) -> Iterator[Squashfs]:
    """Open an image.

    Raises:
        ImageError: It is none, or damaged; also while the block uses it.
        StorageError, StorageRefusedError: It cannot be read.
    """
    with as_storage_error(path), path.open("rb", buffering=0) as stream:
        try:
            check(path, stream.fileno())
            yield Squashfs(stream.fileno())
        except (ValueError, LookupError, struct.error, OverflowError, MemoryError) as error:
            raise ImageError(
                path,
                "this image is damaged: it cannot be read as squashfs",
                found=str(error) or type(error).__name__,
                remedy=REPLACE,
            ) from error
