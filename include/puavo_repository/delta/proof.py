"""The proof of an rdiff: applied by librsync, as clients do it, it gives the target."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

from puavo_repository.delta.images import Image
from puavo_repository.delta.librsync import OUTPUT, address_of, patch
from puavo_repository.errors import DeltaError, ProofError
from puavo_repository.formats.rdiff import check_commands
from puavo_repository.progress import Progress, no_progress


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    return libc


def prove(source: Path, target: Path, rdiff: Path, progress: Progress = no_progress) -> None:
    """Prove an rdiff: it applies with librsync, and gives the target byte for byte.

    Args:
        source: The image that clients have.
        target: The image that they want.
        rdiff: What is to be proven.
        progress: Told of the bytes of the target that were compared.

    Raises:
        ProofError: It does not; the text says where.
        ImageChangingError: It does not, and one of the images was written to meanwhile.
        StorageError, StorageRefusedError: A file cannot be read.
    """
    with Image.open(source) as basis, Image.open(target) as image:
        try:
            check_commands(rdiff)
            with _Comparison(target, rdiff, progress) as comparison:
                patch(source, rdiff, comparison.feed)
                comparison.finish()
        except DeltaError as error:
            for one in (basis, image):
                one.check_unchanged()  # the rdiff may be right, and the image was another one
            if isinstance(error, ProofError):
                raise
            raise ProofError(
                rdiff, f"this rdiff cannot be applied: {error.problem}", found=error.found
            ) from error


class _Comparison:
    """Compares a stream with a file, block by block."""

    def __init__(self, target: Path, rdiff: Path, progress: Progress) -> None:
        self._target, self._rdiff, self._progress = target, rdiff, progress
        self._position = 0
        self._buffer = bytearray(OUTPUT)

    def __enter__(self) -> _Comparison:
        self._file = self._target.open("rb", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def feed(self, block: memoryview) -> None:
        wanted = memoryview(self._buffer)[: len(block)]
        length = self._file.readinto(wanted) or 0
        while 0 < length < len(block):
            more = self._file.readinto(wanted[length:])
            if not more:
                break
            length += more
        if length < len(block) or _libc().memcmp(address_of(wanted), address_of(block), len(block)):
            raise self._differs(bytes(block), bytes(wanted[:length]))
        self._position += len(block)
        self._progress(len(block))

    def finish(self) -> None:
        if self._file.read(1):
            raise ProofError(
                self._rdiff,
                f"applied, it does not give all of {self._target.name}",
                expected=f"{os.fstat(self._file.fileno()).st_size} bytes",
                found=f"{self._position} bytes",
            )

    def _differs(self, found: bytes, wanted: bytes) -> ProofError:
        same = next(
            (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(wanted)
        )
        return ProofError(
            self._rdiff,
            f"applied, it does not give {self._target.name}: "
            f"the first difference is at byte {self._position + same}",
        )
