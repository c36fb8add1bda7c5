"""POSIX cksum."""

from __future__ import annotations

import zlib

_REVERSED = bytes(int(f"{n:08b}"[::-1], 2) for n in range(256))


class PosixCksum:
    """CRC of POSIX ``cksum``: zlib's polynomial, bits of each byte in the other order."""

    def __init__(self) -> None:
        self._crc = 0xFFFFFFFF
        self._size = 0

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""
        self._size += len(block)
        self._crc = zlib.crc32(bytes(block).translate(_REVERSED), self._crc)

    def value(self) -> int:
        """Return the checksum."""
        size, length = self._size, b""
        while size:
            length += bytes([size & 0xFF])
            size >>= 8
        crc = zlib.crc32(length.translate(_REVERSED), self._crc)
        return int(f"{crc ^ 0:032b}"[::-1], 2)
