"""An open image as memory: looked at where it lies in the page cache, which is faster than copies.

Somebody may cut it short meanwhile, or its disk may fail. What is not there is a signal then,
SIGBUS, and would end the process. Its handler puts empty memory in that place and takes a note, as
``sigbus.c`` of systemd does: who reads goes on, and what was read counts only after a ``check``.
The signal comes from a look at such a place and from nothing else, so the handler may be Python.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from puavo_repository.compiled import Bytes
from puavo_repository.delta.engine import check_at_rest
from puavo_repository.errors import as_storage_error, storage_error
from puavo_repository.mirror.files import Identity

_PAGE = mmap.PAGESIZE
_LARGE = 2 << 20  # bytes; the system may map as many at once, where they begin at a multiple
_KEPT = 8 << 20  # bytes of an image that were looked at and count as memory
_NORESERVE, _FIXED = 0x4000, 0x10  # MAP_NORESERVE, MAP_FIXED
_SIGINFO = 4  # SA_SIGINFO

_libc = ctypes.CDLL(None, use_errno=True)
_word, _size, _int = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_libc.mmap.restype = _word
_libc.mmap.argtypes = [_word, _size, _int, _int, _int, ctypes.c_int64]
_libc.munmap.argtypes = [_word, _size]
_libc.madvise.argtypes = [_word, _size, _int]
_libc.memcmp.argtypes = [_word, _word, _size]


def _mapped(address: int | None, length: int, flags: int, descriptor: int = -1) -> int:
    found = _libc.mmap(address, length, mmap.PROT_READ, mmap.MAP_PRIVATE | flags, descriptor, 0)
    if found == _word(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(found)


def _empty(address: int | None, length: int) -> int:
    """Map memory without anything in it; at an address instead of what is there."""
    fixed = _FIXED if address else 0
    return _mapped(address, length, mmap.MAP_ANONYMOUS | _NORESERVE | fixed)


class Image:
    """An open image: ``data`` has its bytes, with ``_PAGE`` more that can be read around them.

    Nothing of it may be used after it was closed.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        self.identity = Identity.of(os.fstat(descriptor))
        self.size = self.identity.size  # bytes
        self._seen = 0  # bytes, anywhere, since it was mapped
        self._past = 0  # up to where it was looked at and given back
        self._is_lost = False  # whether a part of it was not there
        room = -(-self.size // _PAGE) * _PAGE + _PAGE
        self._length = room + _LARGE
        self._start = _empty(None, self._length)
        self.address = self._start + _LARGE - self._start % _LARGE  # of the first byte
        memory = (ctypes.c_uint8 * room).from_address(self.address)
        self.data: Bytes = np.ctypeslib.as_array(memory)
        # Both, and the system reads as far ahead as for one that reads by copying.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        self._map()
        _images.append(self)

    def _map(self) -> None:
        """Map it; where it was mapped already, what was looked at is no memory of ours any more."""
        if self.size:
            _mapped(self.address, self.size, _FIXED, self._descriptor)
            _libc.madvise(self.address, self.size, mmap.MADV_SEQUENTIAL)

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Image]:
        """Open an image.

        Raises:
            StorageError, StorageRefusedError: It cannot be opened.
        """
        _handler.install()
        with as_storage_error(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with as_storage_error(path):
                image = cls(path, descriptor)
            try:
                yield image
            finally:
                _images.remove(image)
                _libc.munmap(image._start, image._length)
        finally:
            os.close(descriptor)

    def view(self, start: int, length: int) -> memoryview:
        """Return so many bytes from a position on, or fewer at the end."""
        return self.data[start : min(start + length, self.size)].data

    def same(self, block: memoryview, position: int) -> int:
        """Return how many bytes of a block the image has at a position, up to the first other."""
        other = np.frombuffer(block, np.uint8)[: self.size - position]
        if _libc.memcmp(self.address + position, other.ctypes.data, len(other)) == 0:
            return len(other)
        return int(np.argmin(other == self.data[position : position + len(other)]))

    def past(self, position: int) -> None:
        """Take what lies before a position for looked at: it is no memory of ours any more."""
        position -= position % _LARGE  # else a look at what is behind maps that before it again
        if position - self._past >= _KEPT:
            length = position - self._past
            _libc.madvise(self.address + self._past, length, mmap.MADV_DONTNEED)
            self._past = position

    def seen(self, count: int) -> None:
        """Note that so many more bytes were looked at, anywhere; then all is mapped anew."""
        self._seen += count
        if self._seen >= _KEPT:
            self._seen = 0
            self._map()

    def lose(self, address: int) -> bool:
        """Take what lies at an address, and all behind it, for lost; False if it is not of this."""
        end = self._start + self._length
        if not self._start <= address < end:
            return False
        self._is_lost = True
        _empty(address - address % _PAGE, end - (address - address % _PAGE))
        return True

    def check(self, since: str = "while its rdiff was made or proven") -> None:
        """Raise if the image is not what it was when it was opened, or could not be read."""
        check_at_rest(self.path, self.identity, Identity.of(os.fstat(self._descriptor)), since)
        if self._is_lost:
            raise storage_error(self.path, OSError(errno.EIO, os.strerror(errno.EIO)))


class _Info(ctypes.Structure):
    """The begin of ``siginfo_t`` for SIGBUS."""

    _fields_ = (("numbers", _int * 4), ("address", _word))


class _Action(ctypes.Structure):
    """``struct sigaction`` of the C library."""

    _fields_ = (
        ("handler", _word), ("mask", ctypes.c_ulong * 16), ("flags", _int), ("restorer", _word),
    )  # fmt: skip


class _Handler:
    """What is called for SIGBUS."""

    def __init__(self) -> None:
        kind: Any = ctypes.CFUNCTYPE(None, _int, ctypes.POINTER(_Info), _word)
        self._function = kind(self._handle)
        self._before = _Action()
        self._installed = False

    def install(self) -> None:
        """Have it called from now on."""
        if not self._installed:
            self._installed = True
            handler = ctypes.cast(self._function, _word).value
            ours = ctypes.byref(_Action(handler=handler, flags=_SIGINFO))
            _libc.sigaction(signal.SIGBUS, ours, ctypes.byref(self._before))

    def _handle(self, number: int, info: Any, _context: int) -> None:
        with suppress(OSError):
            if any(image.lose(info.contents.address or 0) for image in tuple(_images)):
                return
        _libc.sigaction(number, ctypes.byref(self._before), None)  # which comes at once


_images: list[Image] = []  # those that are open
_handler = _Handler()
