"""The compressions of squashfs, each with a limit of what comes out: a block is foreign bytes.

lzo, lz4 and zstd come from the C libraries that squashfs-tools itself needs, by the functions that
check every length; zlib and xz from Python.
"""

import ctypes
import lzma
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

from puavo_repository.errors import SettingsError

Decompress = Callable[[bytes, int], bytes]
"""Takes a block and the most bytes that it may become; ``ValueError`` where it is damaged."""

_XZ_MEMORY = 64 << 20  # bytes; the dictionary of a block of 1 MiB takes a few
_BYTES, _SIZE, _INT, _POINTER = ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p


def decompressor(number: int) -> Decompress:
    """Return what reads the blocks of an image, by the number in its superblock.

    Raises:
        ValueError: There is no such compression, or mksquashfs does not make it any more.
    """
    if number not in _KINDS:
        raise ValueError(f"it is compressed in an unknown way, {number}")
    return _KINDS[number]


@cache
def _function(library: str, name: str, result: Any, *types: Any) -> Callable[..., int]:
    """Load a function of a C library.

    Raises:
        SettingsError: The library is not installed.
    """
    try:
        return ctypes.CFUNCTYPE(result, *types)((name, ctypes.CDLL(library)))
    except (OSError, AttributeError) as error:
        problem, remedy = "this library is missing", "Install the Debian package squashfs-tools"
        raise SettingsError(library, problem, found=str(error), remedy=remedy) from error


def _lzo(data: bytes, most: int) -> bytes:
    types = _INT, _BYTES, _SIZE, _POINTER, ctypes.POINTER(_SIZE), _POINTER
    out, length = ctypes.create_string_buffer(most), _SIZE(most)
    function = _function("liblzo2.so.2", "lzo1x_decompress_safe", *types)
    if status := function(data, len(data), out, ctypes.byref(length), None):
        raise ValueError(f"lzo ends with {status}")
    return ctypes.string_at(out, length.value)


def _lz4(data: bytes, most: int) -> bytes:
    out = ctypes.create_string_buffer(most)
    function = _function("liblz4.so.1", "LZ4_decompress_safe", _INT, _BYTES, _POINTER, _INT, _INT)
    if (length := function(data, out, len(data), most)) < 0:
        raise ValueError(f"lz4 ends with {length}")
    return ctypes.string_at(out, length)


def _zstd(data: bytes, most: int) -> bytes:
    types = _SIZE, _POINTER, _SIZE, _BYTES, _SIZE
    out = ctypes.create_string_buffer(most)
    length = _function("libzstd.so.1", "ZSTD_decompress", *types)(out, most, data, len(data))
    if length > most:  # errors are numbers at the upper end
        raise ValueError("zstd ends with an error")
    return ctypes.string_at(out, length)


def _zlib(data: bytes, most: int) -> bytes:
    return _ended(zlib.decompressobj(), data, most)


def _xz(data: bytes, most: int) -> bytes:
    return _ended(lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY), data, most)


def _ended(reader: Any, data: bytes, most: int) -> bytes:
    try:
        out: bytes = reader.decompress(data, most + 1)  # the end is only seen where there is room
    except (zlib.error, lzma.LZMAError) as error:
        raise ValueError(str(error)) from error
    if not reader.eof or len(out) > most:
        raise ValueError("it is cut short, or larger than it may be")
    return out


_KINDS: dict[int, Decompress] = {1: _zlib, 3: _lzo, 4: _xz, 5: _lz4, 6: _zstd}
