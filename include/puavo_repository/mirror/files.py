"""Files that are either whole and durable, or not there; and lock files.

Every output is made as ``.<name>.<try>.part`` in its own folder, fsynced, renamed, and the
folder fsynced. Each try has a part file of its own: one that is thought dead may still write.
What a killed process leaves behind are such part files only; ``sweep`` removes them when the
mirror's lock says that no process is writing them.

A file or folder is missing only where the system says so. One that cannot be looked at (no
permission, a link to a disk that is not mounted) is an error, as is all else that the system
refuses: taken for missing, it would be taken from the clients as well.

Whatever the umask, only the owner may write what is made here; a web server may have to read it.
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
    """What tells that a file is still the one that was looked at."""

    # Neither inode nor device: two machines on one shared file system must agree.
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
    """Say where a file is made before it gets its name, and remove what did not get it."""
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
    """Open a part file for writing; durable under its name when, and only when, all went well."""
    with part_of(path) as part:
        with create(part) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        rename_into_place(part, path)


def write(path: Path, content: bytes) -> bool:
    """Give a file this content; return False where it has it already and nothing was done."""
    if read(path) == content:
        return False
    with new_file(path) as stream:
        stream.write(content)
    return True


def read(path: Path) -> bytes | None:
    """Return what a plain file holds, None where there is none: reading a pipe would not end."""
    with as_storage_error(path), suppress(FileNotFoundError):
        return path.read_bytes() if Identity.at(path) is not None else None
    return None


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably, where they are missing."""
    if exists(folder):
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
    with as_storage_error(path), suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)
        return True
    return False


def listed(folder: Path, pattern: str = "[!.]*") -> list[Path]:
    """Return what in a folder has such a name, sorted; nothing where there is no folder.

    ``Path.glob`` and its like take a folder that they may not read for an empty one.
    """
    if not exists(folder):
        return []
    with as_storage_error(folder):
        names = fnmatch.filter(os.listdir(folder), pattern)  # noqa: PTH208 - there are thousands
    return [folder / name for name in sorted(names)]


def exists(path: Path) -> bool:
    """Tell whether there is anything under a name; a link on the way is followed, or refused."""
    with as_storage_error(path):
        with suppress(FileNotFoundError):
            path.stat()
            return True
        for link in (path, *path.parents):
            # Where it leads nowhere, its disk may not be mounted.
            if link.is_symlink() and not os.path.exists(link):  # noqa: PTH110
                raise StorageRefusedError(
                    path,
                    f"the link {link} leads nowhere" if link != path else "this link leads nowhere",
                    found=str(link.readlink()),
                    remedy="Mount the disk that it leads to, or correct it",
                )
    return False


def sweep(folder: Path, older: float = 0.0) -> None:
    """Remove the part files that a killed process left in a folder, so many seconds ago."""
    for part in listed(folder, f".*{PART}"):
        found = Identity.at(part)
        if not older or (found is not None and found.mtime / 1e9 < time.time() - older):
            remove(part)


@contextmanager
def locked(path: Path, holder: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, made where it is missing; the kernel drops it with the process.

    Who finds it held is told of its ``holder`` in these words, or waits for its end.
    """
    make_folder(path.parent)
    with as_storage_error(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _NEW_FILE)
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with os.fdopen(descriptor, "r+b", 0) as lock:
        with as_storage_error(path):
            try:
                fcntl.flock(lock, mode if wait else mode | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(
                    path.parent.parent,
                    f"another run is at work on this mirror: {_holder(descriptor)}",
                    remedy="Wait for it to end, or stop it; its lock goes with it",
                ) from None
        who = {"holder": holder, "process": os.getpid(), "host": socket.gethostname()}
        # The lock is the kernel's; the name is for people, and a full disk may not take it.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(who).encode(), 0)
        try:
            yield
        finally:
            # A run without news changes no byte of the mirror, so nobody is named any more.
            with suppress(OSError):  # others share the lock, and the last of them will
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"{found['holder']}, process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "it has not said which"
