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
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, cast

from isal import igzip, isal_zlib

from puavo_repository.errors import SettingsError, StorageError, as_storage_error
from puavo_repository.fleet.downloads import Downloads
from puavo_repository.fleet.requests import Reader, blocks
from puavo_repository.fleet.store import Store
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


@dataclass
class Folded:
    """What came of reading logs."""

    files: int = 0
    bytes: int = 0  # new ones, of text
    requests: int = 0  # lines with a name like ours
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return it for people."""
        read = f"{self.files} log files, {self.bytes} new bytes, {self.requests} requests for ours"
        return [read, *self.notes]


def fold(settings: Settings, log: str, connect: Connect, done: Folded) -> None:
    """Read what is new of one log, named as the setting names it: a path that may have a ``*``.

    ``connect`` returns the target that a connection's id or the beginning of an URL names.
    """
    where, pattern = log.rsplit("/", 1)
    with closing(open_tree(_folder(where, connect))) as tree:
        found = {
            name: one.mtime
            for name, one in tree.list("").items()
            if one.kind is Kind.FILE and fnmatch.fnmatchcase(name, pattern)
        }
        if not found:
            expected = "files of a log, such as /var/log/nginx/access.log*"
            remedy = "Correct the path, or give this user access to its folder"
            raise SettingsError(log, "no such file is there", expected=expected, remedy=remedy)
        documents = Mirror(settings.mirror_dir).documents().values()
        for name in sorted(found, key=found.__getitem__):  # the oldest first
            shown = f"{tree.name.removeprefix('file://')}/{name}"
            for _ in range(_TRIES):
                with (
                    Store(settings.mirror_dir) as store,
                    as_storage_error(shown),
                    closing(cast("BinaryIO", _LogStream(tree, name))) as raw,
                ):
                    store.describe(documents)
                    counts = _fold(store, log, raw, shown, done)
                if counts:
                    break
            else:
                problem = "it was emptied again and again while it was read"
                raise StorageError(shown, problem, remedy="Run again")
            done.files += 1


def _fold(store: Store, log: str, raw: BinaryIO, name: str, done: Folded) -> bool:
    """Read what is new of a file; False where nothing of it may count."""
    reader = Reader()
    start = raw.read(len(_GZIP) + 4)
    for magic, kind in _OTHERS.items():
        if start.startswith(magic):
            done.notes.append(
                f"{name}: left out, for it is compressed with {kind}. "
                "Have logrotate use gzip, or unpack it"
            )
            return True
    raw.seek(0)
    packed = start.startswith(_GZIP)
    stream = _unpacked(raw) if packed else raw
    try:
        head = _exactly(stream, HEAD)
        old, offset = _known(store, log, head)
        stream.seek(offset)
        downloads, end = Downloads(store, log), offset
        for block in _until_damaged(stream, name, done):
            for request in reader.requests(block):
                downloads.take(request)
            end += len(block)
    except _DAMAGED as error:
        done.notes.append(f"{name}: its beginning cannot be unpacked ({error})")
        return True
    if not packed:
        raw.seek(0)
        if not _exactly(raw, HEAD).startswith(head[: min(len(head), end)]):
            return False
    if end > offset:
        downloads.keep()
        length = min(len(head), end)
        store.move(log, old, _digest(head[:length]), length, end)
    done.bytes += end - offset
    done.requests += reader.read
    if reader.broken > reader.read:
        done.notes.append(
            f"{name}: {reader.broken} lines name files like ours and cannot be read. Expected "
            "is the combined format of nginx or Apache, or rsyncd's transfer log"
        )
    return True


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


def _folder(where: str, connect: Connect) -> Target:
    """Return the folder that a setting names, here or over SFTP."""
    if "://" in where:
        return connect(where)
    connection, _, folder = where.rpartition(":")
    target = connect(connection) if connection else Target(path="/")
    return replace(target, path=folder or "/")


class _LogStream(io.RawIOBase):
    """A file of a tree, for those who read a stream; who seeks in it counts from its beginning."""

    def __init__(self, tree: RemoteTree, name: str) -> None:
        self._file, self._at = tree.open(name, OpenMode.READ), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, _whence: int = io.SEEK_SET) -> int:
        self._at = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        data = b"".join(self._file.read([Range(self._at, len(buffer))]))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
