"""An open file over SFTP: what it is asked for, with many requests under way."""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from puavo_repository.errors import RepositoryError, StorageError
from puavo_repository.remote.sftp.packets import Packet, Reply, Status, StatusError, string
from puavo_repository.remote.sftp.session import SftpSession
from puavo_repository.remote.tree import Done, Range, ignore

COPY_PIECE = 64 << 20  # bytes of one copy-data request: an answer must come before the time-out
READS_UNDER_WAY = 32
SYNC_PATIENCE = 600.0  # seconds a server may take to put a large file on a slow disk


class SftpFile:
    """An open file on an SFTP server.

    Args:
        session: Where its requests go.
        name: Its URL.
        handle: What the server calls it.
        packet: Bytes of data that the server takes or gives in one request.
        syncs: Whether the server knows how to put it on its disk.
        refusal: Makes an error of ours from the server's.
    """

    def __init__(
        self,
        session: SftpSession,
        name: str,
        handle: bytes,
        *,
        packet: int,
        syncs: bool,
        refusal: Callable[[StatusError], RepositoryError],
    ) -> None:
        self._session = session
        self._name = name
        self._handle = handle
        self._packet = packet
        self._syncs = syncs
        self._refusal = refusal

    def read(self, ranges: Iterable[Range]) -> Iterator[bytes]:
        """Read ranges, several requests under way; yields one ``bytes`` a range."""
        waiting: deque[bytearray] = deque()
        todo = iter(ranges)
        for wanted in todo:
            waiting.append(self._ask_for(wanted))
            if len(waiting) >= READS_UNDER_WAY:
                self._session.drain()
                yield from (bytes(piece) for piece in waiting)
                waiting.clear()
        self._session.drain()
        yield from (bytes(piece) for piece in waiting)

    def _ask_for(self, wanted: Range) -> bytearray:
        """Request one range; the buffer is filled once the session is drained."""
        piece = bytearray(wanted.length)
        for at in range(0, wanted.length, self._packet):
            length = min(self._packet, wanted.length - at)
            body = string(self._handle) + struct.pack(">QI", wanted.offset + at, length)

            def put(reply: Reply, at: int = at, length: int = length) -> None:
                try:
                    data = reply.expect(Packet.DATA).string()
                except StatusError as error:
                    if error.code != Status.EOF:
                        raise self._refusal(error) from error
                    data = b""
                if len(data) > length:
                    raise StorageError(self._name, "the server sent more than it was asked for")
                piece[at : at + len(data)] = data
                if len(data) < length:
                    del piece[at + len(data) :]

            self._session.submit(Packet.READ, body, put)
        return piece

    def write(self, offset: int, data: bytes | memoryview, done: Done = ignore) -> None:
        """Write ``data`` at ``offset``; ``done`` is called when the server has it."""
        view = memoryview(data)
        for at in range(0, len(view), self._packet):
            block = view[at : at + self._packet]
            body = string(self._handle) + struct.pack(">QI", offset + at, len(block))
            self._submit(Packet.WRITE, body, len(block), done, block)

    def copy(
        self, source: SftpFile, start: int, length: int, offset: int, done: Done = ignore
    ) -> None:
        """Have the server copy ``length`` bytes at ``start`` of ``source`` to ``offset`` here.

        OpenSSH's ``PROTOCOL``, 4.10: a length of 0 means "to the end", so it is never sent.
        """
        for at in range(0, length, COPY_PIECE):
            count = min(COPY_PIECE, length - at)
            body = b"".join(
                (
                    string("copy-data"),
                    string(source._handle),
                    struct.pack(">QQ", start + at, count),
                    string(self._handle),
                    struct.pack(">Q", offset + at),
                )
            )
            self._submit(Packet.EXTENDED, body, count, done)

    def _submit(
        self,
        kind: Packet,
        body: bytes,
        count: int,
        done: Done = ignore,
        data: memoryview | None = None,
    ) -> None:
        def check(reply: Reply) -> None:
            try:
                reply.expect(Packet.STATUS)
            except StatusError as error:
                raise self._refusal(error) from error
            done(count)

        self._session.submit(kind, body, check, data if data is not None else b"")

    def set_mode(self, attributes: bytes) -> None:
        """Have the server set the file's mode, whatever its umask made of it.

        It may refuse: the file may be another user's, and right as it is.
        """
        self._session.submit(Packet.FSETSTAT, string(self._handle) + attributes, take_or_leave)

    def flush(self) -> None:
        """Wait until everything written and copied is acknowledged."""
        self._session.drain()

    def sync(self) -> None:
        """Flush, and have the server put the file on its disk where it knows how."""
        self.flush()
        if self._syncs:
            body = string("fsync@openssh.com") + string(self._handle)
            self._finish(Packet.EXTENDED, body)

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        self.flush()
        self._finish(Packet.FSETSTAT, string(self._handle) + struct.pack(">IQ", 1, size))

    def _finish(self, kind: Packet, body: bytes) -> None:
        try:
            self._session.request(kind, body, patience=SYNC_PATIENCE).expect(Packet.STATUS)
        except StatusError as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        """Give the file back to the server."""
        self._session.forget()
        self._session.request(Packet.CLOSE, string(self._handle))

    def __enter__(self) -> SftpFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.flush()
            self.close()
            return
        with contextlib.suppress(RepositoryError):  # the first error is the one that counts
            self.close()


def take_or_leave(reply: Reply) -> None:
    """Take an answer to what the server may refuse."""
    with contextlib.suppress(StatusError):
        reply.expect(Packet.STATUS)
