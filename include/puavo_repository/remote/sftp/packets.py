"""SSH packets by the batch: large writes for two thirds of the processor's time.

Paramiko takes a write apart into packets of 32 KiB first, and each passes through its locks, is
copied six times and is written to the socket by itself. Here a channel hands over much in one
message; it is taken apart, sealed and written at once. Formats: RFC 4253 (section 6) and 4254
(5.2); sealed with AES-GCM as in RFC 5647 (7.1 to 7.3).
"""

import struct
import threading
from collections.abc import Iterator
from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_DATA
from paramiko.packet import Packetizer

from puavo_repository.remote.tree import Data

BLOCK = 16  # bytes of AES, which the padding fills up
HEAD = struct.Struct(">BII")  # of a message with a channel's data: its kind, the channel, bytes
MESSAGE = 256 << 10  # bytes of data that a channel hands over at once


class BatchPacketizer(Packetizer):
    """Writes packets; of a cipher that is not AES-GCM by way of paramiko."""

    def __init__(self, socket: Any) -> None:
        super().__init__(socket)
        self._most = MESSAGE  # bytes of data that the server takes in one packet
        self._sealing = threading.RLock()
        self._engine: Any = None  # of AES-GCM

    def set_outbound_cipher(self, *args: Any, **more: Any) -> None:
        """Use new keys; the connection sees to it that nothing else is sent meanwhile."""
        super().set_outbound_cipher(*args, **more)
        self._engine = more["block_engine"] if more["aead"] else None
        if self._engine:
            self._fixed, self._invocation = struct.unpack(">4sQ", more["iv_out"])
            self._sealed = 0  # bytes with these keys

    def batch(self, channel: paramiko.Channel) -> None:
        """Have a channel, the only one, hand over much at once."""
        self._most = channel.out_max_packet_size - 64  # as paramiko, which leaves room
        channel.out_max_packet_size = MESSAGE + 64

    def send_message(self, data: paramiko.Message) -> None:
        """Write a message as one packet, or as many as the data of a channel takes."""
        with self._sealing:
            messages = self._cut(data.asbytes())
            if not self._engine:
                for one in messages:
                    super().send_message(paramiko.Message(b"".join(one)))
                return
            packets = b"".join(part for one in messages for part in self._seal(*one))
            self.write_all(packets)
            self._sealed += len(packets)
            if self._sealed >= self.REKEY_BYTES and not self.need_rekey():
                self._trigger_rekey()  # type: ignore[attr-defined]  # the stubs know no protected ones

    def _cut(self, message: bytes) -> Iterator[tuple[Data, Data]]:
        """Yield the two parts of each message that this one becomes."""
        if len(message) <= HEAD.size + self._most or message[0] != MSG_CHANNEL_DATA:
            yield message, b""
            return
        _, channel, length = HEAD.unpack_from(message)
        data = memoryview(message)[HEAD.size :]
        for at in range(0, length, self._most):
            piece = data[at : at + self._most]
            yield HEAD.pack(MSG_CHANNEL_DATA, channel, len(piece)), piece

    def _seal(self, head: Data, data: Data) -> tuple[bytes, bytes]:
        """Return the two parts of the packet of a message: its length, and what is secret."""
        size = 1 + len(head) + len(data)
        padding = 4 + (-size - 4) % BLOCK  # at least 4 bytes
        length = struct.pack(">I", size + padding)
        nonce = self._fixed + self._invocation.to_bytes(8, "big")
        self._invocation = (self._invocation + 1) & 0xFFFFFFFFFFFFFFFF
        plain = b"".join((bytes((padding,)), head, data, bytes(padding)))
        return length, self._engine.encrypt(nonce, plain, length)
