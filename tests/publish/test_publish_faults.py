"""Whatever breaks, and wherever: the retry goes on, and clients find nothing wrong meanwhile."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from pathlib import Path

import pytest

from puavo_repository import retry
from puavo_repository.errors import ConnectionLostError
from puavo_repository.progress import Progress, no_progress
from puavo_repository.publish import send, transfer
from puavo_repository.publish.plan import Transfer, sha256
from puavo_repository.publish.publisher import Publisher
from puavo_repository.remote.folder import _FolderFile
from puavo_repository.remote.journal import Part
from puavo_repository.remote.sftp import session as sftp_session
from puavo_repository.remote.sftp import ssh
from puavo_repository.remote.sftp import tree as sftp_tree
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Range
from puavo_repository.settings.model import Model
from support.mirrors import add_image, image, make_mirror, publish, send_one, tree_of, walk
from support.servers import Proxy, Sshd

KEEP = Model(connections=2, replace_pause=0.0)


def test_a_connection_lost_at_any_stage_is_made_again(
    tmp_path: Path, remote: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.01)
    names = make_mirror(tmp_path / "mirror", size=60_000)
    chance = random.Random(5)
    with Proxy(sshd.port) as proxy:
        target = sshd.target(remote, proxy.port)
        for _ in range(8):
            proxy.cut_after = proxy.sent + chance.randrange(150_000)
            found = publish(tmp_path / "mirror", target, KEEP)
            assert found.ok, found.failed
            assert walk(remote) == []
            names = add_image(tmp_path / "mirror", names, keep=4, seed=chance.randrange(1 << 30))
        assert proxy.connections > 16


def test_a_stalled_server_fails_in_time_and_the_retry_goes_on(
    tmp_path: Path, remote: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_mirror(tmp_path / "mirror")
    with Proxy(sshd.port) as proxy, monkeypatch.context() as hasty:
        hasty.setattr(retry, "ATTEMPTS", 1)
        hasty.setattr(sftp_session, "SILENCE_TIMEOUT", 1.0)
        hasty.setattr(sftp_tree, "SYNC_PATIENCE", 1.0)
        hasty.setattr(ssh, "CONNECT_TIMEOUT", 1.0)
        proxy.stall_after = 150_000
        with pytest.raises(ConnectionLostError, match=r"did not answer|timeout|banner|login"):
            publish(tmp_path / "mirror", sshd.target(remote, proxy.port), KEEP)
    assert publish(tmp_path / "mirror", sshd.target(remote), KEEP).ok
    assert tree_of(remote) == tree_of(tmp_path / "mirror")


@pytest.mark.alike(1)
@pytest.mark.parametrize("connections", [1, 5])
def test_an_interrupted_upload_goes_on_where_it_was(
    tmp_path: Path, remote: Path, sshd: Sshd, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "LONG_TRIP", 0.0)
    item = _large_file(tmp_path / "mirror", 128 << 20)
    options = Model(connections=connections)
    with Proxy(sshd.port) as proxy:
        target = sshd.target(remote, proxy.port)
        proxy.cut_after = 100 << 20
        with pytest.raises(ConnectionLostError):
            send_one(item, tmp_path / "mirror", target, options)
        send_one(item, tmp_path / "mirror", target, options)
        assert proxy.sent - item.size <= send.SYNC_EVERY + send.AHEAD + (4 << 20)
    assert hashlib.sha256((remote / item.path).read_bytes()).hexdigest() == item.sha256
    assert [path.name for path in remote.iterdir()] == [item.path]


def test_a_part_with_other_content_is_not_gone_on_with(
    tmp_path: Path, remote: Path, folder: Target, sshd: Sshd
) -> None:
    item = _large_file(tmp_path / "mirror", 60 << 20)
    target = sshd.target(remote)
    with Publisher(tmp_path / "mirror", folder).hold() as before:
        left = Part(item.part("0" * 16), item.sha256, synced=50 << 20)
        (remote / left.name).write_bytes(bytes(50 << 20))
        before.parts.put(item.path, left)
    send_one(item, tmp_path / "mirror", target)
    assert hashlib.sha256((remote / item.path).read_bytes()).hexdigest() == item.sha256
    assert not list(remote.glob(".*.part"))


def test_a_part_that_is_longer_than_its_file_is_begun_anew(
    tmp_path: Path, remote: Path, folder: Target
) -> None:
    item = _large_file(tmp_path / "mirror", 1 << 20)
    whole = (tmp_path / "mirror" / item.path).read_bytes()
    with Publisher(tmp_path / "mirror", folder).hold() as before:
        left = Part(item.part("0" * 16), item.sha256, synced=item.size)
        (remote / left.name).write_bytes(whole + b"more")
        before.parts.put(item.path, left)
    send_one(item, tmp_path / "mirror", folder)
    assert (remote / item.path).read_bytes() == whole


def test_a_part_that_is_a_link_is_not_written_through(
    tmp_path: Path, remote: Path, folder: Target, sshd: Sshd
) -> None:
    item = _large_file(tmp_path / "mirror", 1 << 20)
    target = sshd.target(remote)
    (tmp_path / "outside").write_bytes(b"precious")
    with Publisher(tmp_path / "mirror", folder).hold() as before:
        left = Part(item.part("0" * 16), item.sha256, synced=5)
        (remote / left.name).symlink_to(tmp_path / "outside")
        before.parts.put(item.path, left)
    send_one(item, tmp_path / "mirror", target)
    assert (tmp_path / "outside").read_bytes() == b"precious"
    assert (remote / item.path).stat().st_size == item.size


def test_a_bandwidth_limit_is_kept_over_several_connections(
    tmp_path: Path, remote: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "LONG_TRIP", 0.0)
    item = _large_file(tmp_path / "mirror", 30 << 20)
    options = Model(connections=3, bandwidth="20M")
    begun = time.monotonic()
    send_one(item, tmp_path / "mirror", sshd.target(remote), options)
    assert time.monotonic() - begun >= item.size / 20_000_000 - 0.5


def test_a_disk_that_does_not_answer_holds_nobody_up(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest's thread may be in a read that never ends: who is interrupted does not wait."""
    answers = threading.Event()

    def silent(_path: Path, _ended: threading.Event) -> str:
        answers.wait(20)
        return ""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "_sha256", silent)
    monkeypatch.setattr(transfer, "send", interrupted)
    begun = time.monotonic()
    item = Transfer(image(1), 300_000, sha256((mirror / image(1)).read_bytes()))
    try:
        with pytest.raises(KeyboardInterrupt):
            send_one(item, mirror, folder)
        assert time.monotonic() - begun < 10
        started = [one for one in threading.enumerate() if one.name.startswith("digest")]
        assert all(one.daemon for one in started), "the interpreter would wait for it at its end"
        assert started
    finally:
        answers.set()


def test_an_image_that_was_assembled_wrongly_is_uploaded_instead(
    tmp_path: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(path=str(remote))
    names = make_mirror(tmp_path / "mirror")
    assert publish(tmp_path / "mirror", target, KEEP).ok
    add_image(tmp_path / "mirror", names, keep=4, seed=1)
    copy = _FolderFile.copy

    def from_one_byte_before(
        self: _FolderFile,
        source: _FolderFile,
        taken: Range,
        offset: int,
        done: Progress,
    ) -> None:
        copy(self, source, Range(max(0, taken.offset - 1), taken.length), offset, done)

    monkeypatch.setattr(_FolderFile, "copy", from_one_byte_before)
    found = publish(tmp_path / "mirror", target, KEEP)
    assert found.ok, found.failed
    assert not found.assembled
    assert found.uploaded
    assert walk(remote) == []
    assert tree_of(remote) == tree_of(tmp_path / "mirror")


def test_what_arrived_wrongly_gets_no_name(
    tmp_path: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    make_mirror(tmp_path / "mirror")
    write = _FolderFile.write

    def flipped(
        self: _FolderFile, offset: int, data: bytes | memoryview, done: Progress = no_progress
    ) -> None:
        wrong = bytearray(data)
        if len(wrong) > 10_000:
            wrong[len(wrong) // 2] ^= 1
        write(self, offset, bytes(wrong), done)

    monkeypatch.setattr(_FolderFile, "write", flipped)
    found = publish(tmp_path / "mirror", Target(path=str(remote)), KEEP)
    assert "differs from the file that was sent" in str(found.failed)
    assert not list(remote.glob("*.img"))
    assert walk(remote) == []
    monkeypatch.undo()
    assert publish(tmp_path / "mirror", Target(path=str(remote)), KEEP).ok
    assert tree_of(remote) == tree_of(tmp_path / "mirror")


def _large_file(folder: Path, size: int) -> Transfer:
    name = "puavo-os-large-bookworm-2026-01-01-120000-amd64.img"
    block = os.urandom(1 << 20)
    digest = hashlib.sha256()
    folder.mkdir()
    with (folder / name).open("wb") as stream:
        for number in range(size >> 20):
            piece = number.to_bytes(8, "big") + block[8:]
            stream.write(piece)
            digest.update(piece)
    return Transfer(name, size, digest.hexdigest())
