"""What compiled code needs of the machine and Numba does not offer: wide loads and compares.

Images and buffers are passed to the kernels as arrays or addresses by their Python callers, which
keep them alive; the kernels work with addresses. A wide load may touch ``SLACK`` bytes behind the
data it is asked about, and, going back, as many before it: see ``mapped``.

No strong hash is needed to trust a match, since the bytes themselves are compared, where they lie
in the page cache.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from puavo_repository.compiled import Word, inlined, llvm_intrinsic

SLACK = 128  # bytes around the data that can be read; the widest load is 64 bytes
SELECT_FACTORS = (0x9E3779B1, 0x85EBCA77)  # odd, from xxHash's primes
_i16, _i32, _i64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)


def _loaded(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


@llvm_intrinsic(types.uint64(types.uintp))
def load64(builder: Any, address: Any) -> Any:
    """Return the 8 bytes at an address as an unsigned number, least byte first."""
    return _loaded(builder, address, _i64)


@llvm_intrinsic(types.uint64(types.uintp, types.uintp))
def differing(builder: Any, one: Any, other: Any) -> Any:
    """Compare 64 bytes at two addresses; bit i of the result tells that byte i differs."""
    wide = ir.VectorType(ir.IntType(8), 64)
    a, b = _loaded(builder, one, wide), _loaded(builder, other, wide)
    return builder.bitcast(builder.icmp_unsigned("!=", a, b), _i64)


@llvm_intrinsic(types.uint64(types.uintp, types.uint32))
def selected(builder: Any, address: Any, limit: Any) -> Any:
    """Select of the 64 positions from an address those whose hash is below a limit.

    The hash of a position is that of ``selector``. It has no state that runs from byte to byte,
    so that 16 positions are computed at once; reads 71 bytes. Bit ``16 * r + j`` of the result
    stands for the position ``4 * j + r``.
    """
    wide = ir.VectorType(_i32, 16)

    def words(offset: int, factor: int) -> Any:
        found = _loaded(builder, builder.add(address, _i64(offset)), wide)
        return builder.mul(found, ir.Constant(wide, [factor] * 16))

    limits = ir.Constant(wide, ir.Undefined)
    for lane in range(16):
        limits = builder.insert_element(limits, limit, _i32(lane))
    result = _i64(0)
    for phase in range(4):
        hashes = builder.add(words(phase, SELECT_FACTORS[0]), words(phase + 4, SELECT_FACTORS[1]))
        mask = builder.bitcast(builder.icmp_unsigned("<", hashes, limits), _i16)
        mask = builder.shl(builder.zext(mask, _i64), _i64(16 * phase))
        result = builder.or_(result, mask)
    return result


@llvm_intrinsic(types.int64(types.uint64))
def trailing_zeros(builder: Any, number: Any) -> Any:
    """Count the zero bits below the lowest set bit of a 64-bit number that is not zero."""
    return builder.cttz(number, cgutils.true_bit)


@llvm_intrinsic(types.int64(types.uint64))
def leading_zeros(builder: Any, number: Any) -> Any:
    """Count the zero bits above the highest set bit of a 64-bit number that is not zero."""
    return builder.ctlz(number, cgutils.true_bit)


@inlined
def swapped(word: Word, shift: int, mask: int) -> Word:
    """Return a word whose bits of a mask changed places with those ``shift`` bits above them."""
    moved = (word ^ (word >> np.uint64(shift))) & np.uint64(mask)
    return word ^ moved ^ (moved << np.uint64(shift))


@inlined
def in_order(hits: Word) -> Word:
    """Return what ``selected`` gives with bit i for position i: 4 rows of 16 bits, transposed."""
    hits = swapped(hits, 12, 0x0000F0F00000F0F0)
    hits = swapped(hits, 3, 0x0A0A0A0A0A0A0A0A)
    hits = swapped(hits, 24, 0x00000000FF00FF00)
    return swapped(hits, 6, 0x00CC00CC00CC00CC)


@inlined
def selector(address: int) -> Word:
    """Return the hash that ``selected`` compares, of the 8 bytes at an address; 32 bits."""
    word = load64(address)
    low = np.uint32(word) * np.uint32(SELECT_FACTORS[0])
    return np.uint32(low + np.uint32(word >> np.uint64(32)) * np.uint32(SELECT_FACTORS[1]))


@inlined
def same(one: int, other: int, length: int, back: bool) -> Word:  # noqa: FBT001
    """Count equal bytes from two addresses on, or back from them, ``length`` at most."""
    for i in range(0, length, 64):
        step = -i - 64 if back else i
        unequal = differing(one + step, other + step)
        if unequal:
            found = leading_zeros(unequal) if back else trailing_zeros(unequal)
            return min(i + found, length)
    return length
