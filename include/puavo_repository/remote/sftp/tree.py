"""A remote tree over SFTP."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterable, Iterator
from functools import partial

from puavo_repository.errors import RepositoryError, StorageError, StorageRefusedError
from puavo_repository.remote.sftp.file import SftpFile, take_or_leave
from puavo_repository.remote.sftp.packets import (
    Packet,
    Reply,
    Status,
    StatusError,
    attributes,
    names,
    string,
)
from puavo_repository.remote.sftp.session import LARGEST_PACKET, SAFE_PACKET, SftpSession
from puavo_repository.remote.sftp.ssh import connect
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Access, Kind, Range, RemoteStat

READ, WRITE, CREATE, EXCLUSIVE = 0x01, 0x02, 0x08, 0x20  # flags of OPEN
# Attributes of what is made, whatever the server's umask: nobody but its owner may write it,
# everybody may read it, the web server among them.
NEW_FILE, NEW_FOLDER = struct.pack(">II", 0x4, 0o644), struct.pack(">II", 0x4, 0o755)
# Bytes that a folder's names and their records take here: some two million of them. A server
# that lists without end must not fill the memory.
LARGEST_LISTING = 512 << 20
RECORD = 200  # bytes of each, beside its name
NEARLY_FULL = 1 << 20  # bytes; OpenSSH says only "Failure" for a full disk, so space is asked for


class SftpTree:
    """A folder on an SFTP server.

    Attributes:
        name: The URL, without secrets.
        root: The folder as the server resolves it; what a link leads to, not the link.
        local_path: None: it cannot be known whether the server is this machine.
        can_copy: Whether the server announces ``copy-data`` (OpenSSH 9.0 and later).
        can_sync: Whether it announces ``fsync@openssh.com``.
        round_trip: Seconds one request took when the connection was made.
    """

    local_path = None

    def __init__(
        self, target: Target, *, silence: float | None = None, compressed: bool = False
    ) -> None:
        self.name = target.url
        self._target = target
        self.root = target.path
        self._silence = silence
        self._session = SftpSession(target.url, connect(target, compressed=compressed), silence)
        self._folders: set[str] = set()
        extensions = self._session.extensions
        self.can_copy = "copy-data" in extensions
        self.can_sync = "fsync@openssh.com" in extensions
        try:
            begun = time.monotonic()
            self.root = self._real_path(target.path)
            self.round_trip = time.monotonic() - begun
            self.packet = self._packet_size() if "limits@openssh.com" in extensions else SAFE_PACKET
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
        return self._session.sent

    def list(self, folder: str) -> dict[str, RemoteStat]:
        """Return what is in a folder by name; nothing if the folder is missing."""
        if folder and not self._check_folder(folder):
            return {}
        handle = self._ask(Packet.OPENDIR, string(self._full(folder)), folder, Packet.HANDLE)
        owned = handle.string()
        found: dict[str, RemoteStat] = {}
        size = 0
        while True:
            try:
                reply = self._session.request(Packet.READDIR, string(owned)).expect(Packet.NAME)
            except StatusError as error:
                self._session.request(Packet.CLOSE, string(owned))
                if error.code != Status.EOF:
                    raise self._refusal(folder, error) from error
                return found
            for raw, there in names(reply):
                size += RECORD + len(raw)
                self._check_listed(folder, raw, size)
                if raw not in (b".", b".."):
                    found[raw.decode("utf-8", "surrogateescape")] = there

    def _check_listed(self, folder: str, name: bytes, size: int) -> None:
        if name and b"/" not in name and b"\0" not in name and size <= LARGEST_LISTING:
            return
        raise StorageRefusedError(
            f"{self.name}/{folder}",
            "the server lists what cannot be in a folder, or more names than fit, or without end",
            found=ascii(name[:80]),
            remedy="Use a folder of the mirror's own; or another server: this one means harm",
        )

    def stat(self, path: str) -> RemoteStat | None:
        """Return what is at ``path``, links not followed, or None."""
        if (folder := path.rpartition("/")[0]) and not self._check_folder(folder):
            return None
        try:
            reply = self._session.request(Packet.LSTAT, string(self._full(path)))
            return attributes(reply.expect(Packet.ATTRS))
        except StatusError as error:
            if error.code == Status.NO_SUCH_FILE:
                return None
            raise self._refusal(path, error) from error

    def read(self, path: str, ranges: Iterable[Range]) -> Iterator[bytes]:
        """Read ranges of a file, in order; a range beyond its end comes back short."""
        with self.open(path, Access.READ) as file:
            yield from file.read(ranges)

    def open(self, path: str, access: Access) -> SftpFile:
        """Open a file; one for writing is made where it is missing, and never a link."""
        self._guard(path)
        flags = READ
        found = self.stat(path) if access is not Access.CREATE else None
        if found is not None and found.kind is not Kind.FILE:
            raise StorageRefusedError(
                f"{self.name}/{path}", f"is a {found.kind.value}; it is not opened"
            )
        if access is not Access.READ:
            flags |= WRITE | (0 if found else CREATE | EXCLUSIVE)
        body = string(self._full(path)) + struct.pack(">I", flags) + NEW_FILE
        handle = self._ask(Packet.OPEN, body, path, Packet.HANDLE).string()
        file = SftpFile(
            self._session,
            f"{self.name}/{path}",
            handle,
            packet=self.packet,
            syncs=self.can_sync,
            refusal=partial(self._refusal, path),
        )
        if access is not Access.READ:
            file.set_mode(NEW_FILE)
        return file

    def rename(self, path: str, new: str) -> None:
        """Give a file another name in one step, in the place of what had that name."""
        self._guard(path)
        self._guard(new)
        both = string(self._full(path)) + string(self._full(new))
        if "posix-rename@openssh.com" in self._session.extensions:
            self._ask(Packet.EXTENDED, string("posix-rename@openssh.com") + both, new)
        elif self.stat(new) is None:
            self.claim(path, new)
        else:
            raise StorageRefusedError(
                f"{self.name}/{new}",
                "cannot be replaced in one step: the server lacks posix-rename@openssh.com",
                remedy="Use an OpenSSH server",
            )

    def claim(self, path: str, name: str) -> None:
        """Give a file a name that must be free: the draft's own RENAME (section 6.5)."""
        self._guard(name)
        self._ask(Packet.RENAME, string(self._full(path)) + string(self._full(name)), name)

    def remove(self, path: str) -> None:
        """Remove a file or a link, if it is there."""
        self._guard(path)
        try:
            self._session.request(Packet.REMOVE, string(self._full(path))).expect(Packet.STATUS)
        except StatusError as error:
            if error.code != Status.NO_SUCH_FILE:
                raise self._refusal(path, error) from error

    def make_folder(self, path: str) -> None:
        """Make a folder, if it is missing."""
        self._folders.discard(path)  # another connection may have removed it
        if not self._check_folder(path):
            body = string(self._full(path)) + NEW_FOLDER
            self._ask(Packet.MKDIR, body, path)
            take_or_leave(self._session.request(Packet.SETSTAT, body))

    def remove_folder(self, path: str) -> None:
        """Remove a folder, if it is there and nothing is in it."""
        self._folders.discard(path)
        if not self._check_folder(path):
            return
        self._folders.discard(path)
        try:
            self._session.request(Packet.RMDIR, string(self._full(path))).expect(Packet.STATUS)
        except StatusError as error:
            # The protocol knows no status for a folder that is not empty: it is looked for.
            if error.code != Status.NO_SUCH_FILE and not self.list(path):
                raise self._refusal(path, error) from error

    def free_space(self) -> int | None:
        """Return the bytes that may still be written, or None where the server does not say."""
        try:
            return self._ask_free_space()
        except StatusError as error:
            raise self._refusal("", error) from error

    def another(self, *, compressed: bool = False) -> SftpTree:
        """Return a new connection to the same tree."""
        return SftpTree(self._target, silence=self._silence, compressed=compressed)

    def close(self) -> None:
        """Close the connection; pending work is lost."""
        self._session.close()

    def _full(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def _real_path(self, path: str) -> str:
        reply = self._ask(Packet.REALPATH, string(path), "", Packet.NAME)
        reply.u32()
        self.root = root = reply.string().decode("utf-8", "surrogateescape")
        if not root.startswith("/") or "\0" in root:
            raise StorageRefusedError(self.name, "the server names no folder", found=ascii(root))
        found = self.stat("")
        if found is None or found.kind is not Kind.FOLDER:
            raise StorageRefusedError(
                self.name,
                "there is no such folder on the server",
                remedy="Create it, owned by the user that publishes, or correct the path",
            )
        return root

    def _packet_size(self) -> int:
        reply = self._ask(Packet.EXTENDED, string("limits@openssh.com"), "", Packet.EXTENDED_REPLY)
        _packet, reading, writing = (reply.u64() for _ in range(3))
        return max(SAFE_PACKET, min(LARGEST_PACKET, reading, writing))

    def _guard(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        if folder and not self._check_folder(folder):
            raise StorageRefusedError(f"{self.name}/{folder}", "there is no such folder")

    def _check_folder(self, folder: str) -> bool:
        """Say whether a folder below the root is there.

        Raises:
            StorageRefusedError: It is a link, and may lead out of the tree, or no folder.
        """
        if folder not in self._folders:
            found = self.stat(folder)
            if found is None:
                return False
            if found.kind is not Kind.FOLDER:
                raise StorageRefusedError(
                    f"{self.name}/{folder}",
                    f"is a {found.kind.value} where a folder should be; it is not entered",
                    remedy="Make it a folder (a bind mount does what a link was meant for)",
                )
            self._folders.add(folder)
        return True

    def _ask(self, kind: Packet, body: bytes, path: str, answer: Packet = Packet.STATUS) -> Reply:
        try:
            return self._session.request(kind, body).expect(answer)
        except StatusError as error:
            raise self._refusal(path, error) from error

    def _refusal(self, path: str, error: StatusError) -> RepositoryError:
        """Put a server's refusal on its branch of the error tree, with the way out."""
        subject = f"{self.name}/{path}" if path else self.name
        if error.code == Status.PERMISSION_DENIED:
            return StorageRefusedError(
                subject,
                "the server denies permission",
                remedy="Let the user that publishes write there",
            )
        if error.code == Status.NO_SUCH_FILE:
            return StorageRefusedError(subject, "there is no such file on the server")
        if error.code == Status.FAILURE and self._is_full():
            return StorageRefusedError(
                subject,
                "the server's disk is full",
                remedy="Free some space there and run again; what arrived is kept",
            )
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
