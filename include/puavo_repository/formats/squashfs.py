"""The superblock of squashfs 4.0: enough to tell a whole image from a truncated one.

Source of the format: Linux, ``fs/squashfs/squashfs_fs.h``, ``struct squashfs_super_block``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

SUPERBLOCK_SIZE = 96  # bytes
_MAGIC = 0x73717368  # "hsqs", little-endian
_LAYOUT = struct.Struct("<IIIIIHHHHHHQQ")  # as far as bytes_used


@dataclass(frozen=True)
class Superblock:
    """What we read of it.

    Attributes:
        bytes_used: Length of the file system in bytes; the file may be padded beyond it.
    """

    bytes_used: int

    @classmethod
    def parse(cls, data: bytes) -> Superblock:
        """Read it from the first 96 bytes of a file.

        Raises:
            ValueError: These are not the first bytes of a squashfs 4.0 image; the text says
                what they are instead.
        """
        if not data:
            raise ValueError("an empty file")
        if len(data) < SUPERBLOCK_SIZE:
            raise ValueError(f"a file of only {len(data)} bytes")
        fields = _LAYOUT.unpack_from(data)
        if fields[0] != _MAGIC:
            raise ValueError(f"a file that begins with the bytes {data[:4].hex(' ')}")
        if (fields[9], fields[10]) != (4, 0):
            raise ValueError(f"squashfs version {fields[9]}.{fields[10]}")
        return cls(bytes_used=fields[12])
