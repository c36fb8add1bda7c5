"""The proof of an rdiff: applied by librsync, as clients do it, it gives the target."""

from __future__ import annotations

from pathlib import Path

from puavo_repository.delta.images import Image
from puavo_repository.delta.librsync import patch
from puavo_repository.errors import DeltaError, ProofError
from puavo_repository.formats.rdiff import check_commands
from puavo_repository.progress import Progress, no_progress


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
            comparison = _Comparison(image, rdiff, progress)
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
    """Compares a stream with an image, block by block."""

    def __init__(self, image: Image, rdiff: Path, progress: Progress) -> None:
        self._image, self._rdiff, self._progress = image, rdiff, progress
        self._position = 0

    def feed(self, block: memoryview) -> None:
        wanted = self._image.read_up_to(len(block), self._position)
        if wanted != block:  # one comparison of memory, as ``wanted`` is a bytearray
            raise self._differs(bytes(block), wanted)
        self._position += len(block)
        self._progress(len(block))

    def finish(self) -> None:
        if self._image.read_up_to(1, self._position):
            raise ProofError(
                self._rdiff,
                f"applied, it does not give all of {self._image.path.name}",
                expected=f"{self._image.size} bytes",
                found=f"{self._position} bytes",
            )

    def _differs(self, found: bytes, wanted: bytearray) -> ProofError:
        same = next(
            (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(wanted)
        )
        return ProofError(
            self._rdiff,
            f"applied, it does not give {self._image.path.name}: "
            f"the first difference is at byte {self._position + same}",
        )
