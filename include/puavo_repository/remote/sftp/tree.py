"""A remote tree over SFTP."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterable, Iterator
from functools import partial

from paramiko import sftp

from puavo_repository.errors import (
    ConnectionLostError,
    RepositoryError,
    StorageError,
    StorageRefusedError,
)
from puavo_repository.remote.sftp import session
from puavo_repository.remote.sftp.file import SftpFile, may_be_refused
from puavo_repository.remote.sftp.session import Reply, SftpSession, StatusError, string
from puavo_repository.remote.sftp.ssh import connect
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import (
    Acknowledge,
    Kind,
    Piece,
    RemoteStat,
    RemoteTree,
    no_callback,
)

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
        reply = self._ask(sftp.CMD_OPENDIR, self._full(folder), folder, sftp.CMD_HANDLE)
        handle = string(reply.get_binary())
        found: dict[str, RemoteStat] = {}
        size = 0
        while True:
            try:
                reply = self._session.request(sftp.CMD_READDIR, handle).expect(sftp.CMD_NAME)
            except StatusError as error:
                self._session.request(sftp.CMD_CLOSE, handle)
                if error.code != sftp.SFTP_EOF:
                    raise self._refusal(folder, error) from error
                return found
            for name, there in session.names(reply):
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
        with self._errors(path, sftp.SFTP_NO_SUCH_FILE):
            reply = self._session.request(sftp.CMD_LSTAT, self._full(path))
            return session.attributes(reply.expect(sftp.CMD_ATTRS))
        return None

    def _open(self, path: str, *, writing: bool, create: bool) -> SftpFile:
        flags = sftp.SFTP_FLAG_READ | (sftp.SFTP_FLAG_WRITE if writing else 0)
        flags |= sftp.SFTP_FLAG_CREATE | sftp.SFTP_FLAG_EXCL if create else 0
        body = self._full(path) + struct.pack(">I", flags) + NEW_FILE
        handle = self._ask(sftp.CMD_OPEN, body, path, sftp.CMD_HANDLE).get_binary()
        file = SftpFile(self._session, handle, partial(self._refusal, path))
        if writing:
            file.set_mode(NEW_FILE)
        return file

    def _rename(self, path: str, new: str, *, exclusive: bool) -> None:
        if exclusive:
            # The draft's own RENAME (section 6.5) fails where the new name is taken.
            self._ask(sftp.CMD_RENAME, self._full(path) + self._full(new), new)
        elif "posix-rename@openssh.com" in self._session.extensions:
            body = string("posix-rename@openssh.com") + self._full(path) + self._full(new)
            self._ask(sftp.CMD_EXTENDED, body, new)
        elif self._stat(new) is None:
            self._rename(path, new, exclusive=True)
        else:
            raise StorageRefusedError(
                f"{self.name}/{new}",
                "cannot be replaced in one step: the server lacks posix-rename@openssh.com",
                remedy="Use an OpenSSH server",
            )

    def _remove(self, path: str) -> None:
        with self._errors(path, sftp.SFTP_NO_SUCH_FILE):
            self._session.request(sftp.CMD_REMOVE, self._full(path)).expect(sftp.CMD_STATUS)

    def _make_folder(self, path: str) -> None:
        body = self._full(path) + NEW_FOLDER
        self._ask(sftp.CMD_MKDIR, body, path)
        may_be_refused(self._session.request(sftp.CMD_SETSTAT, body))

    def _remove_folder(self, path: str) -> None:
        self._folders.discard(path)
        try:
            self._session.request(sftp.CMD_RMDIR, self._full(path)).expect(sftp.CMD_STATUS)
        except StatusError as error:
            # The protocol knows no status for a folder that is not empty: it is looked for.
            if error.code != sftp.SFTP_NO_SUCH_FILE and not self.list(path):
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
        reply = self._ask(sftp.CMD_REALPATH, string(self.root), "", sftp.CMD_NAME)
        reply.get_int()
        root = reply.get_binary().decode("utf-8", "surrogateescape")
        if not root.startswith("/") or "\0" in root:
            raise StorageRefusedError(self.name, "the server names no folder", found=ascii(root))
        return root

    def _check_root(self) -> None:
        found = self._stat("")
        if found is None or found.kind is not Kind.FOLDER:
            remedy = "Create it, owned by the user that publishes, or correct the path"
            problem = "there is no such folder on the server"
            raise StorageRefusedError(self.name, problem, remedy=remedy)

    def _packet_size(self) -> int:
        if "limits@openssh.com" not in self._session.extensions:
            return session.SAFE_PACKET
        body = string("limits@openssh.com")
        reply = self._ask(sftp.CMD_EXTENDED, body, "", sftp.CMD_EXTENDED_REPLY)
        _packet, reading, writing = (reply.get_int64() for _ in range(3))
        return max(session.SAFE_PACKET, min(session.LARGEST_PACKET, reading, writing))

    def _has_folder(self, folder: str) -> bool:
        """Ask for each folder once, to save a round trip a file."""
        if folder not in self._folders and super()._has_folder(folder):
            self._folders.add(folder)
        return folder in self._folders

    def _ask(self, kind: int, body: bytes, path: str, answer: int = sftp.CMD_STATUS) -> Reply:
        with self._errors(path):
            return self._session.request(kind, body).expect(answer)

    @contextlib.contextmanager
    def _errors(self, path: str, harmless: int | None = None) -> Iterator[None]:
        """Make errors of ours from the server's; of a harmless one the block just ends."""
        try:
            yield
        except StatusError as error:
            if error.code != harmless:
                raise self._refusal(path, error) from error

    def _refusal(self, path: str, error: StatusError) -> RepositoryError:
        """Put a server's refusal on its branch of the error tree, with the way out."""
        subject = f"{self.name}/{path}" if path else self.name
        if error.code == sftp.SFTP_PERMISSION_DENIED:
            remedy = "Let the user that publishes write there"
            return StorageRefusedError(subject, "the server denies permission", remedy=remedy)
        if error.code == sftp.SFTP_NO_SUCH_FILE:
            return StorageRefusedError(subject, "there is no such file on the server")
        if error.code == sftp.SFTP_FAILURE and self._is_full():
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
        reply = self._session.request(sftp.CMD_EXTENDED, body).expect(sftp.CMD_EXTENDED_REPLY)
        _block, fragment, _blocks, _free, available = (reply.get_int64() for _ in range(5))
        return fragment * available
