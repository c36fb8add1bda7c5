"""Reads the logs of a repository's servers into the store, each line of them once.

A log is known by its first bytes, and not by name or inode: so it is still the same one when it
was rotated, compressed, or copied and emptied, and what comes after the place up to which it was
read is all that is new. The place is kept in the same transaction as the counts.
"""

import fnmatch
import gzip
import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, BinaryIO, cast

from isal import igzip, isal_zlib

from puavo_repository.errors import SettingsError, StorageError, as_storage_error
from puavo_repository.fleet.downloads import Downloads
from puavo_repository.fleet.requests import Reader, blocks
from puavo_repository.fleet.store import Store, today
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.remote.pool import open_tree
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Kind, OpenMode, Range, RemoteTree
from puavo_repository.settings import Settings

logger = logging.getLogger(__name__)

HEAD = 4096  # bytes at most by which a log is known
_GZIP = b"\x1f\x8b"
_OTHERS = {b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}
_BROKEN: Any = isal_zlib.error
_DAMAGED: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, _BROKEN)
_TRIES = 3  # to read a log that is emptied meanwhile
Connect = Callable[[str], Target]


@dataclass(frozen=True)
class LogFile:
    """One file of a log."""

    name: str  # for people
    mtime: float
    open: Callable[[], io.RawIOBase]


@dataclass
class Folded:
    """What came of reading logs."""

    files: int = 0
    bytes: int = 0  # new ones, of text
    requests: int = 0  # lines with a name like ours
    broken: int = 0  # lines with one that could not be read
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return it for people."""
        read = f"{self.files} log files, {self.bytes} new bytes, {self.requests} requests for ours"
        return [read, *self.notes]


def fold(settings: Settings, log: str, connect: Connect, done: Folded) -> None:
    """Read what is new of one log, named as the setting names it: a path that may have a ``*``.

    ``connect`` returns the target that a connection's id or the beginning of an URL names.
    """
    with _files(log, connect) as found:
        if not found:
            expected = "files of a log, such as /var/log/nginx/access.log*"
            remedy = "Correct the path, or give this user access to its folder"
            raise SettingsError(log, "no such file is there", expected=expected, remedy=remedy)
        documents = Mirror(settings.mirror_dir).documents().values()
        for file in sorted(found, key=lambda one: one.mtime):  # the oldest first
            for _ in range(_TRIES):
                with Store(settings.mirror_dir) as store:
                    store.describe(documents, today())
                    one = _fold(store, log, file)
                if one is not None:
                    break
            else:
                problem = "it was emptied again and again while it was read"
                raise StorageError(file.name, problem, remedy="Run again")
            done.files += 1
            done.bytes += one.bytes
            done.requests += one.requests
            done.broken += one.broken
            done.notes += one.notes


def _fold(store: Store, log: str, file: LogFile) -> Folded | None:
    """Read what is new of a file; None where nothing of it may count."""
    done, reader = Folded(), Reader()
    with as_storage_error(file.name), closing(cast("BinaryIO", file.open())) as raw:
        start = raw.read(len(_GZIP) + 4)
        for magic, kind in _OTHERS.items():
            if start.startswith(magic):
                done.notes.append(
                    f"{file.name}: left out, for it is compressed with {kind}. "
                    "Have logrotate use gzip, or unpack it"
                )
                return done
        raw.seek(0)
        packed = start.startswith(_GZIP)
        stream = _unpacked(raw) if packed else raw
        try:
            head = _exactly(stream, HEAD)
            old, offset = _known(store, log, head)
            stream.seek(offset)
            downloads, end = Downloads(store, log, today()), offset
            for block in _until_damaged(stream, file.name, done):
                for request in reader.requests(block):
                    downloads.take(request)
                end += len(block)
        except _DAMAGED as error:
            done.notes.append(f"{file.name}: its beginning cannot be unpacked ({error})")
            return done
        if not packed:
            raw.seek(0)
            if not _exactly(raw, HEAD).startswith(head[: min(len(head), end)]):
                return None
    if end > offset:
        downloads.keep()
        length = min(len(head), end)
        store.move(log, old, _digest(head[:length]), length, end)
    done.bytes, done.requests, done.broken = end - offset, reader.read, reader.broken
    if reader.broken > reader.read:
        done.notes.append(
            f"{file.name}: {reader.broken} lines name files like ours and cannot be read. Expected "
            "is the combined format of nginx or Apache, or rsyncd's transfer log"
        )
    return done


def _unpacked(raw: BinaryIO) -> BinaryIO:
    unpack: Any = igzip.IGzipFile
    return cast("BinaryIO", unpack(fileobj=raw))


def _until_damaged(stream: BinaryIO, name: str, done: Folded) -> Iterator[bytes]:
    try:
        yield from blocks(stream)
    except _DAMAGED as error:
        done.notes.append(f"{name}: read up to where it is damaged, or not all written ({error})")


def _known(store: Store, log: str, head: bytes) -> tuple[bytes, int]:
    """Return by which digest a file is known, and up to where it was read."""
    for digest, length, offset in store.positions(log):  # the longest first
        if length <= len(head) and _digest(head[:length]) == digest:
            return digest, offset
    return b"", 0


def _digest(head: bytes) -> bytes:
    return hashlib.sha256(head).digest()


def _exactly(stream: BinaryIO, length: int) -> bytes:
    """Read so many bytes, fewer only at the end."""
    found = b""
    while len(found) < length and (more := stream.read(length - len(found))):
        found += more
    return found


@contextmanager
def _files(log: str, connect: Connect) -> Iterator[list[LogFile]]:
    """Open the files that a setting names, here or over SFTP."""
    where, pattern = log.rsplit("/", 1)
    if "://" in where:
        target = connect(where)
    else:
        connection, _, folder = where.rpartition(":")
        target = connect(connection) if connection else Target(path="/")
        target = replace(target, path=folder or "/")
    with closing(open_tree(target)) as tree:
        shown = tree.name.removeprefix("file://")
        yield [
            LogFile(f"{shown}/{name}", found.mtime, partial(_LogStream, tree, name))
            for name, found in tree.list("").items()
            if found.kind is Kind.FILE and fnmatch.fnmatchcase(name, pattern)
        ]


class _LogStream(io.RawIOBase):
    """A file of a tree, for those who read a stream."""

    def __init__(self, tree: RemoteTree, name: str) -> None:
        self._file, self._at = tree.open(name, OpenMode.READ), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only from the beginning")
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = b"".join(self._file.read([Range(self._at, len(buffer))]))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
