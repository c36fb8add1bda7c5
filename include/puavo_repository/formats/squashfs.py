"""The superblock of squashfs 4.0: enough to tell a whole image from a truncated one.

Source of the format: Linux, ``fs/squashfs/squashfs_fs.h``, ``struct squashfs_super_block``.
"""

import os
import struct
from pathlib import Path

from puavo_repository.errors import ImageError

SUPERBLOCK = struct.Struct("<5I6H8Q")
REPLACE = "Replace it by a whole image, or move it out of the image directory"
_MAGIC = 0x73717368  # "hsqs", little-endian


def check(path: Path, descriptor: int) -> None:
    """Raise an ``ImageError`` unless an open file begins as an image of no more than its length.

    Padding may follow.
    """
    size, head = os.fstat(descriptor).st_size, os.pread(descriptor, SUPERBLOCK.size, 0)
    problem = "this is not a squashfs image"
    expected, found = "a squashfs 4.0 image as mksquashfs makes it", f"{size} bytes"
    if len(head) < SUPERBLOCK.size:
        found = f"a file of only {size} bytes" if size else "an empty file"
    else:
        magic, *_, major, minor, _, used, _, _, _, _, _, _ = SUPERBLOCK.unpack(head)
        if magic != _MAGIC:
            found = f"a file that begins with the bytes {head[:4].hex(' ')}"
        elif (major, minor) != (4, 0):
            found = f"squashfs version {major}.{minor}"
        elif size >= used:
            return
        else:
            problem = "this image is truncated, or still being copied"
            expected = f"at least {used} bytes, as its superblock says"
    raise ImageError(path, problem, expected=expected, found=found, remedy=REPLACE)
