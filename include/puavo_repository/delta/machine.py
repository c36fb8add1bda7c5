"""What compiled code needs of the machine and Numba does not offer: wide compares, pread.

Buffers are passed to the kernels as arrays by their Python callers, which keep them alive; the
kernels work with addresses. A wide load may touch ``SLACK`` bytes beyond the data it is asked
about, so every buffer ends with that many spare bytes.

Images are read with ``pread`` only, never mapped: someone who copies a new image over one that
is being read makes a read short, where a mapped page would kill the process with SIGBUS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from puavo_repository.compiled import Bytes, Word, array, inlined, llvm_intrinsic

SLACK = 128  # bytes behind the data in every buffer; the widest load is 64 bytes

SELECT_FACTORS = (0x9E3779B1, 0x85EBCA77)  # odd, from xxHash's primes
_i16, _i32, _i64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)

pread: Any = types.ExternalFunction(
    "pread", types.intp(types.int32, types.uintp, types.uintp, types.int64)
)


def buffer(size: int) -> Bytes:
    """Return a buffer for ``size`` bytes of data, with the slack that kernels need."""
    return array(size + SLACK, np.uint8)


@llvm_intrinsic
def load64(_context: Any, _address: Any) -> Any:
    """Return the 8 bytes at an address as an unsigned number, least byte first."""

    def generate(_ctx: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _i64.as_pointer()), align=1)

    return types.uint64(types.uintp), generate


@llvm_intrinsic
def differing(_context: Any, _one: Any, _other: Any) -> Any:
    """Compare 64 bytes at two addresses; bit i of the result tells that byte i differs."""
    wide = ir.VectorType(ir.IntType(8), 64)

    def generate(_ctx: Any, builder: Any, _sig: Any, args: Any) -> Any:
        a, b = (builder.load(builder.inttoptr(x, wide.as_pointer()), align=1) for x in args)
        return builder.bitcast(builder.icmp_unsigned("!=", a, b), _i64)

    return types.uint64(types.uintp, types.uintp), generate


@llvm_intrinsic
def selected(_context: Any, _address: Any, _limit: Any) -> Any:
    """Select of the 64 positions from an address those whose hash is below a limit.

    The hash of a position is that of ``selector``. It has no state that runs from byte to
    byte, so that 16 positions are computed at once; reads 71 bytes.

    Returns:
        Bit ``16 * r + j`` stands for the position ``4 * j + r``.
    """
    wide = ir.VectorType(_i32, 16)

    def generate(_ctx: Any, builder: Any, _sig: Any, args: Any) -> Any:
        def words(offset: int, factor: int) -> Any:
            place = builder.add(args[0], _i64(offset))
            found = builder.load(builder.inttoptr(place, wide.as_pointer()), align=1)
            return builder.mul(found, ir.Constant(wide, [factor] * 16))

        limit = ir.Constant(wide, ir.Undefined)
        for lane in range(16):
            limit = builder.insert_element(limit, args[1], _i32(lane))
        result = _i64(0)
        for phase in range(4):
            hashes = builder.add(
                words(phase, SELECT_FACTORS[0]), words(phase + 4, SELECT_FACTORS[1])
            )
            mask = builder.bitcast(builder.icmp_unsigned("<", hashes, limit), _i16)
            mask = builder.shl(builder.zext(mask, _i64), _i64(16 * phase))
            result = builder.or_(result, mask)
        return result

    return types.uint64(types.uintp, types.uint32), generate


@inlined
def selector(address: int) -> Word:
    """Return the hash that ``selected`` compares, of the 8 bytes at an address; 32 bits."""
    word = load64(address)
    low = np.uint32(word) * np.uint32(SELECT_FACTORS[0])
    return np.uint32(low + np.uint32(word >> np.uint64(32)) * np.uint32(SELECT_FACTORS[1]))


@llvm_intrinsic
def trailing_zeros(_context: Any, _number: Any) -> Any:
    """Count the zero bits below the lowest set bit of a 64-bit number that is not zero."""

    def generate(_ctx: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], cgutils.true_bit)

    return types.int64(types.uint64), generate


@llvm_intrinsic
def leading_zeros(_context: Any, _number: Any) -> Any:
    """Count the zero bits above the highest set bit of a 64-bit number that is not zero."""

    def generate(_ctx: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.ctlz(args[0], cgutils.true_bit)

    return types.int64(types.uint64), generate


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
