"""POSIX cksum (IEEE Std 1003.1, "cksum").

Its CRC has zlib's polynomial with the bits of each byte in the other order. So the bits are
reversed in compiled code, 8 bytes and more at a time, and ISA-L's CRC, which takes the processor's
own instructions for it, does the rest; neither holds the GIL.
"""

from __future__ import annotations

import numpy as np
from isal import isal_zlib

from puavo_repository.compiled import Bytes, Word, array, inlined, kernel

_PIECE = 1 << 18  # bytes reversed at a time; stays in the processor's cache


class PosixCksum:
    """CRC of POSIX ``cksum``."""

    def __init__(self) -> None:
        self._crc = 0xFFFFFFFF
        self._size = 0
        self._reversed = array(_PIECE, np.uint8)

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""
        data: Bytes = np.frombuffer(block, np.uint8)
        for start in range(0, len(data), _PIECE):
            self._crc = self._after(data[start : start + _PIECE])
        self._size += len(data)

    def value(self) -> int:
        """Return the checksum."""
        length = self._size.to_bytes((self._size.bit_length() + 7) // 8, "little")
        crc = self._after(np.frombuffer(length, np.uint8))
        return int(f"{crc:032b}"[::-1], 2)

    def _after(self, piece: Bytes) -> int:
        reverse_bits(piece, self._reversed)
        return isal_zlib.crc32(self._reversed[: len(piece)].data, self._crc)


@inlined
def swapped(word: Word, bits: Word, mask: Word) -> Word:
    """Return a word whose groups of so many bits changed places with their neighbours."""
    return ((word >> bits) & mask) | ((word & mask) << bits)


@kernel
def reverse_bits(data: Bytes, out: Bytes) -> None:
    """Write each byte with its bits in the other order; ``out`` is as long as ``data`` at least."""
    words = len(data) // 8
    source, target = data[: 8 * words].view(np.uint64), out[: 8 * words].view(np.uint64)
    for i in range(words):
        word = source[i]
        word = swapped(word, np.uint64(4), np.uint64(0x0F0F0F0F0F0F0F0F))
        word = swapped(word, np.uint64(2), np.uint64(0x3333333333333333))
        target[i] = swapped(word, np.uint64(1), np.uint64(0x5555555555555555))
    for i in range(8 * words, len(data)):
        word = np.uint64(data[i])
        word = swapped(word, np.uint64(4), np.uint64(0x0F))
        word = swapped(word, np.uint64(2), np.uint64(0x33))
        out[i] = swapped(word, np.uint64(1), np.uint64(0x55))
