"""The contract of a remote and of its files: what publishing needs of a server, and no more.

``folder.FolderTree`` and ``sftp.tree.SftpTree`` keep it; a further kind has the abstract methods.
"""

from __future__ import annotations

import contextlib
import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from typing import NamedTuple, Self

from puavo_repository.errors import RepositoryError, StorageRefusedError
from puavo_repository.progress import Progress, no_progress
from puavo_repository.remote.target import Target

Data = bytes | memoryview


class Kind(enum.Enum):
    """What a name in a remote folder is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


class RemoteStat(NamedTuple):
    """What a server tells of one name: of a symbolic link itself, not of where it leads."""

    kind: Kind
    size: int  # bytes
    mtime: int  # whole seconds on the *server's* clock

    @classmethod
    def of(cls, mode: int, size: int, mtime: float) -> RemoteStat:
        """Return what a POSIX ``stat`` says."""
        kinds = {S_IFREG: Kind.FILE, S_IFDIR: Kind.FOLDER, S_IFLNK: Kind.LINK}
        return cls(kinds.get(S_IFMT(mode), Kind.OTHER), size, int(mtime))

    def is_file(self, size: int) -> bool:
        """Say whether it is a plain file of so many bytes."""
        return self.kind is Kind.FILE and self.size == size


class Range(NamedTuple):
    """``length`` bytes at ``offset``."""

    offset: int
    length: int


class Piece(NamedTuple):
    """``length`` bytes at ``offset`` of the remote file at ``path``."""

    path: str
    offset: int
    length: int


class OpenMode(enum.Enum):
    """How a remote file is opened."""

    READ = "read"
    CHANGE = "change"  # what is there stays; fails where there is nothing
    CREATE = "create"  # fails where the name exists


class RemoteFile(contextlib.AbstractContextManager["RemoteFile"]):
    """An open file, flushed and closed by ``with``; until then writes may be under way.

    ``done`` is told of bytes when the server has acknowledged them.
    """

    @abstractmethod
    def read(self, ranges: Iterable[Range]) -> Iterator[bytes]:
        """Read ranges, in order; a range beyond the end comes back short."""

    @abstractmethod
    def write(self, offset: int, data: Data, done: Progress = no_progress) -> None:
        """Write ``data`` at ``offset``."""

    @abstractmethod
    def copy(self, source: Self, taken: Range, offset: int, done: Progress) -> None:
        """Have the server copy a range of ``source`` to ``offset`` here."""

    @abstractmethod
    def flush(self) -> None:
        """Wait until everything written and copied is acknowledged."""

    @abstractmethod
    def sync(self) -> None:
        """Flush, and have the server put the file on its disk where it can."""

    @abstractmethod
    def close(self) -> None:
        """Give the file back to the server."""

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        others = [RepositoryError] if error else []  # the first error is the one that counts
        with contextlib.suppress(*others), contextlib.closing(self):
            if not error:
                self.flush()


class RemoteTree(ABC):
    """A folder on a server, or a local one.

    A path is relative to the tree's root, with ``/`` between its parts. A tree is used by one
    thread at a time; ``another`` opens a second one onto the same files.

    Every kind guarantees:

    - **Links.** No symbolic link below the root is followed: it can be seen, removed and replaced,
      a path that leads through one is refused. This class sees to it.
    - **Atomic.** Each change of a name is done in one step or not at all. One exception: a crash
      in the middle of ``rename_exclusive`` may leave the file under both names.
    - **Exclusive.** ``OpenMode.CREATE`` and ``rename_exclusive`` fail where the name is taken:
      of two that want the same name, one gets it. (OpenSSH on a file system without hard links
      looks first and renames then; there two may get it.)
    - **Durable.** After a crash of the remote's machine, what ``RemoteFile.sync`` did is still
      there if ``can_sync``. In a local folder so are ``rename`` and ``make_folder``; over SFTP
      names are as durable as the server makes them. ``remove`` and ``remove_folder`` may be
      undone. A file that was not synced may have holes.
    - **Repeatable.** ``make_folder``, ``remove`` and ``remove_folder`` do nothing where it is done.
    - **Errors.** A ``TransientError`` where a retry may help: the connection is lost or silent, or
      the server does not say why. A ``PermanentError`` where it cannot: permission, a full disk, a
      link, a missing file. ``_errors`` of the kind of remote knows which is which.
    """

    name: str  # for people: its URL, without a password
    root: str  # its folder as its machine knows it: absolute, every link in it resolved
    local_path: Path | None  # the same where that machine is certainly this one
    can_copy: bool  # whether the server copies ranges between its files
    can_sync: bool  # whether ``RemoteFile.sync`` puts a file on the server's disk, or only waits
    round_trip: float  # seconds that one request takes

    def __init__(self, target: Target) -> None:
        self.name = target.url
        self._target = target

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """Whether more can be asked of it: False once it is closed, or known to be lost."""

    @property
    @abstractmethod
    def sent(self) -> int:
        """Bytes given to the connection so far, for data and requests."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, from any thread: who uses it gets a ``ConnectionLostError``."""

    def another(self) -> RemoteTree:
        """Return a new connection to the same tree."""
        return type(self)(self._target)

    def free_space(self) -> int | None:
        """Return the bytes that may still be written, or None where the server does not say."""
        with self._errors(""):
            return self._free_space()

    def list(self, folder: str) -> dict[str, RemoteStat]:
        """Return what is in a folder by name; nothing if the folder is missing."""
        with self._errors(folder):
            return self._list(folder) if self._has_folder(folder) else {}

    def stat(self, path: str) -> RemoteStat | None:
        """Return what is at ``path``, or None."""
        with self._errors(path):
            return self._stat(path) if self._has_folder(path.rpartition("/")[0]) else None

    def read(self, path: str, ranges: Iterable[Range]) -> Iterator[bytes]:
        """Read ranges of a file, in order; a range beyond its end comes back short."""
        with self.open(path, OpenMode.READ) as file:
            yield from file.read(ranges)

    def open(self, path: str, mode: OpenMode, seen: RemoteStat | None = None) -> RemoteFile:
        """Open a file; ``seen`` is what ``stat`` said of it just now, else it is asked for."""
        with self._errors(self._checked(path)):
            found = seen
            if seen is None and mode is not OpenMode.CREATE:
                found = self._stat(path)
            if found is not None and found.kind is not Kind.FILE:
                problem = f"is a {found.kind.value}; it is not opened"
                raise StorageRefusedError(f"{self.name}/{path}", problem)
            create = mode is OpenMode.CREATE
            return self._open(path, writing=mode is not OpenMode.READ, create=create)

    def rename(self, path: str, new: str) -> None:
        """Give a file another name, in the place of what has that name."""
        with self._errors(self._checked(new)):
            self._rename(self._checked(path), new, exclusive=False)

    def rename_exclusive(self, path: str, new: str) -> None:
        """Give a file another name; fails where something has that name."""
        with self._errors(self._checked(new)):
            self._rename(self._checked(path), new, exclusive=True)

    def remove(self, path: str) -> None:
        """Remove a file or a link, if it is there."""
        with self._errors(self._checked(path)):
            self._remove(path)

    def make_folder(self, path: str) -> None:
        """Make a folder, if it is missing."""
        with self._errors(path):
            if not self._is_folder(path):
                self._make_folder(path)

    def remove_folder(self, path: str) -> None:
        """Remove a folder, if it is there and nothing is in it."""
        with self._errors(path):
            if self._is_folder(path):
                self._remove_folder(path)

    def assemble(self, path: str, pieces: Iterable[Piece], done: Progress = no_progress) -> None:
        """Have the server put a new file together from pieces of its files, and sync it."""
        if not self.can_copy:
            raise StorageRefusedError(f"{self.name}/{path}", "the server does not copy for us")
        with contextlib.ExitStack() as opened, self.open(path, OpenMode.CREATE) as file:
            sources: dict[str, RemoteFile] = {}
            at = 0
            for source, offset, length in pieces:
                if source not in sources:
                    sources[source] = opened.enter_context(self.open(source, OpenMode.READ))
                file.copy(sources[source], Range(offset, length), at, done)
                at += length
            file.sync()

    def _checked(self, path: str) -> str:
        """Return a path whose folder is one, and is there."""
        folder = path.rpartition("/")[0]
        if not self._has_folder(folder):
            raise StorageRefusedError(f"{self.name}/{folder}", "there is no such folder")
        return path

    def _has_folder(self, folder: str) -> bool:
        """Say whether the folder is there that something is in."""
        return not folder or self._is_folder(folder)

    def _is_folder(self, path: str) -> bool:
        """Say whether a folder is there; what else is there may be a link that leads elsewhere."""
        found = self.stat(path)
        if found is not None and found.kind is not Kind.FOLDER:
            problem = f"is a {found.kind.value} where a folder should be; it is not entered"
            remedy = "Make it a folder (a bind mount does what a link was meant for)"
            raise StorageRefusedError(f"{self.name}/{path}", problem, remedy=remedy)
        return found is not None

    # What a kind of remote does, in a folder that is known to be one, within ``_errors``.
    @abstractmethod
    def _errors(self, path: str) -> contextlib.AbstractContextManager[None]: ...
    @abstractmethod
    def _free_space(self) -> int | None: ...
    @abstractmethod
    def _list(self, folder: str) -> dict[str, RemoteStat]: ...
    @abstractmethod
    def _stat(self, path: str) -> RemoteStat | None: ...
    @abstractmethod
    def _open(self, path: str, *, writing: bool, create: bool) -> RemoteFile: ...
    @abstractmethod
    def _rename(self, path: str, new: str, *, exclusive: bool) -> None: ...
    @abstractmethod
    def _remove(self, path: str) -> None: ...
    @abstractmethod
    def _make_folder(self, path: str) -> None: ...
    @abstractmethod
    def _remove_folder(self, path: str) -> None: ...
