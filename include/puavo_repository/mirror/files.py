"""Files that are either whole and durable, or not there.

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

import errno
import fnmatch
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from puavo_repository.errors import (
    StorageError,
    StorageRefusedError,
    as_storage_error,
    storage_error,
)

PART = ".part"
NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
NEW_FILE, _NEW_FOLDER = 0o644, 0o755  # the most that a new one permits

Seen = tuple[int, int, int]
"""What lies under a name for one process: inode, size in bytes, and time of modification in ns."""


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
        return cls.of_file(found)

    @classmethod
    def of_file(cls, found: os.stat_result) -> Identity | None:
        """Return the same; None where it is no regular file."""
        return cls.of(found) if stat.S_ISREG(found.st_mode) else None

    def __str__(self) -> str:
        return f"{self.size}-{self.mtime}"


def create(path: Path, buffering: int = -1) -> BinaryIO:
    """Open a file for writing, made or emptied."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, NEW_FILE)
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
    sync(path.parent)


def seen(path: Path) -> Seen | None:
    """Return what lies under a name, for ``claim``; None where it is free."""
    with as_storage_error(path), suppress(FileNotFoundError):
        found = path.lstat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None


def check_same(path: Path, before: Seen | None) -> None:
    """Raise a ``StorageError`` unless what lies under a name is still what was seen before."""
    if seen(path) != before:
        raise StorageError(
            path,
            "another process put a file there meanwhile, which stays",
            remedy="Run again: it is looked at then",
        )


def claim(part: Path, path: Path, before: Seen | None) -> None:
    """Give a file that is whole and durable a name, if that is free or of what was seen before.

    So who was cut off, or asleep, while another process did the same work, does not put an older
    result over its own, whatever became of the lock.
    """
    check_same(path, before)
    if before is not None or not _link(part, path):
        part.rename(path)
    sync(path.parent)


def _link(part: Path, path: Path) -> bool:
    """Give a file a second name that is free, as no rename can; False where there are no links."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return False
    return True


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a part file for writing; durable under its name when, and only when, all went well."""
    with part_of(path) as part:
        with create(part) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        rename_into_place(part, path)


def write(path: Path, content: bytes) -> None:
    """Give a file this content; where it has it already, nothing is done."""
    if read(path) != content:
        with new_file(path) as stream:
            stream.write(content)


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
        sync(folder.parent)


def sync(path: Path) -> None:
    """Make what a file holds durable, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> bool:
    """Remove a file durably; return False where there was none."""
    with as_storage_error(path), suppress(FileNotFoundError):
        path.unlink()
        sync(path.parent)
        return True
    return False


def listed(folder: Path, pattern: str = "[!.]*") -> list[Path]:
    """Return what in a folder has such a name, sorted; nothing where there is no folder."""
    return [folder / name for name in names(folder, pattern)]


def names(folder: Path, pattern: str = "[!.]*") -> list[str]:
    """Return the names alone; ``Path.glob`` takes one that it may not read for an empty one."""
    if not exists(folder):
        return []
    with as_storage_error(folder):
        return sorted(fnmatch.filter(os.listdir(folder), pattern))  # noqa: PTH208


def scan(folder: Path, pattern: str = "[!.]*") -> Iterator[tuple[str, os.stat_result]]:
    """Iterate over the same with what ``lstat`` says of each; one that vanishes is left out."""
    where = f"{folder}/"  # a Path for each of thousands takes longer than to look at it
    for name in names(folder, pattern):
        try:
            found = os.lstat(where + name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise storage_error(folder / name, error) from error
        yield name, found


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


def sweep(folder: Path, older: float = 0.0, of: str = "") -> None:
    """Remove part files, all or those ``of`` one, that a process killed so long ago left there."""
    for part in listed(folder, f".{of}*{PART}"):
        found = Identity.at(part)
        if not older or (found is not None and found.mtime / 1e9 < time.time() - older):
            remove(part)
