"""A remote tree over SFTP."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterable, Iterator
from functools import partial

from puavo_repository.errors import (
    ConnectionLostError,
    RepositoryError,
    StorageError,
    StorageRefusedError,
)
from puavo_repository.remote.file import Acknowledge, no_callback
from puavo_repository.remote.sftp import packets
from puavo_repository.remote.sftp.file import SftpFile, may_be_refused
from puavo_repository.remote.sftp.packets import Packet, Reply, Status, StatusError, string
from puavo_repository.remote.sftp.session import LARGEST_PACKET, SAFE_PACKET, SftpSession
from puavo_repository.remote.sftp.ssh import connect
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Kind, Piece, RemoteStat, RemoteTree

READ, WRITE, CREATE, EXCLUSIVE = 0x01, 0x02, 0x08, 0x20  # flags of OPEN
# Attributes of what is made, whatever the server's umask: nobody but its owner may write it,
# everybody may read it, the web server among them.
NEW_FILE, NEW_FOLDER = struct.pack(">II", 0x4, 0o644), struct.pack(">II", 0x4, 0o755)
# Bytes that a folder's names and their records take here: some two million of them. A server
# that lists without end must not fill the memory.
LARGEST_LISTING = 512 << 20
RECORD = 200  # bytes of each, beside its name
NEARLY_FULL = 1 << 20  # bytes; OpenSSH says only "Failure" for a full disk, so space is asked for


class SftpTree(RemoteTree):
    """A folder on an SFTP server.

    ``can_copy`` where it announces ``copy-data`` (OpenSSH 9.0 and later), ``can_sync`` where it
    announces ``fsync@openssh.com``. A ``compressed`` one is for requests alone: data does not
    shrink.
    """

    local_path = None

    def __init__(self, target: Target, *, compressed: bool = False) -> None:
        self.name = target.url
        self.root = target.path
        self._target = target
        self._compressed = compressed
        self._beside: SftpTree | None = None  # the connection that an assembly goes over
        self._sent_beside = 0
        self._folders: set[str] = set()  # those that were seen to be folders
        self._session = SftpSession(target.url, connect(target, compressed=compressed))
        self.can_copy = "copy-data" in self._session.extensions
        self.can_sync = "fsync@openssh.com" in self._session.extensions
        try:
            begun = time.monotonic()
            self.root = self._real_path()
            self.round_trip = time.monotonic() - begun
            self._check_root()
            self._session.packet = self._packet_size()
        except BaseException:
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether the connection is open, as far as it is known here."""
        return self._session.is_alive

    @property
    def sent(self) -> int:
        """Bytes of SFTP packets sent so far."""
        return self._session.sent + self._sent_beside

    def _list(self, folder: str) -> dict[str, RemoteStat]:
        handle = self._ask(Packet.OPENDIR, self._full(folder), folder, Packet.HANDLE).string()
        found: dict[str, RemoteStat] = {}
        size = 0
        while True:
            try:
                reply = self._session.request(Packet.READDIR, string(handle)).expect(Packet.NAME)
            except StatusError as error:
                self._session.request(Packet.CLOSE, string(handle))
                if error.code != Status.EOF:
                    raise self._refusal(folder, error) from error
                return found
            for name, there in packets.names(reply):
                size += RECORD + len(name)
                self._check_listed(folder, name, size)
                if name not in (b".", b".."):
                    found[name.decode("utf-8", "surrogateescape")] = there

    def _check_listed(self, folder: str, name: bytes, size: int) -> None:
        if name and b"/" not in name and b"\0" not in name and size <= LARGEST_LISTING:
            return
        raise StorageRefusedError(
            f"{self.name}/{folder}",
            "the server lists what cannot be in a folder, or more names than fit, or without end",
            found=ascii(name[:80]),
            remedy="Use a folder of the mirror's own; or another server: this one means harm",
        )

    def _stat(self, path: str) -> RemoteStat | None:
        with self._errors(path, Status.NO_SUCH_FILE):
            reply = self._session.request(Packet.LSTAT, self._full(path))
            return packets.attributes(reply.expect(Packet.ATTRS))
        return None

    def _open(self, path: str, *, writing: bool, create: bool) -> SftpFile:
        flags = READ | (WRITE if writing else 0) | (CREATE | EXCLUSIVE if create else 0)
        body = self._full(path) + struct.pack(">I", flags) + NEW_FILE
        handle = self._ask(Packet.OPEN, body, path, Packet.HANDLE).string()
        file = SftpFile(self._session, handle, partial(self._errors, path))
        if writing:
            file.set_mode(NEW_FILE)
        return file

    def _rename(self, path: str, new: str) -> None:
        if "posix-rename@openssh.com" in self._session.extensions:
            body = string("posix-rename@openssh.com") + self._full(path) + self._full(new)
            self._ask(Packet.EXTENDED, body, new)
        elif self._stat(new) is None:
            self._rename_exclusive(path, new)
        else:
            raise StorageRefusedError(
                f"{self.name}/{new}",
                "cannot be replaced in one step: the server lacks posix-rename@openssh.com",
                remedy="Use an OpenSSH server",
            )

    def _rename_exclusive(self, path: str, new: str) -> None:
        # The draft's own RENAME (section 6.5) fails where the new name is taken.
        self._ask(Packet.RENAME, self._full(path) + self._full(new), new)

    def _remove(self, path: str) -> None:
        with self._errors(path, Status.NO_SUCH_FILE):
            self._session.request(Packet.REMOVE, self._full(path)).expect(Packet.STATUS)

    def _make_folder(self, path: str) -> None:
        body = self._full(path) + NEW_FOLDER
        self._ask(Packet.MKDIR, body, path)
        may_be_refused(self._session.request(Packet.SETSTAT, body))

    def _remove_folder(self, path: str) -> None:
        self._folders.discard(path)
        try:
            self._session.request(Packet.RMDIR, self._full(path)).expect(Packet.STATUS)
        except StatusError as error:
            # The protocol knows no status for a folder that is not empty: it is looked for.
            if error.code != Status.NO_SUCH_FILE and not self.list(path):
                raise self._refusal(path, error) from error

    def free_space(self) -> int | None:
        """Return the bytes that may still be written, or None where the server does not say."""
        with self._errors(""):
            return self._ask_free_space()

    def assemble(
        self, path: str, pieces: Iterable[Piece], acknowledge: Acknowledge = no_callback
    ) -> None:
        """Assemble over a compressed connection beside this one: the requests are much alike."""
        if self._compressed or not self.can_copy:
            super().assemble(path, pieces, acknowledge)
            return
        self._beside = beside = SftpTree(self._target, compressed=True)
        try:
            if not self.is_alive:  # closed meanwhile
                raise ConnectionLostError(self.name, "the connection was closed")
            beside.assemble(path, pieces, acknowledge)
        finally:
            beside.close()
            self._sent_beside += beside.sent

    def another(self) -> SftpTree:
        """Return a new connection to the same tree."""
        return SftpTree(self._target)

    def close(self) -> None:
        """Close the connection; pending work is lost."""
        # First this one: an assembly that begins just now looks whether it still is alive.
        self._session.close()
        if self._beside is not None:
            self._beside.close()

    def _full(self, path: str) -> bytes:
        return string(f"{self.root.rstrip('/')}/{path}" if path else self.root)

    def _real_path(self) -> str:
        reply = self._ask(Packet.REALPATH, string(self.root), "", Packet.NAME)
        reply.u32()
        root = reply.string().decode("utf-8", "surrogateescape")
        if not root.startswith("/") or "\0" in root:
            raise StorageRefusedError(self.name, "the server names no folder", found=ascii(root))
        return root

    def _check_root(self) -> None:
        found = self._stat("")
        if found is None or found.kind is not Kind.FOLDER:
            raise StorageRefusedError(
                self.name,
                "there is no such folder on the server",
                remedy="Create it, owned by the user that publishes, or correct the path",
            )

    def _packet_size(self) -> int:
        if "limits@openssh.com" not in self._session.extensions:
            return SAFE_PACKET
        reply = self._ask(Packet.EXTENDED, string("limits@openssh.com"), "", Packet.EXTENDED_REPLY)
        _packet, reading, writing = (reply.u64() for _ in range(3))
        return max(SAFE_PACKET, min(LARGEST_PACKET, reading, writing))

    def _has_folder(self, folder: str) -> bool:
        """Ask for each folder once, to save a round trip a file."""
        if folder not in self._folders and super()._has_folder(folder):
            self._folders.add(folder)
        return folder in self._folders

    def _ask(self, kind: Packet, body: bytes, path: str, answer: Packet = Packet.STATUS) -> Reply:
        with self._errors(path):
            return self._session.request(kind, body).expect(answer)

    @contextlib.contextmanager
    def _errors(self, path: str, harmless: Status | None = None) -> Iterator[None]:
        """Make errors of ours from the server's; of a harmless one the block just ends."""
        try:
            yield
        except StatusError as error:
            if error.code != harmless:
                raise self._refusal(path, error) from error

    def _refusal(self, path: str, error: StatusError) -> RepositoryError:
        """Put a server's refusal on its branch of the error tree, with the way out."""
        subject = f"{self.name}/{path}" if path else self.name
        if error.code == Status.PERMISSION_DENIED:
            remedy = "Let the user that publishes write there"
            return StorageRefusedError(subject, "the server denies permission", remedy=remedy)
        if error.code == Status.NO_SUCH_FILE:
            return StorageRefusedError(subject, "there is no such file on the server")
        if error.code == Status.FAILURE and self._is_full():
            remedy = "Free some space there and run again; what arrived is kept"
            return StorageRefusedError(subject, "the server's disk is full", remedy=remedy)
        return StorageError(subject, f"the server says: {error.text or error.code}")

    def _is_full(self) -> bool:
        with contextlib.suppress(StatusError, RepositoryError):
            self._session.forget()
            free = self._ask_free_space()
            return free is not None and free < NEARLY_FULL
        return False

    def _ask_free_space(self) -> int | None:
        if "statvfs@openssh.com" not in self._session.extensions:
            return None
        body = string("statvfs@openssh.com") + string(self.root)
        reply = self._session.request(Packet.EXTENDED, body).expect(Packet.EXTENDED_REPLY)
        _block, fragment, _blocks, _free, available = (reply.u64() for _ in range(5))
        return fragment * available
