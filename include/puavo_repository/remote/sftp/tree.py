"""A remote tree and its files over SFTP, with many requests under way."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Self

from paramiko import sftp

from puavo_repository.errors import ConnectionLostError, StorageError, StorageRefusedError
from puavo_repository.progress import Progress, no_progress
from puavo_repository.remote.sftp.session import Reply, SftpSession, StatusError, string
from puavo_repository.remote.sftp.ssh import connect
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import (
    Data,
    Kind,
    Piece,
    Range,
    RemoteFile,
    RemoteStat,
    RemoteTree,
)

# Attributes of what is made, whatever the server's umask: nobody but its owner may write it,
# everybody may read it, the web server among them.
NEW_FILE, NEW_FOLDER = struct.pack(">II", 0x4, 0o644), struct.pack(">II", 0x4, 0o755)
MISSING, END, ANY = (sftp.SFTP_NO_SUCH_FILE,), (sftp.SFTP_EOF,), range(1 << 32)
COPY_PIECE = 64 << 20  # bytes of one copy-data request: an answer must come before the time-out
READS_UNDER_WAY = 32
SYNC_PATIENCE = 600.0  # seconds for a large file and a slow disk, as long as the SSH answers
# Bytes that a folder's names and their records take here: some two million of them. A server
# that lists without end must not fill the memory.
LARGEST_LISTING = 512 << 20
RECORD = 200  # of each, beside its name
NEARLY_FULL = 1 << 20  # bytes; OpenSSH says only "Failure" for a full disk, so space is asked for


class SftpTree(RemoteTree):
    """A folder on an SFTP server.

    ``can_copy`` where it announces ``copy-data`` (OpenSSH 9.0 and later), ``can_sync`` where it
    announces ``fsync@openssh.com``. A ``compressed`` one is for requests: data does not shrink.
    """

    local_path = None

    def __init__(self, target: Target, *, compressed: bool = False) -> None:
        super().__init__(target)
        self.root = target.path
        self._compressed = compressed
        self._beside: SftpTree | None = None  # the connection that an assembly goes over
        self._folders: set[str] = set()  # those that were seen to be folders
        self._session = SftpSession(target.url, connect(target, compressed=compressed))
        self.can_copy = "copy-data" in self._session.extensions
        self.can_sync = "fsync@openssh.com" in self._session.extensions
        try:
            with self._errors(""):
                self._session.learn_limits()
                begun = time.monotonic()
                reply = self._session.request(sftp.CMD_REALPATH, string(self.root), sftp.CMD_NAME)
                self.round_trip = time.monotonic() - begun
                reply.get_int()
                self.root = reply.get_binary().decode("utf-8", "surrogateescape")
                self._check_root()
        except BaseException:
            self.close()
            raise

    def _check_root(self) -> None:
        if not self.root.startswith("/") or "\0" in self.root:
            found = ascii(self.root)
            raise StorageRefusedError(self.name, "the server names no folder", found=found)
        there = self._stat("")
        if there is None or there.kind is not Kind.FOLDER:
            remedy = "Create it, owned by the user that publishes, or correct the path"
            problem = "there is no such folder on the server"
            raise StorageRefusedError(self.name, problem, remedy=remedy)

    @property
    def is_alive(self) -> bool:
        """Whether the connection is open, as far as it is known here."""
        return self._session.is_alive

    @property
    def sent(self) -> int:
        """Bytes of SFTP packets sent so far."""
        return self._session.sent

    def close(self) -> None:
        """Close the connection; pending work is lost."""
        # First this one: an assembly that begins just now looks whether it still is alive.
        self._session.close()
        if self._beside is not None:
            self._beside.close()

    def assemble(self, path: str, pieces: Iterable[Piece], done: Progress = no_progress) -> None:
        """Assemble over a compressed connection beside this one: the requests are much alike."""
        if self._compressed or not self.can_copy:
            super().assemble(path, pieces, done)
            return
        self._beside = beside = SftpTree(self._target, compressed=True)
        try:
            if not self.is_alive:  # closed meanwhile
                raise ConnectionLostError(self.name, "the connection was closed")
            beside.assemble(path, pieces, done)
        finally:
            beside.close()
            self._session.sent += beside.sent

    def _free_space(self) -> int | None:
        if "statvfs@openssh.com" not in self._session.extensions:
            return None
        body = string("statvfs@openssh.com") + string(self.root)
        reply = self._session.request(sftp.CMD_EXTENDED, body, sftp.CMD_EXTENDED_REPLY)
        _block, fragment, _blocks, _free, available = (reply.get_int64() for _ in range(5))
        return fragment * available

    def _list(self, folder: str) -> dict[str, RemoteStat]:
        reply = self._session.request(sftp.CMD_OPENDIR, self._full(folder), sftp.CMD_HANDLE)
        handle = string(reply.get_binary())
        found: dict[str, RemoteStat] = {}
        size = 0
        while True:
            reply = self._session.request(sftp.CMD_READDIR, handle, sftp.CMD_NAME, END)
            if reply.kind != sftp.CMD_NAME or not (count := reply.get_int()):
                break  # without names as OpenSSH's client does: such answers may have no end
            for _ in range(count):
                name, _line_for_people = reply.get_binary(), reply.get_binary()
                size += RECORD + len(name)
                if not name or b"/" in name or b"\0" in name or size > LARGEST_LISTING:
                    raise StorageRefusedError(
                        f"{self.name}/{folder}",
                        "the server lists what cannot be in a folder, or more names than fit, "
                        "or without end",
                        found=ascii(name[:80]),
                        remedy="Use a folder of the mirror's own; or another server: this one "
                        "means harm",
                    )
                found[name.decode("utf-8", "surrogateescape")] = reply.attributes()
        self._session.tell(sftp.CMD_CLOSE, handle)
        return {name: stat for name, stat in found.items() if name not in (".", "..")}

    def _stat(self, path: str) -> RemoteStat | None:
        reply = self._session.request(sftp.CMD_LSTAT, self._full(path), sftp.CMD_ATTRS, MISSING)
        return reply.attributes() if reply.kind == sftp.CMD_ATTRS else None

    def _open(self, path: str, *, writing: bool, create: bool) -> _SftpFile:
        flags = sftp.SFTP_FLAG_READ | (sftp.SFTP_FLAG_WRITE if writing else 0)
        flags |= sftp.SFTP_FLAG_CREATE | sftp.SFTP_FLAG_EXCL if create else 0
        body = self._full(path) + struct.pack(">I", flags) + NEW_FILE
        handle = string(self._session.request(sftp.CMD_OPEN, body, sftp.CMD_HANDLE).get_binary())
        if writing:  # whatever the umask made of it; refused where it is another user's
            self._session.submit(sftp.CMD_FSETSTAT, handle + NEW_FILE, lambda _reply: None)
        return _SftpFile(self, path, handle)

    def _rename(self, path: str, new: str, *, exclusive: bool) -> None:
        both = self._full(path) + self._full(new)
        if not exclusive and "posix-rename@openssh.com" in self._session.extensions:
            self._session.request(sftp.CMD_EXTENDED, string("posix-rename@openssh.com") + both)
        elif exclusive or self._stat(new) is None:
            self._session.request(sftp.CMD_RENAME, both)  # 6.5 of the draft: fails where taken
        else:
            raise StorageRefusedError(
                f"{self.name}/{new}",
                "cannot be replaced in one step: the server lacks posix-rename@openssh.com",
                remedy="Use an OpenSSH server",
            )

    def _remove(self, path: str) -> None:
        self._session.request(sftp.CMD_REMOVE, self._full(path), harmless=MISSING)

    def _make_folder(self, path: str) -> None:
        body = self._full(path) + NEW_FOLDER
        self._session.request(sftp.CMD_MKDIR, body)
        self._session.tell(sftp.CMD_SETSTAT, body)

    def _remove_folder(self, path: str) -> None:
        self._folders.discard(path)
        try:
            self._session.request(sftp.CMD_RMDIR, self._full(path), harmless=MISSING)
        except StatusError:
            if not self.list(path):  # the protocol knows no status for one that is not empty
                raise

    def _full(self, path: str) -> bytes:
        return string(f"{self.root.rstrip('/')}/{path}" if path else self.root)

    def _has_folder(self, folder: str) -> bool:
        """Ask for each folder once, to save a round trip a file."""
        if folder not in self._folders and super()._has_folder(folder):
            self._folders.add(folder)
        return folder in self._folders

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except StatusError as error:
            refusal: type[StorageError | StorageRefusedError] = StorageRefusedError
            remedy = ""
            if error.code == sftp.SFTP_PERMISSION_DENIED:
                problem = "the server denies permission"
                remedy = "Let the user that publishes write there"
            elif error.code == sftp.SFTP_NO_SUCH_FILE:
                problem = "there is no such file on the server"
            elif error.code == sftp.SFTP_FAILURE and self._is_full():
                problem = "the server's disk is full"
                remedy = "Free some space there and run again; what arrived is kept"
            else:
                refusal, problem = StorageError, f"the server says: {error.text or error.code}"
            subject = f"{self.name}/{path}" if path else self.name
            raise refusal(subject, problem, remedy=remedy) from error

    def _is_full(self) -> bool:
        with contextlib.suppress(StatusError, ConnectionLostError):
            self._session.forget()
            free = self._free_space()
            return free is not None and free < NEARLY_FULL
        return False


class _SftpFile(RemoteFile):
    """An open file on an SFTP server; ``handle`` is what the server calls it."""

    def __init__(self, tree: SftpTree, path: str, handle: bytes) -> None:
        self._tree = tree
        self._path = path
        self._handle = handle
        self._session = tree._session

    def read(self, ranges: Iterable[Range]) -> Iterator[bytes]:
        wanted = iter(ranges)
        while waiting := [self._ask_for(one) for one in islice(wanted, READS_UNDER_WAY)]:
            self._session.drain()
            yield from map(bytes, waiting)

    def _ask_for(self, wanted: Range) -> bytearray:
        """Request one range; the buffer is filled once the session is drained."""
        piece = bytearray(wanted.length)

        def put(at: int, length: int, reply: Reply) -> None:
            with self._tree._errors(self._path):
                reply.expect(sftp.CMD_DATA, END)
            data = reply.get_binary() if reply.kind == sftp.CMD_DATA else b""
            if len(data) > length:
                raise StorageError("SFTP server", "sent more than it was asked for")
            piece[at : at + len(data)] = data
            if len(data) < length:
                del piece[at + len(data) :]

        for at, length in _cut(wanted.length, self._session.packet):
            body = self._handle + struct.pack(">QI", wanted.offset + at, length)
            self._session.submit(sftp.CMD_READ, body, partial(put, at, length))
        return piece

    def write(self, offset: int, data: Data, done: Progress = no_progress) -> None:
        view = memoryview(data)
        for at, length in _cut(len(view), self._session.packet):
            body = self._handle + struct.pack(">QI", offset + at, length)
            self._submit(sftp.CMD_WRITE, body, length, done, view[at : at + length])

    def copy(self, source: Self, taken: Range, offset: int, done: Progress) -> None:
        # OpenSSH's ``PROTOCOL``, 4.10: a length of 0 means "to the end", so it is never sent.
        for at, length in _cut(taken.length, COPY_PIECE):
            wanted = source._handle + struct.pack(">QQ", taken.offset + at, length)
            body = string("copy-data") + wanted + self._handle + struct.pack(">Q", offset + at)
            self._submit(sftp.CMD_EXTENDED, body, length, done, b"")

    def _submit(self, kind: int, body: bytes, size: int, done: Progress, data: Data) -> None:
        def take(reply: Reply) -> None:
            with self._tree._errors(self._path):
                reply.expect(sftp.CMD_STATUS)
            done(size)

        self._session.submit(kind, body, take, data)

    def flush(self) -> None:
        self._session.drain()

    def sync(self) -> None:
        if self._tree.can_sync:  # behind the writes: the server answers in order
            body = string("fsync@openssh.com") + self._handle
            self._submit(sftp.CMD_EXTENDED, body, 0, no_progress, b"")
            self._session.drain(SYNC_PATIENCE)
        self.flush()

    def close(self) -> None:
        self._session.forget()
        self._session.tell(sftp.CMD_CLOSE, self._handle)


def _cut(length: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut so many bytes into (offset, length) of at most so many."""
    return ((at, min(most, length - at)) for at in range(0, length, most))
