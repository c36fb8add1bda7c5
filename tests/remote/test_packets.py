"""Large writes arrive whole, however the server has them packed and sealed."""

from __future__ import annotations

import os
from pathlib import Path

import paramiko
import pytest

from puavo_repository.remote.sftp import session as sftp_session
from puavo_repository.remote.sftp.packets import BatchPacketizer
from puavo_repository.remote.sftp.tree import SftpTree
from puavo_repository.remote.tree import OpenMode, Range
from support.servers import Sshd, running

SIZE = (9 << 20) + 1  # bytes, more than the server's window


def written(tree: SftpTree, folder: Path) -> bool:
    """Say whether a large file arrives as it is, and what comes back too."""
    content = os.urandom(SIZE)
    with tree.open("large", OpenMode.CREATE) as file:
        file.write(0, content)
        file.flush()
        back = b"".join(file.read([Range(0, SIZE)]))
    return (folder / "large").read_bytes() == content == back


@pytest.mark.alike(2)
@pytest.mark.parametrize(
    "more",
    [
        "",
        "Ciphers aes256-gcm@openssh.com",
        "Ciphers aes128-ctr\nMACs hmac-sha2-256-etm@openssh.com",
        "Ciphers aes256-cbc\nMACs hmac-sha2-256",
        "RekeyLimit 1M",
    ],
)
def test_a_large_write_arrives_whole(tmp_path: Path, more: str) -> None:
    (tmp_path / "files").mkdir()
    with running(Sshd(tmp_path / "sshd", more=more)) as server:
        tree = SftpTree(server.target(tmp_path / "files"))
        assert written(tree, tmp_path / "files")
        tree.close()


def test_keys_are_not_used_for_ever(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchPacketizer, "REKEY_BYTES", 1 << 20)
    keys: list[bytes] = []
    real = BatchPacketizer.set_outbound_cipher

    def note(self: BatchPacketizer, **more: object) -> None:
        keys.append(bytes(more["iv_out"]))  # type: ignore[call-overload]
        real(self, **more)

    monkeypatch.setattr(BatchPacketizer, "set_outbound_cipher", note)
    tree, content = SftpTree(sshd.target(tmp_path)), os.urandom(SIZE)
    with tree.open("large", OpenMode.CREATE) as file:  # what is received counts too
        file.write(0, content)
    tree.close()
    assert (tmp_path / "large").read_bytes() == content
    assert len(set(keys)) == len(keys) > 3


def test_no_packet_is_larger_than_the_server_takes(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[int] = []
    sizes: list[int] = []
    batch, seal = BatchPacketizer.batch, BatchPacketizer._seal

    def note(self: BatchPacketizer, channel: paramiko.Channel) -> None:
        announced.append(channel.out_max_packet_size)
        batch(self, channel)

    def measure(self: BatchPacketizer, head: bytes, data: bytes) -> tuple[bytes, bytes]:
        sizes.append(len(head) + len(data))
        return seal(self, head, data)

    monkeypatch.setattr(BatchPacketizer, "batch", note)
    monkeypatch.setattr(BatchPacketizer, "_seal", measure)
    tree = SftpTree(sshd.target(tmp_path))
    assert written(tree, tmp_path)
    tree.close()
    assert max(sizes) <= announced[0] < sftp_session.LARGEST_PACKET
    assert sum(sizes) > SIZE
