"""Arrays between pages that nobody may touch: a kernel that leaves one ends its process.

Run what uses them in a process of its own (``in_child``).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from puavo_repository import compiled
from puavo_repository.compiled import Numbers

_PAGE = mmap.PAGESIZE
_PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(shape: int | tuple[int, ...], kind: Any, *, at_end: bool) -> Numbers:
    """Return an array of zeros, with a guard page right behind it or right before it."""
    dtype = np.dtype(kind)
    size = int(np.prod(shape)) * dtype.itemsize
    room = -(-size // _PAGE) * _PAGE
    memory = mmap.mmap(-1, room + 2 * _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (start, start + _PAGE + room):
        if _libc.mprotect(page, _PAGE, _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = _PAGE + (room - size if at_end else 0)
    return np.frombuffer(memory, dtype, size // dtype.itemsize, offset).reshape(shape)


@contextmanager
def guard_pages(*, at_end: bool) -> Iterator[None]:
    """Put every array that a kernel writes to between guard pages."""

    def allocate(shape: int | tuple[int, ...], kind: Any) -> Numbers:
        return guarded(shape, kind, at_end=at_end)

    with mock.patch.object(compiled, "_allocate", allocate):
        yield


def in_child(work: Callable[[], object]) -> None:
    """Do something in a child of this process.

    Raises:
        AssertionError: It was ended by a signal, or the work raised; with the end of what it
            wrote to its standard error.
    """
    said = os.memfd_create("stderr of a child")
    child = os.fork()
    if child == 0:
        os.dup2(said, 2)
        try:
            work()
        except BaseException:  # noqa: BLE001 - told by the exit status
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(said, "rb") as stream:
        stream.seek(max(0, os.fstat(said).st_size - 5000))
        text = stream.read().decode(errors="replace")
    assert status == 0, f"it ended with status {status}: {text}"
