"""An open file over SFTP, with many requests under way."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Self

from paramiko import sftp

from puavo_repository.errors import StorageError
from puavo_repository.remote.sftp.session import Reply, SftpSession, StatusError, string
from puavo_repository.remote.tree import Acknowledge, Data, Range, RemoteFile, no_callback

COPY_PIECE = 64 << 20  # bytes of one copy-data request: an answer must come before the time-out
READS_UNDER_WAY = 32
# Seconds a server may take to put a large file on a slow disk, as long as its SSH answers.
SYNC_PATIENCE = 600.0


class SftpFile(RemoteFile):
    """An open file on an SFTP server, with many requests under way.

    ``handle`` is what the server calls it; ``refusal`` makes an error of ours from the server's.
    """

    def __init__(
        self, session: SftpSession, handle: bytes, refusal: Callable[[StatusError], Exception]
    ) -> None:
        self._session = session
        self._handle = string(handle)
        self._refusal = refusal

    def read(self, ranges: Iterable[Range]) -> Iterator[bytes]:
        """Read ranges, several requests under way; yields one ``bytes`` a range."""
        waiting: list[bytearray] = []
        for wanted in ranges:
            waiting.append(self._ask_for(wanted))
            if len(waiting) >= READS_UNDER_WAY:
                self._session.drain()
                yield from map(bytes, waiting)
                waiting.clear()
        self._session.drain()
        yield from map(bytes, waiting)

    def _ask_for(self, wanted: Range) -> bytearray:
        """Request one range; the buffer is filled once the session is drained."""
        piece = bytearray(wanted.length)
        size = self._session.packet
        for at in range(0, wanted.length, size):
            length = min(size, wanted.length - at)

            def put(reply: Reply, at: int = at, length: int = length) -> None:
                data = self._data(reply, length)
                piece[at : at + len(data)] = data
                if len(data) < length:
                    del piece[at + len(data) :]

            body = self._handle + struct.pack(">QI", wanted.offset + at, length)
            self._session.submit(sftp.CMD_READ, body, put)
        return piece

    def _data(self, reply: Reply, most: int) -> bytes:
        try:
            data = reply.expect(sftp.CMD_DATA).get_binary()
        except StatusError as error:
            if error.code != sftp.SFTP_EOF:
                raise self._refusal(error) from error
            data = b""
        if len(data) > most:
            raise StorageError("SFTP server", "sent more than it was asked for")
        return data

    def write(self, offset: int, data: Data, acknowledge: Acknowledge = no_callback) -> None:
        """Write ``data`` at ``offset``."""
        view, size = memoryview(data), self._session.packet
        for at in range(0, len(view), size):
            block = view[at : at + size]
            body = self._handle + struct.pack(">QI", offset + at, len(block))
            self._submit(sftp.CMD_WRITE, body, len(block), acknowledge, block)

    def copy(self, source: Self, taken: Range, offset: int, acknowledge: Acknowledge) -> None:
        """Have the server copy a range of ``source`` to ``offset`` here.

        OpenSSH's ``PROTOCOL``, 4.10: a length of 0 means "to the end", so it is never sent.
        """
        for at in range(0, taken.length, COPY_PIECE):
            count = min(COPY_PIECE, taken.length - at)
            wanted = source._handle + struct.pack(">QQ", taken.offset + at, count)
            body = string("copy-data") + wanted + self._handle + struct.pack(">Q", offset + at)
            self._submit(sftp.CMD_EXTENDED, body, count, acknowledge)

    def _submit(
        self, kind: int, body: bytes, count: int, acknowledge: Acknowledge, data: Data = b""
    ) -> None:
        def check(reply: Reply) -> None:
            self._check(reply)
            acknowledge(count)

        self._session.submit(kind, body, check, data)

    def set_mode(self, attributes: bytes) -> None:
        """Have the server set the file's mode, whatever its umask made of it.

        It may refuse: the file may be another user's, and right as it is.
        """
        self._session.submit(sftp.CMD_FSETSTAT, self._handle + attributes, may_be_refused)

    def flush(self) -> None:
        """Wait until everything written and copied is acknowledged."""
        self._session.drain()

    def sync(self) -> None:
        """Flush, and have the server put the file on its disk where it can."""
        self.flush()
        if "fsync@openssh.com" in self._session.extensions:
            body = string("fsync@openssh.com") + self._handle
            self._check(self._session.request(sftp.CMD_EXTENDED, body, patience=SYNC_PATIENCE))

    def _check(self, reply: Reply) -> None:
        try:
            reply.expect(sftp.CMD_STATUS)
        except StatusError as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        """Give the file back to the server."""
        self._session.forget()
        self._session.request(sftp.CMD_CLOSE, self._handle)


def may_be_refused(reply: Reply) -> None:
    """Take an answer to what the server may refuse."""
    with contextlib.suppress(StatusError):
        reply.expect(sftp.CMD_STATUS)
