"""A remote tree behind one small interface: what publishing needs of a server, and no more.

Two implementations, one file each: ``sftp.SftpTree`` and ``folder.FolderTree``. Paths are
relative to the tree's root, with ``/`` between the parts. Nothing here ever follows a symbolic
link below the root: links are seen as links (``Kind.LINK``), and replaced or left, not entered.

A tree is used by one thread at a time; ``another`` opens a second one onto the same files.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


class Kind(enum.Enum):
    """What a name in a remote folder is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class RemoteStat:
    """What a server tells of one name.

    Attributes:
        kind: File, folder, symbolic link (itself, not where it leads) or something else.
        size: Bytes.
        mtime: Whole seconds on the *server's* clock.
    """

    kind: Kind
    size: int
    mtime: int


@dataclass(frozen=True)
class Range:
    """``length`` bytes at ``offset``."""

    offset: int
    length: int


class Access(enum.Enum):
    """How a remote file is opened."""

    READ = "read"
    WRITE = "write"  # what is there stays; made if missing
    CREATE = "create"  # fails where the name exists, and never follows a link


Done = Callable[[int], None]
"""Told how many bytes the server has acknowledged since the last call."""


def ignore(_done: int) -> None:
    """Take no notice."""


class RemoteFile(Protocol):
    """An open file. Writes and copies may be under way until ``flush`` returns."""

    def write(self, offset: int, data: bytes | memoryview, done: Done = ignore) -> None:
        """Write ``data`` at ``offset``; ``done`` is called when the server has it."""

    def copy(self, source: Self, start: int, length: int, offset: int, done: Done = ignore) -> None:
        """Have the server copy ``length`` bytes at ``start`` of ``source`` to ``offset`` here."""

    def flush(self) -> None:
        """Wait until everything written and copied is acknowledged."""

    def sync(self) -> None:
        """Flush, and have the server put the file on its disk where it knows how."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def close(self) -> None:
        """Give the file back to the server."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class RemoteTree(Protocol):
    """A folder on a server, or one that stands for it.

    After a crash of its machine: what ``RemoteFile.sync`` and, in a local folder, ``rename``,
    ``claim`` and ``make_folder`` did is still there; over SFTP names are as durable as the server
    makes them. What ``remove`` and ``remove_folder`` did may be undone, and a file that was not
    synced may have holes. Each of them is done in one step or not at all, but for ``claim``: a
    crash in its middle may leave the file under both names.

    Every method raises ``TransientError`` where a retry may help (a lost or silent connection)
    and ``PermanentError`` where it cannot (permission, full disk).
    """

    @property
    def name(self) -> str:
        """The tree for people: its URL, without a password."""

    @property
    def root(self) -> str:
        """The tree's folder as its machine knows it: absolute, every link in it resolved."""

    @property
    def local_path(self) -> Path | None:
        """The same where that machine is this one for certain; None for a server."""

    @property
    def is_alive(self) -> bool:
        """Whether more can be asked of it: False once it is closed, or known to be lost."""

    @property
    def can_copy(self) -> bool:
        """Whether the server copies ranges between its files."""

    @property
    def can_sync(self) -> bool:
        """Whether ``RemoteFile.sync`` puts a file on the server's disk, or only waits."""

    @property
    def round_trip(self) -> float:
        """How long one request takes, in seconds."""

    @property
    def sent(self) -> int:
        """Bytes given to the connection so far, for data and requests."""

    def list(self, folder: str) -> dict[str, RemoteStat]:
        """Return what is in a folder by name; nothing if the folder is missing."""

    def stat(self, path: str) -> RemoteStat | None:
        """Return what is at ``path``, links not followed, or None."""

    def read(self, path: str, ranges: Iterable[Range]) -> Iterator[bytes]:
        """Read ranges of a file, in order; a range beyond its end comes back short."""

    def open(self, path: str, access: Access) -> RemoteFile:
        """Open a file."""

    def rename(self, path: str, new: str) -> None:
        """Give a file another name in one step, in the place of what had that name."""

    def claim(self, path: str, name: str) -> None:
        """Give a file a name that must be free; fails where somebody has it."""

    def remove(self, path: str) -> None:
        """Remove a file or a link, if it is there."""

    def make_folder(self, path: str) -> None:
        """Make a folder, if it is missing."""

    def remove_folder(self, path: str) -> None:
        """Remove a folder, if it is there and nothing is in it."""

    def free_space(self) -> int | None:
        """Return the bytes that may still be written, or None where the server does not say."""

    def another(self, *, compressed: bool = False) -> RemoteTree:
        """Return a new connection to the same tree; compressed if it is for requests alone."""

    def close(self) -> None:
        """Close the connection, from any thread.

        Pending work is lost: who waits for it, and who asks for more, gets a
        ``ConnectionLostError``.
        """


def read_whole(tree: RemoteTree, path: str, limit: int = 64 << 20) -> bytes | None:
    """Return a small file's content, or None where there is no such file.

    Args:
        tree: Where to read.
        path: The file.
        limit: The most bytes it may have; a document of ours is never that large.
    """
    found = tree.stat(path)
    if found is None or found.kind is not Kind.FILE or found.size > limit:
        return None
    return b"".join(tree.read(path, [Range(0, found.size)]))


def write_whole(
    tree: RemoteTree, path: str, content: bytes, check: Callable[[], object] = lambda: None
) -> None:
    """Write a small file so that a reader finds the old content or the new, never a part.

    Args:
        tree: The remote.
        path: Where.
        content: What.
        check: Called when all of it is on the disk, right before it gets its name; may raise.
    """
    folder, _, name = path.rpartition("/")
    part = f"{folder}/.{name}.part" if folder else f".{name}.part"
    tree.remove(part)
    with tree.open(part, Access.CREATE) as file:
        file.write(0, content)
        file.sync()
    check()
    tree.rename(part, path)
