"""A remote tree that is a local folder: the embedded default, and for a local web server."""

from __future__ import annotations

import contextlib
import errno
import os
import stat as stat_bits
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from puavo_repository.errors import (
    ConnectionLostError,
    RepositoryError,
    StorageRefusedError,
    storage_error,
)
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Access, Done, Kind, Range, RemoteStat, ignore


class FolderTree:
    """A local folder, used through the same interface as a server.

    Attributes:
        local_path: Its folder, every link in it resolved.
        root: The same.
        can_copy: True: ranges are copied by the kernel, shared where the file system can.
        can_sync: True.
    """

    can_copy = True
    can_sync = True
    round_trip = 0.0

    def __init__(self, target: Target) -> None:
        self.name = target.url
        self.sent = 0
        self.is_alive = True
        self._target = target
        self.local_path = self._root = Path(os.path.realpath(target.path))
        self.root = str(self._root)
        with self._errors(""):
            found = self._root.is_dir()
        if not found:
            raise StorageRefusedError(
                self.name, "there is no such folder", remedy="Create it, or correct the path"
            )

    def list(self, folder: str) -> dict[str, RemoteStat]:
        """Return what is in a folder by name; nothing if the folder is missing."""
        if folder and not self._check_folder(folder):
            return {}
        with self._errors(folder), os.scandir(self._root / folder) as entries:
            return {entry.name: _stat(entry.stat(follow_symlinks=False)) for entry in entries}

    def stat(self, path: str) -> RemoteStat | None:
        """Return what is at ``path``, links not followed, or None."""
        if (folder := path.rpartition("/")[0]) and not self._check_folder(folder):
            return None
        with self._errors(path):
            try:
                return _stat((self._root / path).lstat())
            except FileNotFoundError:
                return None

    def read(self, path: str, ranges: Iterable[Range]) -> Iterator[bytes]:
        """Read ranges of a file, in order; a range beyond its end comes back short."""
        with self.open(path, Access.READ) as file:
            for wanted in ranges:
                yield file.read(wanted)

    def open(self, path: str, access: Access) -> FolderFile:
        """Open a file; one for writing is made where it is missing, and never a link."""
        self._guard(path)
        found = self.stat(path) if access is not Access.CREATE else None
        if found is not None and found.kind is not Kind.FILE:
            raise StorageRefusedError(
                f"{self.name}/{path}", f"is a {found.kind.value}; it is not opened"
            )
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        flags |= os.O_RDONLY if access is Access.READ else os.O_RDWR | os.O_CREAT
        flags |= os.O_EXCL if access is Access.CREATE else 0
        with self._errors(path):
            descriptor = os.open(self._root / path, flags, 0o644)
        if access is not Access.READ:
            # Whatever the umask made of it. It may be another user's, and right as it is.
            with contextlib.suppress(PermissionError):
                os.fchmod(descriptor, 0o644)
        return FolderFile(self, path, descriptor)

    def rename(self, path: str, new: str) -> None:
        """Give a file another name in one step, in the place of what had that name."""
        self._guard(path)
        self._guard(new)
        with self._errors(new):
            (self._root / path).replace(self._root / new)
            _sync((self._root / new).parent)

    def claim(self, path: str, name: str) -> None:
        """Give a file a name that must be free; fails where somebody has it."""
        self._guard(name)
        with self._errors(name):
            os.link(self._root / path, self._root / name, follow_symlinks=False)
            (self._root / path).unlink()
            _sync((self._root / name).parent)

    def remove(self, path: str) -> None:
        """Remove a file or a link, if it is there."""
        self._guard(path)
        with self._errors(path):
            (self._root / path).unlink(missing_ok=True)

    def make_folder(self, path: str) -> None:
        """Make a folder, if it is missing."""
        if not self._check_folder(path):
            with self._errors(path):
                (self._root / path).mkdir(0o755)
                (self._root / path).chmod(0o755)  # whatever the umask made of it
                _sync((self._root / path).parent)

    def remove_folder(self, path: str) -> None:
        """Remove a folder, if it is there and nothing is in it."""
        if self._check_folder(path):
            with self._errors(path):
                try:
                    (self._root / path).rmdir()
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                        raise

    def free_space(self) -> int | None:
        """Return the bytes that may still be written."""
        with self._errors(""):
            space = os.statvfs(self._root)
        return space.f_bavail * space.f_frsize

    def another(self, *, compressed: bool = False) -> FolderTree:  # noqa: ARG002
        """Return another opening of the same folder."""
        return FolderTree(self._target)

    def close(self) -> None:
        """Do no more: what other threads write ends."""
        self.is_alive = False

    def _guard(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        if folder and not self._check_folder(folder):
            raise StorageRefusedError(f"{self.name}/{folder}", "there is no such folder")

    def _check_folder(self, folder: str) -> bool:
        found = self.stat(folder)
        if found is not None and found.kind is not Kind.FOLDER:
            raise StorageRefusedError(
                f"{self.name}/{folder}",
                f"is a {found.kind.value} where a folder should be; it is not entered",
                remedy="Make it a folder (a bind mount does what a link was meant for)",
            )
        return found is not None

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


class FolderFile:
    """An open local file."""

    def __init__(self, tree: FolderTree, path: str, descriptor: int) -> None:
        self._tree = tree
        self._path = path
        self._descriptor = descriptor

    def read(self, wanted: Range) -> bytes:
        """Read one range."""
        with self._tree._errors(self._path):
            return os.pread(self._descriptor, wanted.length, wanted.offset)

    def write(self, offset: int, data: bytes | memoryview, done: Done = ignore) -> None:
        """Write ``data`` at ``offset``."""
        view = memoryview(data)
        with self._tree._errors(self._path):
            while view:
                count = os.pwrite(self._descriptor, view, offset)
                self._tree.sent += count
                offset, view = offset + count, view[count:]
                done(count)

    def copy(
        self, source: FolderFile, start: int, length: int, offset: int, done: Done = ignore
    ) -> None:
        """Have the kernel copy ``length`` bytes at ``start`` of ``source`` to ``offset`` here."""
        with self._tree._errors(self._path):
            while length:
                count = os.copy_file_range(
                    source._descriptor, self._descriptor, length, start, offset
                )
                if not count:
                    raise StorageRefusedError(
                        f"{self._tree.name}/{source._path}", "ends before the range to copy"
                    )
                start, offset, length = start + count, offset + count, length - count
                done(count)

    def flush(self) -> None:
        """Wait for nothing: writes are done when they return."""
        with self._tree._errors(self._path):
            pass

    def sync(self) -> None:
        """Put the file on the disk."""
        with self._tree._errors(self._path):
            os.fsync(self._descriptor)

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        with self._tree._errors(self._path):
            os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        """Close the file, also after its tree."""
        try:
            os.close(self._descriptor)
        except OSError as error:
            raise storage_error(f"{self._tree.name}/{self._path}", error) from error

    def __enter__(self) -> FolderFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(RepositoryError) if error else contextlib.nullcontext():
            self.close()


def _sync(folder: Path) -> None:
    """Put a folder's list of names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stat(found: os.stat_result) -> RemoteStat:
    kinds = {
        stat_bits.S_IFREG: Kind.FILE,
        stat_bits.S_IFDIR: Kind.FOLDER,
        stat_bits.S_IFLNK: Kind.LINK,
    }
    kind = kinds.get(stat_bits.S_IFMT(found.st_mode), Kind.OTHER)
    return RemoteStat(kind, found.st_size, int(found.st_mtime))
