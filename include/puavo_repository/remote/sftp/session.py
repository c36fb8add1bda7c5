"""The SFTP protocol, version 3, with many requests under way at once.

Formats: draft-ietf-secsh-filexfer-02, and OpenSSH's ``PROTOCOL`` for the extensions
(``posix-rename``, ``statvfs``, ``fsync``, ``limits`` at openssh.com, and ``copy-data``).

Written by hand because paramiko's own client knows no ``copy-data`` and waits for, or forgets, the
answers to its pipelined writes. Here each request has a handler, answers are taken as they come,
and what is under way is bounded, whatever the file's size.
"""

import contextlib
import struct
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Self

import paramiko
from paramiko import sftp

from puavo_repository.errors import ConnectionLostError, StorageRefusedError
from puavo_repository.remote.sftp import ssh
from puavo_repository.remote.tree import Data, RemoteStat

SILENCE_TIMEOUT = 60.0  # seconds without any answer after which a server counts as stalled
UNDER_WAY = 3 << 20  # bytes of data not yet acknowledged: more than OpenSSH's window of 2 MiB
REQUESTS_UNDER_WAY = 1024  # requests without data, such as copy-data: two batches
SAFE_PACKET = 32 << 10  # bytes of data that every server takes in one request
LARGEST_PACKET = 255 << 10  # OpenSSH's; a server announces it in its limits
LARGEST_REPLY = 4 << 20  # bytes; OpenSSH's are at most 256 KiB
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

    def expect(self, kind: int, harmless: Container[int] = ()) -> Self:
        """Return this packet if it is of that kind, or a status that is no error here.

        Another status is a ``StatusError``.
        """
        if self.kind == sftp.CMD_STATUS:
            code = self.get_int()
            good = code == sftp.SFTP_OK and kind == sftp.CMD_STATUS
            if not good and code not in harmless:
                text = self.get_binary() if self.more() else b""
                raise StatusError(code, text.decode("utf-8", "replace"))
        elif self.kind != kind:
            raise ConnectionLostError("SFTP server", f"answered with a packet of type {self.kind}")
        return self

    def attributes(self) -> RemoteStat:
        """Take an ATTRS structure (section 5 of the draft)."""
        found = paramiko.SFTPAttributes._from_msg(self)  # type: ignore[attr-defined]  # protected
        return RemoteStat.of(found.st_mode or 0, found.st_size or 0, found.st_mtime or 0)


Handler = Callable[[Reply], None]


class SftpSession:
    """One SFTP channel, and the connection it goes over. Used by one thread at a time.

    A connection on which nothing comes for too long, though something is owed, is closed. An
    answer that is known to take longer may: where the line is dead, the kernel says so (``ssh``).
    """

    def __init__(self, name: str, transport: paramiko.Transport) -> None:
        self._name = name
        self._transport = transport
        self._pending: dict[int, tuple[Handler, int]] = {}  # with the bytes of data of each
        self._owed = 0  # bytes of data among the pending
        self._next = 0
        self._outbox, self._inbox = bytearray(), bytearray()
        self.sent = 0  # bytes of SFTP packets
        self.packet = SAFE_PACKET  # bytes of data that the server takes or gives in one request
        self._limit = SILENCE_TIMEOUT
        try:
            with self._connection():
                self._channel = ssh.open_sftp(name, transport, self._limit)
                self._channel.settimeout(self._limit)
                self.extensions = self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> set[str]:
        """Agree on the version; return the names of the extensions that the server announces."""
        self._channel.sendall(struct.pack(">IBI", 5, sftp.CMD_INIT, 3))
        try:
            reply = self._packet()
        except ConnectionLostError as error:
            # It may have answered with text, or ended.
            text = bytes(self._inbox[:200]).decode("utf-8", "ignore")
            if text and all(c.isprintable() or c.isspace() for c in text[:3]):
                problem = f"the server does not speak SFTP, but prints {text!r}"
                remedy = "Have the login scripts of that user (such as ~/.bashrc) print nothing"
            elif self._inbox or not self.is_alive:
                raise
            else:
                problem, remedy = "the server's SFTP ended at once", ssh.NO_SFTP
            raise StorageRefusedError(self._name, problem, remedy=remedy) from error
        if reply.kind != sftp.CMD_VERSION or reply.get_int() < 3:
            raise ConnectionLostError(self._name, "is no SFTP server of version 3")
        found = set()
        while reply.more():
            found.add(reply.get_binary().decode("utf-8", "replace"))
            reply.get_binary()  # its version
        return found

    def learn_limits(self) -> None:
        """Ask how much data a request may have; the answer comes before that of the next one."""

        def learn(reply: Reply) -> None:
            reply.expect(sftp.CMD_EXTENDED_REPLY)
            _packet, reading, writing = (reply.get_int64() for _ in range(3))
            self.packet = max(SAFE_PACKET, min(LARGEST_PACKET, reading, writing))

        if "limits@openssh.com" in self.extensions:
            self.submit(sftp.CMD_EXTENDED, string("limits@openssh.com"), learn)

    @property
    def is_alive(self) -> bool:
        """Whether the connection is open, as far as it is known here."""
        return self._transport.is_active()

    def request(
        self, kind: int, body: bytes, answer: int = sftp.CMD_STATUS, harmless: Container[int] = ()
    ) -> Reply:
        """Send one request and wait for its answer, see ``Reply.expect``, taking others before."""
        came: list[Reply] = []
        self.submit(kind, body, came.append)
        while not came:
            self._take_answer()
        return came[0].expect(answer, harmless)

    def submit(self, kind: int, body: bytes, handler: Handler, data: Data = b"") -> None:
        """Send a request: its number, ``body`` and ``data``.

        ``handler`` is called with the answer, from a later call here, and what it raises comes
        out of that call.
        """
        while self._pending and self._owed + len(data) > UNDER_WAY:
            self._take_answer()
        if len(self._pending) >= REQUESTS_UNDER_WAY:
            while len(self._pending) > REQUESTS_UNDER_WAY // 2:  # so that they go in batches
                self._take_answer()
        number = self._next = (self._next + 1) & 0xFFFFFFFF
        self._outbox += struct.pack(">IBI", 5 + len(body) + len(data), kind, number) + body
        self._outbox += data
        self._pending[number] = (handler, len(data))
        self._owed += len(data)
        if len(self._outbox) >= BATCH:
            self._send()
            if self._channel.recv_ready():
                self._receive(len(self._inbox) + 1)
            while self._pending and 4 + int.from_bytes(self._inbox[:4], "big") <= len(self._inbox):
                self._take_answer()  # those that came; the rest of one is not waited for

    def tell(self, kind: int, body: bytes) -> None:
        """Send a request whose answer changes nothing: nobody waits for it."""
        self.submit(kind, body, lambda _reply: None)
        self._send()

    def drain(self, patience: float | None = None) -> None:
        """Wait until nothing is under way; ``patience``: seconds that the last may take."""
        with self._connection():
            if not self.is_alive:
                raise EOFError
        try:
            while self._pending:
                if patience and len(self._pending) == 1:
                    self._channel.settimeout(patience)
                self._take_answer()
        finally:
            self._channel.settimeout(self._limit)

    def forget(self) -> None:
        """Take the answers that are under way without a look: their work was given up."""
        self._pending = {n: (lambda _reply: None, size) for n, (_, size) in self._pending.items()}
        self.drain()

    def close(self) -> None:
        """Close the session and its connection."""
        self._transport.close()

    def _take_answer(self) -> None:
        if self._outbox:
            self._send()
        reply = self._packet()
        number = reply.get_int()
        handler, size = self._pending.pop(number, (None, 0))
        self._owed -= size
        if handler is None:
            raise ConnectionLostError(self._name, "the server answered what nobody asked")
        handler(reply)

    def _send(self) -> None:
        outbox, self._outbox = self._outbox, bytearray()
        with self._connection():
            self._channel.sendall(memoryview(outbox))  # type: ignore[arg-type]  # it will do
        self.sent += len(outbox)

    def _packet(self) -> Reply:
        """Wait for a whole packet; one of an impossible length is not waited for."""
        self._receive(4)
        end = 4 + int.from_bytes(self._inbox[:4], "big")
        if not 4 < end <= 4 + LARGEST_REPLY:
            problem = f"the server sent what is not SFTP: a packet of {end - 4} bytes"
            raise ConnectionLostError(self._name, problem)
        self._receive(end)
        reply = Reply(self._inbox[4], bytes(self._inbox[5:end]))
        del self._inbox[:end]
        return reply

    def _receive(self, count: int) -> None:
        while len(self._inbox) < count:
            with self._connection():
                piece = self._channel.recv(1 << 18)
                if not piece:
                    raise EOFError
            self._inbox += piece

    @contextlib.contextmanager
    def _connection(self) -> Iterator[None]:
        """Have an error of the connection come out of a block as one of ours."""
        try:
            yield
        except (OSError, EOFError, paramiko.SSHException) as error:
            problem = str(error) or "the connection was lost"
            if isinstance(error, TimeoutError):
                self.close()  # or every further wait on it would take as long
                problem = f"the server did not answer for {self._limit:.0f} seconds"
            raise ConnectionLostError(self._name, problem) from error


def string(text: bytes | str) -> bytes:
    """Encode a string for a request."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return struct.pack(">I", len(raw)) + raw
