"""The packets of the SFTP protocol, version 3: their types, and how they are read and written.

Format: draft-ietf-secsh-filexfer-02, sections 3 to 7.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

from puavo_repository.errors import ConnectionLostError
from puavo_repository.remote.tree import Kind, RemoteStat


class Packet(enum.IntEnum):
    """Types of SFTP packets."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    RENAME = 18
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Status(enum.IntEnum):
    """What a STATUS packet says."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4


class StatusError(Exception):
    """The server said no to a request."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class Reply:
    """One packet from the server, read from front to back."""

    def __init__(self, kind: int, body: bytes) -> None:
        self.kind = kind
        self._body = body
        self._at = 0

    def u32(self) -> int:
        """Take a 32-bit number."""
        return int.from_bytes(self._take(4), "big")

    def u64(self) -> int:
        """Take a 64-bit number."""
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        """Take a string: its length, then its bytes."""
        return self._take(self.u32())

    def more(self) -> bool:
        """Say whether anything is left."""
        return self._at < len(self._body)

    def _take(self, count: int) -> bytes:
        piece = self._body[self._at : self._at + count]
        if len(piece) < count:
            raise ConnectionLostError("SFTP server", "sent a packet that is cut short")
        self._at += count
        return piece

    def expect(self, kind: Packet) -> Reply:
        """Return this packet if it is of that kind.

        Raises:
            StatusError: It is a status instead, and not a good one.
        """
        if self.kind == kind and kind is not Packet.STATUS:
            return self
        if self.kind != Packet.STATUS:
            raise ConnectionLostError("SFTP server", f"answered with a packet of type {self.kind}")
        code = self.u32()
        if code == Status.OK and kind is Packet.STATUS:
            return self
        raise StatusError(code, self.string().decode("utf-8", "replace") if self.more() else "")


def string(text: bytes | str) -> bytes:
    """Encode a string for a request."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return struct.pack(">I", len(raw)) + raw


def names(reply: Reply) -> Iterator[tuple[bytes, RemoteStat]]:
    """Yield what a NAME packet lists."""
    for _ in range(reply.u32()):
        name = reply.string()
        reply.string()  # the same as a line for people
        yield name, attributes(reply)


def attributes(reply: Reply) -> RemoteStat:
    """Read the ATTRS structure (section 5 of the draft)."""
    flags = reply.u32()
    size = reply.u64() if flags & 0x1 else 0
    if flags & 0x2:
        reply.u64()  # user and group
    mode = reply.u32() if flags & 0x4 else 0
    mtime = 0
    if flags & 0x8:
        reply.u32()
        mtime = reply.u32()
    if flags & 0x80000000:
        for _ in range(reply.u32()):
            reply.string()
            reply.string()
    return RemoteStat(Kind.of_mode(mode), size, mtime)
