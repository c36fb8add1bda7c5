"""Images that are read while somebody may write them: a changed one is an error, never a crash."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from puavo_repository.compiled import Bytes
from puavo_repository.errors import ImageChangingError, as_storage_error, storage_error


@dataclass(frozen=True)
class Image:
    """An open image.

    Attributes:
        path: Where it was opened.
        descriptor: It, open for reading.
        size: Its size in bytes then.
        modified: Its time of modification then, in ns.
    """

    path: Path
    descriptor: int
    size: int
    modified: int

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Image]:
        """Open an image.

        Raises:
            StorageError, StorageRefusedError: It cannot be opened.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(path, error) from error
        try:
            found = os.fstat(descriptor)
            yield cls(path, descriptor, found.st_size, found.st_mtime_ns)
        finally:
            os.close(descriptor)

    def read(self, out: Bytes, position: int) -> None:
        """Fill a buffer.

        Raises:
            ImageChangingError: The image ends before.
        """
        if self._read(out.data, position) < len(out):
            raise self.changed()

    def read_up_to(self, length: int, position: int) -> bytearray:
        """Return ``length`` bytes, or fewer at the end of the file."""
        out = bytearray(length)
        found = self._read(memoryview(out), position)
        del out[found:]
        return out

    def _read(self, view: memoryview, position: int) -> int:
        done = 0
        with as_storage_error(self.path):
            while done < len(view):
                count = os.preadv(self.descriptor, [view[done:]], position + done)
                if not count:
                    break
                done += count
        return done

    def changed(self) -> ImageChangingError:
        """Return the error that says so."""
        return ImageChangingError(
            self.path,
            "this image changed while its rdiff was made or proven",
            expected=f"{self.size} bytes at rest",
            found=f"{os.fstat(self.descriptor).st_size} bytes",
            remedy="Run again when it is at rest",
        )

    def check_unchanged(self) -> None:
        """Raise if the image is not what it was when it was opened."""
        found = os.fstat(self.descriptor)
        if (found.st_size, found.st_mtime_ns) != (self.size, self.modified):
            raise self.changed()
