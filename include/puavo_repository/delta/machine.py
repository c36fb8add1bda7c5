"""What compiled code needs of the machine and Numba does not offer: wide loads, compares, pread.

Buffers are passed to the kernels as arrays or addresses by their Python callers, which keep them
alive; the kernels work with addresses. A wide load may touch ``SLACK`` bytes beyond the data it is
asked about, so every buffer ends with that many spare bytes.

Images are read with ``pread`` only, never mapped: someone who copies a new image over one that
is being read makes a read short, where a mapped page would kill the process with SIGBUS.

No strong hash is needed to trust a match, since the bytes themselves are compared. The source is
read in windows that grow with the match: a false hit costs one small read, and a long match runs
at the speed of the page cache.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from puavo_repository.compiled import Bytes, Word, array, inlined, llvm_intrinsic

SLACK = 128  # bytes behind the data in every buffer; the widest load is 64 bytes
WINDOW = 1 << 18  # bytes of a buffer for the source; so many are compared at a time, nearly
SHORT = -1  # a read was short: the source is not as long as it was
SELECT_FACTORS = (0x9E3779B1, 0x85EBCA77)  # odd, from xxHash's primes
_FORWARD, _BACKWARD, _GROWTH = 512, 256, 8  # bytes of the first reads; factor of the next ones
_i16, _i32, _i64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)

pread: Any = types.ExternalFunction(
    "pread", types.intp(types.int32, types.uintp, types.uintp, types.int64)
)


class Basis(NamedTuple):
    """The source of an rdiff, to compare with."""

    descriptor: int
    size: int  # bytes
    window: int  # address of a buffer of ``WINDOW`` bytes
    place: int = 0  # address of a buffer with a region of it, and 64 bytes before that
    start: int = 0  # position of the region
    stop: int = 0


def buffer(size: int) -> Bytes:
    """Return a buffer for ``size`` bytes of data, with the slack that kernels need."""
    return array(size + SLACK, np.uint8)


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
def read(descriptor: int, address: int, length: int, position: int) -> bool:
    """Read exactly ``length`` bytes of a file; False when there are not that many."""
    done = 0
    while done < length:
        count = pread(descriptor, address + done, length - done, position + done)
        if count <= 0:
            return False
        done += count
    return True


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


@inlined
def equal(basis: Basis, position: int, address: int, length: int, back: bool) -> Word:  # noqa: FBT001
    """Count equal bytes from a position of the source and an address on, or back from them.

    Returns how many, ``length`` at most; or ``SHORT``. What is in memory is not read, unless the
    match reaches beyond it. Going back, the 64 bytes before the compared ones must be readable.
    """
    place = basis.window + 64
    length = min(length, position if back else basis.size - position)
    if basis.start <= position < basis.stop:
        near = min(length, position - basis.start if back else basis.stop - position)
        done = same(basis.place + position - basis.start, address, near, back)
        if done < near or done == length:
            return done
    step = _BACKWARD if back else _FORWARD
    done = 0
    while done < length:
        part = min(step, length - done)
        moved = -done if back else done
        start = position + moved - (part if back else 0)
        if not read(basis.descriptor, place, part, start):
            return SHORT
        found = same(place + (part if back else 0), address + moved, part, back)
        done += found
        if found < part:
            break
        step = min(_GROWTH * step, WINDOW - 64)
    return done
