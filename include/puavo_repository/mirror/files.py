"""Files that are either whole and durable, or not there; and lock files.

Every output is made as ``.<name>.<try>.part`` in its own folder, fsynced, renamed, and the
folder fsynced. Each try has a part file of its own: one that is thought dead may still write.
What a killed process leaves behind are such part files only; ``sweep`` removes them when the
mirror's lock says that no process is writing them.

A file or folder is missing only where the system says so. One that cannot be looked at (no
permission, a link to a disk that is not mounted) is a ``StorageError`` or
``StorageRefusedError``, as is all else that the system refuses: taken for missing, it would be
taken from the clients as well.

Whatever the umask, only the owner may write what is made here; who may read it is the
umask's to say, for a web server often has to.
"""

from __future__ import annotations

import fcntl
import fnmatch
import json
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from puavo_repository.errors import (
    LockedError,
    StorageRefusedError,
    as_storage_error,
    storage_error,
)

PART = ".part"
_NEW_FILE, _NEW_FOLDER = 0o644, 0o755  # the most that a new one permits


class Identity(NamedTuple):
    """What tells that a file is still the one that was looked at.

    Neither inode nor device: two machines on one shared file system must agree.
    """

    size: int  # bytes
    mtime: int  # time of last modification, ns

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        """Return the identity in what ``stat`` found."""
        return cls(found.st_size, found.st_mtime_ns)

    @classmethod
    def at(cls, path: Path) -> Identity | None:
        """Return the identity of the file at ``path``, None where there is no regular file."""
        with as_storage_error(path):
            try:
                found = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return cls.of(found) if stat.S_ISREG(found.st_mode) else None

    def __str__(self) -> str:
        return f"{self.size}-{self.mtime}"


def create(path: Path, buffering: int = -1) -> BinaryIO:
    """Open a file for writing, made or emptied."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _NEW_FILE)
    return os.fdopen(descriptor, "wb", buffering)


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """Say where a file is made before it gets its name, and remove what did not get it.

    The folder is made if it is missing.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        make_folder(path.parent)
        yield part
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with suppress(OSError):  # the error that led here is the one that counts
            part.unlink(missing_ok=True)


def rename_into_place(part: Path, path: Path) -> None:
    """Give a file that is whole and durable its name, durably."""
    part.rename(path)
    sync_folder(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a part file for writing; durable under its name when the block ends well.

    When the block raises, what ``path`` held before is untouched.
    """
    with part_of(path) as part:
        with create(part) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        rename_into_place(part, path)


def write(path: Path, content: bytes) -> bool:
    """Give a file this content; return False where it has it already and nothing was done."""
    with as_storage_error(path), suppress(FileNotFoundError):
        if Identity.at(path) is not None and path.read_bytes() == content:
            return False
    with new_file(path) as stream:
        stream.write(content)
    return True


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably, where they are missing."""
    if is_folder(folder):
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    with as_storage_error(folder):
        folder.mkdir(_NEW_FOLDER, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> bool:
    """Remove a file durably; return False where there was none."""
    with as_storage_error(path):
        try:
            path.unlink()
            sync_folder(path.parent)
        except FileNotFoundError:
            return False
    return True


def listed(folder: Path, pattern: str) -> list[Path]:
    """Return what in a folder has such a name, sorted; nothing where there is no folder."""
    return [folder / name for name in names_in(folder, pattern)]


def names_in(folder: Path, pattern: str = "*") -> list[str]:
    """Return the names in a folder that are such, sorted; none where there is no folder.

    ``Path.glob`` and its like take a folder that they may not read for an empty one.
    """
    with as_storage_error(folder):
        try:
            with os.scandir(folder) as entries:
                return sorted(fnmatch.filter((entry.name for entry in entries), pattern))
        except FileNotFoundError:
            _refuse_broken_link(folder)
            return []


def exists(path: Path) -> bool:
    """Tell whether there is anything under a name; a link is followed."""
    return _mode(path) is not None


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder, or a link to one."""
    return stat.S_ISDIR(_mode(path) or 0)


def _mode(path: Path) -> int | None:
    with as_storage_error(path):
        try:
            return path.stat().st_mode
        except FileNotFoundError:
            _refuse_broken_link(path)
            return None


def _refuse_broken_link(path: Path) -> None:
    """Refuse a path through a link that leads nowhere: its disk may not be mounted."""
    for link in (path, *path.parents):
        if link.is_symlink() and not os.path.exists(link):  # noqa: PTH110
            raise StorageRefusedError(
                path,
                f"the link {link} leads nowhere" if link != path else "this link leads nowhere",
                found=str(link.readlink()),
                remedy="Mount the disk that it leads to, or correct it",
            )


def sweep(folder: Path, older: float = 0.0) -> None:
    """Remove the part files that a killed process left in a folder, so many seconds ago."""
    for part in listed(folder, f".*{PART}"):
        found = Identity.at(part)
        if not older or (found is not None and found.mtime / 1e9 < time.time() - older):
            remove(part)


@contextmanager
def locked(path: Path, holder: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, made where it is missing; the kernel drops it with the process.

    Args:
        path: The lock file.
        holder: Who holds it, in words for the person who finds it held.
        shared: Whether others may hold it shared at the same time.
        wait: Whether to wait for it instead of raising.

    Raises:
        LockedError: Another process holds it.
    """
    make_folder(path.parent)
    with as_storage_error(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _NEW_FILE)
    try:
        _lock(path, descriptor, shared=shared, wait=wait)
        # The lock is the kernel's; the name is for people, and a full disk may not take it.
        with suppress(OSError):
            _name_holder(descriptor, holder)
        try:
            yield
        finally:
            with suppress(OSError):
                _forget_holder(descriptor)
    finally:
        os.close(descriptor)


def _lock(path: Path, descriptor: int, *, shared: bool, wait: bool) -> None:
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    with as_storage_error(path):
        try:
            fcntl.flock(descriptor, mode)
        except BlockingIOError:
            raise LockedError(
                path.parent.parent,
                f"another run is at work on this mirror: {_holder(descriptor)}",
                remedy="Wait for it to end, or stop it; its lock goes with it",
            ) from None


def _name_holder(descriptor: int, holder: str) -> None:
    text = json.dumps({"holder": holder, "process": os.getpid(), "host": socket.gethostname()})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _forget_holder(descriptor: int) -> None:
    """Leave the file empty, so that a run without news changes no byte of the mirror."""
    with suppress(BlockingIOError):  # others share it, and the last of them will
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"{found['holder']}, process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "it has not said which"
