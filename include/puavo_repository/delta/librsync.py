"""librsync through its C library: the reference engine, and the one that proves every rdiff.

A thin binding to the streaming interface of ``librsync.so.2`` (librsync.h, "Streaming API"):
each job is driven by ``rs_job_iter`` over bounded buffers, one call a few megabytes, without
the GIL. Between the calls Python sees signals, and progress is told.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from numba import types

from puavo_repository.compiled import callback
from puavo_repository.delta.engine import ImageIndexer, Side, Sink
from puavo_repository.delta.images import Image
from puavo_repository.delta.machine import pread
from puavo_repository.errors import DeltaError, SettingsError, StorageError
from puavo_repository.progress import Progress, no_progress

LIBRARY = "librsync.so.2"
_DONE, _BLOCKED, _IO_ERROR, _INPUT_ENDED = 0, 1, 100, 103  # rs_result
_BLAKE2_SIGNATURE = 0x72730137  # RS_BLAKE2_SIG_MAGIC
# Bytes of the buffers of a job: small enough for a core's own cache, large enough for few calls.
INPUT, OUTPUT = 1 << 18, 1 << 18


class _Buffers(ctypes.Structure):
    """``rs_buffers_t``."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_size_t),
        ("eof_in", ctypes.c_int),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_size_t),
    )


@cache
def library() -> ctypes.CDLL:
    """Load the library.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        lib = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise SettingsError(
            LIBRARY,
            "the librsync library is missing",
            found=str(error),
            remedy="Install the Debian package librsync2",
        ) from error
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, *arguments in (
        ("rs_sig_begin", pointer, size, size, ctypes.c_int),
        ("rs_loadsig_begin", pointer, pointer),
        ("rs_build_hash_table", ctypes.c_int, pointer),
        ("rs_free_sumset", None, pointer),
        ("rs_delta_begin", pointer, pointer),
        ("rs_patch_begin", pointer, pointer, pointer),
        ("rs_job_iter", ctypes.c_int, pointer, ctypes.POINTER(_Buffers)),
        ("rs_job_free", ctypes.c_int, pointer),
        ("rs_strerror", ctypes.c_char_p, ctypes.c_int),
        ("rs_trace_set_level", None, ctypes.c_int),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.rs_trace_set_level(0)  # what goes wrong is raised, not printed
    return lib


@dataclass(frozen=True)
class LibrsyncEngine:
    """The rsync algorithm, as the old system and every client has it.

    Its memory is the source's signature, about 40 bytes a block: 0.4 GB for an image of
    1.4 GB with blocks of 128 bytes.

    Attributes:
        block: Block length of the signature in bytes.
    """

    block: int = 128
    name: str = "librsync"
    threads: int = 1

    def indexer(self, size: int) -> ImageIndexer | None:  # noqa: ARG002
        """Return None: a signature is made for each delta."""
        return None

    def delta(
        self, source: Side, target: Side, sink: Sink, progress: Progress = no_progress
    ) -> None:
        """Write an rdiff that turns ``source`` into ``target`` into ``sink``."""
        with self._signature(source.path) as signature, Image.open(target.path) as image:
            with _job(library().rs_delta_begin(signature)) as job:
                _run(job, _Input(image), sink, progress)
            image.check_unchanged()

    @contextmanager
    def _signature(self, source: Path) -> Iterator[ctypes.c_void_p]:
        """Make the signature of a file in memory."""
        lib = library()
        signature = ctypes.c_void_p()
        try:
            loading = _job(lib.rs_loadsig_begin(ctypes.byref(signature)))
            making = _job(lib.rs_sig_begin(self.block, 0, _BLAKE2_SIGNATURE))
            with loading as loader, making as maker, Image.open(source) as image:
                load = partial(_load, loader, source)
                _run(maker, _Input(image), load, no_progress)
                load(memoryview(b""), end=True)
                image.check_unchanged()
            _check(lib.rs_build_hash_table(signature), source)
            yield signature
        finally:
            if signature:
                lib.rs_free_sumset(signature)


def patch(source: Path, rdiff: Path, sink: Sink) -> None:
    """Apply an rdiff as clients do.

    Args:
        source: The file that it starts from.
        rdiff: The rdiff.
        sink: Takes the result in order.

    Raises:
        DeltaError: The rdiff is damaged, or not made for a source like this.
    """
    with Image.open(rdiff) as delta, Image.open(source) as basis:
        given = _Input(delta)
        with _job(library().rs_patch_begin(read_basis.address, basis.descriptor)) as job:
            _run(job, given, sink, no_progress)
        if delta.read_up_to(1, given.position):
            raise DeltaError(rdiff, "something follows after the end of this rdiff")


_pointer = types.CPointer(types.uintp)  # type: ignore[no-untyped-call]


@callback(types.int32(types.intp, types.int64, _pointer, _pointer))
def read_basis(descriptor: int, position: int, length: Any, out: Any) -> int:
    """Read for a COPY (``rs_copy_cb``): one system call, where librsync's own makes two."""
    count = pread(descriptor, out[0], length[0], position)
    if count <= 0:
        return _IO_ERROR if count < 0 else _INPUT_ENDED
    length[0] = count
    return _DONE


class _Input:
    """A file that is read in blocks into one buffer, which a job consumes."""

    def __init__(self, image: Image) -> None:
        self.path = image.path
        self.buffer = bytearray(INPUT)
        self.position = 0
        self._descriptor = image.descriptor

    def read(self) -> int:
        count = os.preadv(self._descriptor, [self.buffer], self.position)
        self.position += count
        return count


def _load(job: int, path: Path, block: memoryview, *, end: bool = False) -> None:
    """Give a block to the job that loads a signature: it takes input and gives no output."""
    buffers = _Buffers(address_of(block), len(block), int(end), None, 0)
    result = library().rs_job_iter(job, ctypes.byref(buffers))
    if result != _BLOCKED:
        _check(result, path)


def _run(job: int, source: _Input, sink: Sink, progress: Progress) -> None:
    """Run a job to its end: input from a file, output to a sink."""
    output = bytearray(OUTPUT)
    out = memoryview(output)
    into, start = address_of(memoryview(source.buffer)), address_of(out)
    buffers = _Buffers(into, 0, 0, start, len(output))
    result = _BLOCKED
    while result == _BLOCKED:
        if buffers.avail_in == 0 and not buffers.eof_in:
            length = source.read()
            buffers.next_in, buffers.avail_in, buffers.eof_in = into, length, int(length == 0)
            progress(length)
        result = library().rs_job_iter(job, ctypes.byref(buffers))
        written = len(output) - buffers.avail_out
        if written and (result != _BLOCKED or buffers.avail_out < len(output) // 2):
            sink(out[:written])
            buffers.next_out, buffers.avail_out = start, len(output)
    _check(result, source.path)
    if buffers.avail_in:
        raise DeltaError(source.path, "something follows after the end of this rdiff")


def _check(result: int, path: Path) -> None:
    if result != _DONE:
        said = library().rs_strerror(result).decode(errors="replace")
        raise DeltaError(path, f"librsync says: {said}")


@contextmanager
def _job(job: int | None) -> Iterator[int]:
    if not job:
        raise StorageError(LIBRARY, "no memory for a job")
    try:
        yield job
    finally:
        library().rs_job_free(job)


def address_of(block: memoryview) -> int:
    """Return where a block lies in memory."""
    return ctypes.addressof(ctypes.c_char.from_buffer(block)) if len(block) else 0
