"""The superblock of squashfs 4.0: enough to tell a whole image from a truncated one.

Source of the format: Linux, ``fs/squashfs/squashfs_fs.h``, ``struct squashfs_super_block``.
"""

import struct

SUPERBLOCK_SIZE = 96  # bytes
_MAGIC = 0x73717368  # "hsqs", little-endian
_LAYOUT = struct.Struct("<IIIIIHHHHHHQQ")  # as far as bytes_used


def bytes_used(data: bytes) -> int:
    """Return the length in bytes of the file system that begins with these 96; padding may follow.

    Raises:
        ValueError: They are not of a squashfs 4.0 image; the text says what they are instead.
    """
    if not data:
        raise ValueError("an empty file")
    if len(data) < SUPERBLOCK_SIZE:
        raise ValueError(f"a file of only {len(data)} bytes")
    magic, *_, major, minor, _, used = _LAYOUT.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError(f"a file that begins with the bytes {data[:4].hex(' ')}")
    if (major, minor) != (4, 0):
        raise ValueError(f"squashfs version {major}.{minor}")
    return int(used)
