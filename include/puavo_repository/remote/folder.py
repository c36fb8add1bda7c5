"""A remote that is a local folder: the embedded default, and for a local web server."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from puavo_repository.errors import ConnectionLostError, StorageRefusedError, storage_error
from puavo_repository.mirror import files
from puavo_repository.progress import Progress, no_progress
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Data, Range, RemoteFile, RemoteStat, RemoteTree


class FolderTree(RemoteTree):
    """A local folder. Ranges are copied by the kernel, and shared where the file system can."""

    is_alive = True
    sent = 0
    can_copy = True
    can_sync = True
    round_trip = 0.0

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.root = os.path.realpath(target.path)
        self.local_path = self._root = Path(self.root)
        with self._errors(""):
            if not self._root.is_dir():
                remedy = "Create it, or correct the path"
                raise StorageRefusedError(self.name, "there is no such folder", remedy=remedy)

    def close(self) -> None:
        """Do no more: what other threads write ends."""
        self.is_alive = False

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        if not self.is_alive:
            raise ConnectionLostError(self.name, "the folder was closed")
        try:
            yield
        except FileNotFoundError as error:
            raise StorageRefusedError(f"{self.name}/{path}", "there is no such file") from error
        except OSError as error:
            raise storage_error(f"{self.name}/{path}", error) from error

    def _free_space(self) -> int:
        space = os.statvfs(self._root)
        return space.f_bavail * space.f_frsize

    def _list(self, folder: str) -> dict[str, RemoteStat]:
        found = {}
        with os.scandir(self._root / folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # it went just now
                    found[entry.name] = _stat(entry.stat(follow_symlinks=False))
        return found

    def _stat(self, path: str) -> RemoteStat | None:
        try:
            return _stat((self._root / path).lstat())
        except FileNotFoundError:
            return None

    def _open(self, path: str, *, writing: bool, create: bool) -> _FolderFile:
        flags = os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_RDWR if writing else os.O_RDONLY)
        flags |= os.O_CREAT | os.O_EXCL if create else 0
        descriptor = os.open(self._root / path, flags, 0o644)
        if writing:
            # Whatever the umask made of it. It may be another user's, and right as it is.
            with contextlib.suppress(PermissionError):
                os.fchmod(descriptor, 0o644)
        return _FolderFile(self, path, descriptor)

    def _rename(self, path: str, new: str, *, exclusive: bool) -> None:
        if exclusive:
            os.link(self._root / path, self._root / new, follow_symlinks=False)
            (self._root / path).unlink()
        else:
            (self._root / path).replace(self._root / new)
        files.sync((self._root / new).parent)

    def _remove(self, path: str) -> None:
        (self._root / path).unlink(missing_ok=True)

    def _make_folder(self, path: str) -> None:
        (self._root / path).mkdir(0o755)
        (self._root / path).chmod(0o755)  # whatever the umask made of it
        files.sync((self._root / path).parent)

    def _remove_folder(self, path: str) -> None:
        try:
            (self._root / path).rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise


class _FolderFile(RemoteFile):
    def __init__(self, tree: FolderTree, path: str, descriptor: int) -> None:
        self._tree = tree
        self._path = path
        self._descriptor = descriptor

    def read(self, ranges: Iterable[Range]) -> Iterator[bytes]:
        for wanted in ranges:
            with self._tree._errors(self._path):
                piece = os.pread(self._descriptor, wanted.length, wanted.offset)
            yield piece

    def write(self, offset: int, data: Data, done: Progress = no_progress) -> None:
        view = memoryview(data)
        with self._tree._errors(self._path):
            while view:
                count = os.pwrite(self._descriptor, view, offset)
                self._tree.sent += count
                offset, view = offset + count, view[count:]
                done(count)

    def copy(self, source: Self, taken: Range, offset: int, done: Progress) -> None:
        start, length, both = taken.offset, taken.length, (source._descriptor, self._descriptor)
        with self._tree._errors(self._path):
            while length:
                count = os.copy_file_range(*both, length, start, offset)
                if not count:
                    where = f"{self._tree.name}/{source._path}"
                    raise StorageRefusedError(where, "ends before the range to copy")
                start, offset, length = start + count, offset + count, length - count
                done(count)

    def flush(self) -> None:
        with self._tree._errors(self._path):
            pass  # writes are done when they return

    def sync(self) -> None:
        with self._tree._errors(self._path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        try:
            os.close(self._descriptor)  # also after its tree
        except OSError as error:
            raise storage_error(f"{self._tree.name}/{self._path}", error) from error


def _stat(found: os.stat_result) -> RemoteStat:
    return RemoteStat.of(found.st_mode, found.st_size, found.st_mtime)
