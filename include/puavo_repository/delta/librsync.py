"""librsync through its C library: the reference engine, and the one that proves every rdiff.

A binding to the streaming interface of ``librsync.so.2`` (librsync.h, "Streaming API"): each job
is driven by ``rs_job_iter`` over bounded buffers, without the GIL. Between the calls Python sees
signals, and progress is told.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from puavo_repository.delta.engine import Between, Side, Sink, no_sink
from puavo_repository.errors import DeltaError, SettingsError
from puavo_repository.mirror.digests import IN_USE
from puavo_repository.progress import Progress, no_progress

if TYPE_CHECKING:
    from puavo_repository.delta.image import Image

LIBRSYNC = "librsync.so.2"
_DONE, _BLOCKED = 0, 1  # rs_result
_BLAKE2_SIGNATURE = 0x72730137  # RS_BLAKE2_SIG_MAGIC
_BLOCK = 128  # bytes of a block of the signature
_GIVEN = 1 << 21  # bytes of a file that are handed over at once, where they lie
_BUFFER = 1 << 19  # bytes of what comes out; fits into a core's own cache, and needs few calls


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
    """Load the library, with the types of what is called.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        lib = ctypes.CDLL(LIBRSYNC)
    except OSError as error:
        problem, remedy = "the librsync library is missing", "Install the Debian package librsync2"
        raise SettingsError(LIBRSYNC, problem, found=str(error), remedy=remedy) from error
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


class LibrsyncEngine:
    """The rsync algorithm, as the old system and every client has it.

    Its memory is the source's signature, about 40 bytes a block: 0.4 GB for an image of
    1.4 GB with blocks of 128 bytes.
    """

    name = mark = "librsync"
    threads = 1

    def indexer(self, size: int) -> None:
        """Return None: a signature is made for each delta."""

    def delta(
        self,
        source: Side,
        target: Side,
        sink: Sink,
        progress: Progress = no_progress,
        between: Between | None = None,  # noqa: ARG002 - it has no use for that
    ) -> None:
        """Write an rdiff that turns ``source`` into ``target`` into ``sink``."""
        from puavo_repository.delta.image import Image  # compiled code, slow to load

        lib, signature = library(), ctypes.c_void_p()
        loader = lib.rs_loadsig_begin(ctypes.byref(signature))

        def load(block: memoryview) -> None:
            """Take a part of the signature; an empty one after the last."""
            buffers = _Buffers(_address_of(block), len(block), not block, None, 0)
            result = lib.rs_job_iter(loader, ctypes.byref(buffers))
            if result != _BLOCKED:
                _check(result, source.path)

        try:
            with Image.open(source.path) as image:
                _run(lib.rs_sig_begin(_BLOCK, 0, _BLAKE2_SIGNATURE), image, load)
                load(memoryview(b""))
                image.check()
            _check(lib.rs_build_hash_table(signature), source.path)
            with Image.open(target.path) as image:
                _run(lib.rs_delta_begin(signature), image, sink, progress)
                image.check()
        finally:
            lib.rs_job_free(loader)
            if signature:
                lib.rs_free_sumset(signature)


def patch(source: Path, rdiff: Path, sink: Sink, given: Sink = no_sink) -> None:
    """Apply an rdiff to ``source`` as clients do; the result goes to ``sink``.

    ``given`` gets the bytes of the rdiff, each once, as librsync does. It may use them until it is
    called with none.

    Raises:
        DeltaError: The rdiff is damaged, or not made for a source like this.
        ImageChangingError: The source was written to meanwhile.
    """
    from puavo_repository.delta.image import Image  # compiled code, slow to load
    from puavo_repository.delta.reader import Source

    with Image.open(rdiff) as delta, Image.open(source) as basis:

        def take(block: memoryview) -> None:
            sink(block)
            basis.seen(len(block))

        reader = Source(basis)
        job = library().rs_patch_begin(reader.callback, reader.argument)
        try:
            used = _run(job, delta, take, given=given)
        finally:
            given(memoryview(b""))
            basis.check()  # the rdiff may be right, and the source was another one
        delta.check()
        if used < delta.size:
            raise DeltaError(rdiff, "something follows after the end of this rdiff")


def _run(
    job: int, source: Image, sink: Sink, progress: Progress = no_progress, given: Sink = no_sink
) -> int:
    """Run a job to its end: from a file to a sink; returns the bytes of the file that it used."""
    out = memoryview(bytearray(_BUFFER))
    start = _address_of(out)
    buffers = _Buffers(source.address, 0, 0, start, len(out))
    position, result = 0, _BLOCKED
    try:
        while result == _BLOCKED:
            if buffers.avail_in == 0 and not buffers.eof_in:
                block = source.view(position, _GIVEN)
                buffers.next_in, buffers.avail_in = source.address + position, len(block)
                buffers.eof_in = not block
                position += len(block)
                given(block)
                source.past(position - IN_USE * _GIVEN)  # the rest may still be read by a digester
                progress(len(block))
            result = library().rs_job_iter(job, ctypes.byref(buffers))
            written = len(out) - buffers.avail_out
            if written and (result != _BLOCKED or buffers.avail_out == 0):
                sink(out[:written])
                buffers.next_out, buffers.avail_out = start, len(out)
    finally:
        library().rs_job_free(job)
    _check(result, source.path)
    return position - int(buffers.avail_in)


def _check(result: int, path: Path) -> None:
    if result != _DONE:
        said = library().rs_strerror(result).decode(errors="replace")
        raise DeltaError(path, f"librsync says: {said}")


def _address_of(block: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(block)) if len(block) else 0
