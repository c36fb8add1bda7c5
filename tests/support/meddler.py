"""A server between: a real ``sftp-server`` whose replies somebody meddles with.

It takes the place of the SSH connection below ``SftpSession``, so that the replies are meddled
with where they are not encrypted. It notes every path that it is asked for.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import struct
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from paramiko import sftp

from support.servers import sftp_server

Meddle = Callable[[int, bytes], bytes | None]
"""Takes the number of a reply and its packet without the length; returns what is sent instead,
with its length. None is silence from then on."""


def whole(packet: bytes) -> bytes:
    """Return a packet with its length, as it travels."""
    return struct.pack(">I", len(packet)) + packet


class Meddler:
    """Stands for ``ssh.connect``: gives transports to meddled servers.

    Attributes:
        paths: Every path that a client asked for, in order.
        replies: How many were sent.
    """

    def __init__(self, meddle: Meddle) -> None:
        self.paths: list[tuple[int, str]] = []
        self.replies = itertools.count()
        self.meddle = meddle
        self.spares_folder = False  # whether the answer that names the folder stays as it is
        self._transports: list[_Transport] = []

    def connect(self, *_: object, **__: object) -> Any:
        self._transports.append(_Transport(self))
        return self._transports[-1]

    def close(self) -> None:
        for transport in self._transports:
            transport.close()


class _Transport:
    packetizer = None  # there are no packets

    def __init__(self, meddler: Meddler) -> None:
        self._channel = _Channel(meddler)

    def open_session(self, timeout: float) -> _Channel:
        return self._channel

    def is_active(self) -> bool:
        return not self._channel.closed

    def close(self) -> None:
        self._channel.close()


class _Channel:
    def __init__(self, meddler: Meddler) -> None:
        self._meddler = meddler
        self._server = subprocess.Popen(
            [sftp_server()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._asked = bytearray()
        self.closed = False
        self._limit: float | None = None
        threading.Thread(target=self._pump, daemon=True).start()

    def invoke_subsystem(self, name: str) -> None:
        assert name == "sftp"

    def sendall(self, data: bytes) -> None:
        self.send(data)

    def send(self, data: bytes | memoryview) -> int:
        self._asked += data
        self._note()
        assert self._server.stdin
        try:
            self._server.stdin.write(bytes(data))
            self._server.stdin.flush()
        except (OSError, ValueError) as error:
            raise EOFError from error
        return len(data)

    def recv_ready(self) -> bool:
        return not self._came.empty()

    def settimeout(self, limit: float) -> None:
        self._limit = limit

    def recv(self, _size: int) -> bytes:
        if self.closed and self._came.empty():
            return b""
        try:
            return self._came.get(timeout=self._limit)
        except queue.Empty:
            raise TimeoutError from None

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._server.kill()
            self._server.wait()
            for pipe in (self._server.stdin, self._server.stdout):
                with contextlib.suppress(OSError):
                    assert pipe
                    pipe.close()
        self._came.put(b"")

    def _pump(self) -> None:
        stream = self._server.stdout
        assert stream
        with contextlib.suppress(OSError, ValueError, struct.error):
            for own in itertools.count():
                (length,) = struct.unpack(">I", stream.read(4))
                packet = stream.read(length)
                sent = self._meddler.meddle(next(self._meddler.replies), packet)
                if own == 1 and self._meddler.spares_folder:
                    sent = whole(packet)
                if sent is None:
                    return
                self._came.put(sent)

    def _note(self) -> None:
        """Take whole requests apart and note the paths in them."""
        while len(self._asked) >= 4:
            end = 4 + int.from_bytes(self._asked[:4], "big")
            if len(self._asked) < end:
                return
            kind, body = self._asked[4], bytes(self._asked[9:end])
            del self._asked[:end]
            self._meddler.paths += [(kind, path) for path in _paths(kind, body)]


def _paths(kind: int, body: bytes) -> list[str]:
    one = {
        sftp.CMD_OPEN,
        sftp.CMD_LSTAT,
        sftp.CMD_OPENDIR,
        sftp.CMD_REMOVE,
        sftp.CMD_MKDIR,
        sftp.CMD_RMDIR,
    }
    one.add(sftp.CMD_SETSTAT)
    if kind in one:
        return _strings(body, 1)
    if kind == sftp.CMD_RENAME:
        return _strings(body, 2)
    if kind == sftp.CMD_EXTENDED and body[4:].startswith(b"posix-rename"):
        return _strings(body, 3)[1:]
    return []


def _strings(body: bytes, count: int) -> list[str]:
    found = []
    for _ in range(count):
        end = 4 + int.from_bytes(body[:4], "big")
        found.append(body[4:end].decode("utf-8", "surrogateescape"))
        body = body[end:]
    return found
