"""The SFTP protocol, version 3, with many requests under way at once.

Formats: draft-ietf-secsh-filexfer-02, and OpenSSH's ``PROTOCOL`` for the extensions
(``posix-rename``, ``statvfs``, ``fsync``, ``limits`` at openssh.com, and ``copy-data``).

Written by hand because paramiko's own client knows no ``copy-data`` and waits for, or forgets, the
answers to its pipelined writes. Here each request has a handler, answers are taken as they come,
and what is under way is bounded, whatever the file's size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import paramiko
from paramiko import sftp

from puavo_repository.errors import ConnectionLostError, StorageRefusedError
from puavo_repository.remote.sftp.ssh import SILENCE_TIMEOUT, Watchdog
from puavo_repository.remote.tree import Kind, RemoteStat

SAFE_PACKET = 32 << 10  # bytes of data that every server takes in one request
LARGEST_PACKET = 255 << 10  # OpenSSH's; a server announces it in its limits
UNDER_WAY = 3 << 20  # bytes of data not yet acknowledged: more than OpenSSH's window of 2 MiB
REQUESTS_UNDER_WAY = 1024  # requests without data, such as copy-data: two batches
LARGEST_REPLY = 4 << 20  # bytes; OpenSSH's are at most 256 KiB
_NO_ROOM = 4  # SSH_OPEN_RESOURCE_SHORTAGE: may pass
_NO_SFTP = "Have 'Subsystem sftp internal-sftp' in its sshd_config, and a login that may use it"
BATCH = 32 << 10  # bytes of small requests that travel together, one SSH packet


@dataclass(eq=False)
class StatusError(Exception):
    """The server said no to a request."""

    code: int
    text: str


class Reply(paramiko.Message):
    """One packet from the server, read from front to back."""

    def __init__(self, kind: int, body: bytes) -> None:
        super().__init__(body)
        self.kind = kind

    def more(self) -> bool:
        """Say whether anything is left."""
        return self.packet.tell() < len(self.packet.getbuffer())

    def get_bytes(self, n: int) -> bytes:
        """Take so many bytes; paramiko fills up what is cut short."""
        piece = self.packet.read(n)
        if len(piece) < n:
            raise ConnectionLostError("SFTP server", "sent a packet that is cut short")
        return piece

    def expect(self, kind: int) -> Self:
        """Return this packet if it is of that kind; a ``StatusError`` for another status."""
        if self.kind == sftp.CMD_STATUS:
            code = self.get_int()
            if code != sftp.SFTP_OK or kind != sftp.CMD_STATUS:
                text = self.get_binary() if self.more() else b""
                raise StatusError(code, text.decode("utf-8", "replace"))
        elif self.kind != kind:
            raise ConnectionLostError("SFTP server", f"answered with a packet of type {self.kind}")
        return self


Handler = Callable[[Reply], None]


class SftpSession:
    """One SFTP channel, and the connection it goes over. Used by one thread at a time."""

    extensions: set[str]  # names of what the server announces
    packet: int = SAFE_PACKET  # bytes of data that the server takes or gives in one request

    def __init__(self, name: str, transport: paramiko.Transport) -> None:
        self._name = name
        self._transport = transport
        self._watchdog = Watchdog(transport, SILENCE_TIMEOUT)
        self._pending: dict[int, tuple[Handler, int]] = {}  # with the bytes of data of each
        self._owed = 0  # bytes of data among the pending
        self._next = 0
        self._outbox = bytearray()
        self._inbox = bytearray()
        self.sent = 0  # bytes of SFTP packets
        try:
            self._watchdog.expect()
            self._channel = self._open_channel()
            self.extensions = self._greet()
        except BaseException as error:
            self.close()
            raise self._lost(error) from error

    def _open_channel(self) -> paramiko.Channel:
        try:
            channel = self._transport.open_session(timeout=self._watchdog.limit)
        except paramiko.ChannelException as error:
            refusal = ConnectionLostError if error.code == _NO_ROOM else StorageRefusedError
            problem = "the server refuses to open a session"
            remedy = "See MaxSessions in its sshd_config, and what is said in its log"
            raise refusal(self._name, problem, found=error.text, remedy=remedy) from error
        try:
            channel.invoke_subsystem("sftp")
        except paramiko.SSHException as error:
            if not self.is_alive:
                raise
            problem = "the server has no SFTP"
            raise StorageRefusedError(self._name, problem, remedy=_NO_SFTP) from error
        return channel

    def _greet(self) -> set[str]:
        self._channel.sendall(struct.pack(">IBI", 5, sftp.CMD_INIT, 3))
        try:
            reply = self._packet()
        except ConnectionLostError as error:
            raise self._what_it_says() or error from error
        if reply.kind != sftp.CMD_VERSION or reply.get_int() < 3:
            raise ConnectionLostError(self._name, "is no SFTP server of version 3")
        self._watchdog.rest()
        found = set()
        while reply.more():
            found.add(reply.get_binary().decode("utf-8", "replace"))
            reply.get_binary()  # its version
        return found

    def _what_it_says(self) -> StorageRefusedError | None:
        """Return the error for a server that answers with text, or ends; None if it is neither."""
        text = bytes(self._inbox[:200]).decode("utf-8", "ignore")
        if text and all(c.isprintable() or c.isspace() for c in text[:3]):
            problem = f"the server does not speak SFTP, but prints {text!r}"
            remedy = "Have the login scripts of that user (such as ~/.bashrc) print nothing"
            return StorageRefusedError(self._name, problem, remedy=remedy)
        if self._inbox or self._watchdog.fired or not self.is_alive:
            return None
        return StorageRefusedError(self._name, "the server's SFTP ended at once", remedy=_NO_SFTP)

    @property
    def is_alive(self) -> bool:
        """Whether the connection is open, as far as it is known here."""
        return self._transport.is_active()

    def request(self, kind: int, body: bytes, *, patience: float | None = None) -> Reply:
        """Send one request, see ``submit``, and wait for its answer, taking others before it.

        ``patience`` are the seconds that it may take, if more than usual.
        """
        answer: list[Reply] = []
        self.submit(kind, body, answer.append)
        while not answer:
            self._turn(patience)
        return answer[0]

    def submit(
        self, kind: int, body: bytes, handler: Handler, data: bytes | memoryview = b""
    ) -> None:
        """Send a request: its number, ``body`` and ``data``.

        ``handler`` is called with the answer, from a later call here, and what it raises comes
        out of that call.
        """
        self._make_room(len(data))
        number = self._next = (self._next + 1) & 0xFFFFFFFF
        if not self._pending:
            self._watchdog.expect()
        self._pending[number] = (handler, len(data))
        self._owed += len(data)
        self._outbox += struct.pack(">IBI", 5 + len(body) + len(data), kind, number) + body
        self._outbox += data
        if len(self._outbox) >= BATCH:
            self._send()
            while self._pending and self._is_packet_here():
                self._take_answer()

    def _make_room(self, data: int) -> None:
        while self._pending and self._owed + data > UNDER_WAY:
            self._turn()
        if len(self._pending) >= REQUESTS_UNDER_WAY:
            while len(self._pending) > REQUESTS_UNDER_WAY // 2:  # so that they go in batches
                self._turn()

    def drain(self) -> None:
        """Wait until nothing is under way."""
        if not self.is_alive:
            raise self._lost(EOFError())
        while self._pending:
            self._turn()

    def forget(self) -> None:
        """Take the answers that are under way without a look: their work was given up."""
        self._pending = {n: (lambda _reply: None, size) for n, (_, size) in self._pending.items()}
        self.drain()

    def close(self) -> None:
        """Close the session and its connection."""
        self._watchdog.end()
        self._transport.close()

    def _turn(self, patience: float | None = None) -> None:
        self._send()
        if patience:
            self._watchdog.expect(patience)
        self._take_answer()

    def _take_answer(self) -> None:
        reply = self._packet()
        handler, size = self._pending.pop(reply.get_int(), (None, 0))
        self._owed -= size
        if self._pending:
            self._watchdog.expect()
        else:
            self._watchdog.rest()
        if handler is None:
            raise ConnectionLostError(self._name, "the server answered what nobody asked")
        handler(reply)

    def _send(self) -> None:
        outbox, self._outbox = self._outbox, bytearray()
        view = memoryview(outbox)
        try:
            while view:
                count = self._channel.send(view)  # type: ignore[arg-type]  # any buffer will do
                if not count:
                    raise self._lost(EOFError())
                view = view[count:]
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._lost(error) from error
        self.sent += len(outbox)

    def _packet(self) -> Reply:
        while not self._is_whole():
            self._receive()
        end = 4 + int.from_bytes(self._inbox[:4], "big")
        kind, body = self._inbox[4], bytes(self._inbox[5:end])
        del self._inbox[:end]
        return Reply(kind, body)

    def _is_packet_here(self) -> bool:
        while self._channel.recv_ready() and not self._is_whole():
            self._receive()
        return self._is_whole()

    def _is_whole(self) -> bool:
        """Say whether a whole packet came; one of an impossible length is not waited for."""
        if len(self._inbox) < 4:
            return False
        length = int.from_bytes(self._inbox[:4], "big")
        if not 0 < length <= LARGEST_REPLY:
            problem = f"the server sent what is not SFTP: a packet of {length} bytes"
            raise ConnectionLostError(self._name, problem)
        return len(self._inbox) >= 4 + length

    def _receive(self) -> None:
        try:
            piece = self._channel.recv(1 << 18)
        except (TimeoutError, OSError, EOFError, paramiko.SSHException) as error:
            raise self._lost(error) from error
        if not piece:
            raise self._lost(EOFError())
        self._inbox += piece

    def _lost(self, error: BaseException) -> BaseException:
        if self._watchdog.fired:
            problem = f"the server did not answer for {self._watchdog.limit:.0f} seconds"
            return ConnectionLostError(self._name, problem)
        if isinstance(error, OSError | EOFError | paramiko.SSHException):
            return ConnectionLostError(self._name, str(error) or "the connection was lost")
        return error


def string(text: bytes | str) -> bytes:
    """Encode a string for a request."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return struct.pack(">I", len(raw)) + raw


def names(reply: Reply) -> Iterator[tuple[bytes, RemoteStat]]:
    """Yield what a NAME packet lists."""
    for _ in range(reply.get_int()):
        name, _line_for_people = reply.get_binary(), reply.get_binary()
        yield name, attributes(reply)


def attributes(reply: Reply) -> RemoteStat:
    """Read the ATTRS structure (section 5 of the draft)."""
    flags = reply.get_int()
    size = reply.get_int64() if flags & 0x1 else 0
    if flags & 0x2:
        reply.get_int64()  # user and group
    mode = reply.get_int() if flags & 0x4 else 0
    mtime = reply.get_int64() & 0xFFFFFFFF if flags & 0x8 else 0  # behind the time of access
    if flags & 0x80000000:
        for _ in range(2 * reply.get_int()):
            reply.get_binary()
    return RemoteStat(Kind.of_mode(mode), size, mtime)
