"""Images that are read while somebody may write them: a changed one is an error, never a crash."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from puavo_repository.compiled import Bytes
from puavo_repository.errors import ImageChangingError, storage_error


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
        view = out.data
        try:
            while view:
                count = os.preadv(self.descriptor, [view], position)
                if not count:
                    raise self.changed()
                view, position = view[count:], position + count
        except OSError as error:
            raise storage_error(self.path, error) from error

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
