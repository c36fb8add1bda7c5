"""The anchors of a whole image: found while it is read, and kept beside the mirror.

A kept list is a header (``_HEADER``), the identity of the image, the number of anchors of each
block (uint32), all keys (uint32) and all offsets (uint32), little-endian. It is 8 bytes an anchor,
1/64 of an image at the usual spacing of 512 bytes.
"""

from __future__ import annotations

import logging
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puavo_repository.compiled import Bytes
from puavo_repository.delta.anchors import BLOCK, KEY, BlockAnchors, Collector, Finder
from puavo_repository.delta.machine import SLACK, buffer
from puavo_repository.mirror import files

logger = logging.getLogger(__name__)

_MAGIC = b"PuavoAn1"  # its last digit is the version: of this format, and of what an anchor is
_HEADER = struct.Struct("<8sIIQII")  # magic, CRC-32 of the rest, spacing, image, blocks, identity


@dataclass(frozen=True)
class Anchors:
    """All anchors of an image.

    Attributes:
        size: Of the image in bytes.
        spacing: Of the anchors in bytes, on average.
        blocks: The anchors of each block, in order.
    """

    size: int
    spacing: int
    blocks: list[BlockAnchors]

    @property
    def count(self) -> int:
        """Number of anchors."""
        return sum(len(block.keys) for block in self.blocks)

    def save(self, path: Path, identity: str) -> None:
        """Keep them, tied to the image's identity."""
        name = _padded(identity)
        counts = np.array([len(block.keys) for block in self.blocks], "<u4")
        arrays = [counts, *(b.keys for b in self.blocks), *(b.offsets for b in self.blocks)]
        parts = [name, *(array.astype("<u4", copy=False).tobytes() for array in arrays)]
        fields = self.spacing, self.size, len(self.blocks), len(name)
        crc = zlib.crc32(_HEADER.pack(_MAGIC, 0, *fields))
        for part in parts:
            crc = zlib.crc32(part, crc)
        head = _HEADER.pack(_MAGIC, crc, *fields)
        with files.new_file(path) as stream:
            stream.writelines([head, *parts])

    @classmethod
    def load(cls, path: Path, identity: str, size: int, spacing: int) -> Anchors | None:
        """Return kept anchors; None if there are none that are sound and for this image."""
        try:
            return cls._parse(np.fromfile(path, np.uint8), identity, size, spacing)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s is not used, the image is read instead: %s", path, error)
            return None

    @classmethod
    def _parse(cls, data: Bytes, identity: str, size: int, spacing: int) -> Anchors:
        name = _padded(identity)
        body = data[_HEADER.size :]
        if len(body) < len(name):
            raise ValueError("it is truncated")
        magic, crc, *found = _HEADER.unpack(data[: _HEADER.size].tobytes())
        if magic != _MAGIC:
            raise ValueError("it is of another version")
        if crc != zlib.crc32(body.data, zlib.crc32(_HEADER.pack(magic, 0, *found))):
            raise ValueError("it is damaged")
        *kind, blocks, length = found
        if (kind, body[:length].tobytes()) != ([spacing, size], name):
            raise ValueError("it is of another image, or its anchors were chosen otherwise")
        numbers = body[length:].view("<u4")
        ends = numbers[:blocks].cumsum(dtype=np.int64)[:-1]
        keys, offsets = numbers[blocks:].reshape(2, -1)
        pieces = zip(np.split(keys, ends), np.split(offsets, ends), strict=True)
        return cls(size, spacing, [BlockAnchors(i * BLOCK, *p) for i, p in enumerate(pieces)])


def _padded(identity: str) -> bytes:
    """Return an identity as bytes, filled up so that the numbers after it are aligned."""
    name = identity.encode()
    return name.ljust(-(-len(name) // 8) * 8)


class Indexer:
    """Finds the anchors of an image that comes in blocks of any size (an ``ImageIndexer``).

    Args:
        spacing: Of the anchors in bytes, on average.
        most: How many anchors to keep.
    """

    def __init__(self, spacing: int, most: int) -> None:
        self._finder = Finder(spacing)
        self._found = Collector(spacing, most)
        self._buffer = buffer(BLOCK)
        self._filled = 0
        self._first = 0  # position of the buffer in the image

    def update(self, block: memoryview) -> None:
        """Take the next bytes of the image."""
        data: Bytes = np.frombuffer(block, np.uint8)
        while len(data):
            taken = min(len(data), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = data[:taken]
            self._filled += taken
            data = data[taken:]
            if self._filled == len(self._buffer):
                self._find(self._first + self._filled)

    def save(self, path: Path, identity: str) -> None:
        """Keep the anchors of all that was taken; nothing may follow."""
        self.anchors().save(path, identity)

    def anchors(self) -> Anchors:
        """Return the anchors of all that was taken; nothing may follow."""
        size = self._first + self._filled
        while self._first + KEY <= size:
            self._find(size)
        return Anchors(size, self._finder.spacing, self._found.blocks)

    def _find(self, size: int) -> None:
        """Find the anchors of the block in the buffer; what follows it moves to the front."""
        self._found.add(self._finder.find(self._buffer, self._first, size))
        self._buffer[:SLACK] = self._buffer[BLOCK:]
        self._filled = max(0, self._filled - BLOCK)
        self._first += BLOCK
