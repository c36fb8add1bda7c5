"""POSIX cksum (IEEE Std 1003.1, "cksum").

Its CRC has zlib's polynomial with the bits of each byte in the other order. So the bits are
reversed in compiled code, and ISA-L's CRC, which takes the processor's own instructions for it,
does the rest; neither holds the GIL.
"""

import numpy as np
from isal import isal_zlib

from puavo_repository.compiled import Bytes, array, kernel

_PIECE = 1 << 18  # bytes reversed at a time; stays in the processor's cache


class PosixCksum:
    """CRC of POSIX ``cksum``."""

    def __init__(self) -> None:
        self._crc = 0xFFFFFFFF
        self._size = 0
        self._reversed = array(_PIECE, np.uint8)

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""
        for start in range(0, len(block), _PIECE):
            self._crc = self._after(block[start : start + _PIECE])
        self._size += len(block)

    def value(self) -> int:
        """Return the checksum."""
        length = self._size.to_bytes((self._size.bit_length() + 7) // 8, "little")
        return int(f"{self._after(length):032b}"[::-1], 2)

    def _after(self, piece: bytes | memoryview) -> int:
        # Read only, whatever the caller may do to it: the kernel is compiled once.
        reverse_bits(np.frombuffer(memoryview(piece).toreadonly(), np.uint8), self._reversed)
        return isal_zlib.crc32(self._reversed[: len(piece)].data, self._crc)


@kernel
def reverse_bits(data: Bytes, out: Bytes) -> None:
    """Write each byte with its bits in the other order; ``out`` is as long as ``data`` at least."""
    for i in range(len(data)):
        byte = data[i]
        byte = ((byte >> 4) & 0x0F) | ((byte & 0x0F) << 4)
        byte = ((byte >> 2) & 0x33) | ((byte & 0x33) << 2)
        out[i] = ((byte >> 1) & 0x55) | ((byte & 0x55) << 1)
