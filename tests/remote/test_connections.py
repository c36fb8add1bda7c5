"""What goes wrong with a connection is told apart, and says the way out."""

from __future__ import annotations

import dataclasses
import getpass
import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import paramiko
import pytest

from puavo_repository.cli import terminal
from puavo_repository.errors import (
    ConnectionLostError,
    HostKeyError,
    LoginError,
    PermanentError,
    SettingsError,
    StorageRefusedError,
    TransientError,
)
from puavo_repository.remote.sftp import session as sftp_session
from puavo_repository.remote.sftp import ssh
from puavo_repository.remote.sftp import tree as sftp_tree
from puavo_repository.remote.sftp.tree import SftpTree
from puavo_repository.remote.target import Target, parse_target
from puavo_repository.remote.tree import OpenMode
from support.instead import instead
from support.servers import Proxy, Sshd, free_port, make_key, running, tool

SILENCE = 2.0  # seconds: a loaded machine's server is not silent for as long


def test_an_unknown_host_key_is_refused_with_its_fingerprint(sshd: Sshd, tmp_path: Path) -> None:
    target = dataclasses.replace(sshd.target(tmp_path), host_key="", known_hosts=())
    with pytest.raises(HostKeyError) as caught:
        SftpTree(target)
    command = [tool("ssh-keygen"), "-lf", str(sshd.home / "host_key.pub")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.split()[1] in str(caught.value)
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1" in str(caught.value)
    assert sshd.host_key in str(caught.value), "so that it can be put into a connection"


def test_a_changed_host_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    with pytest.raises(HostKeyError, match=r"has changed.*ssh-keygen -R"):
        SftpTree(dataclasses.replace(sshd.target(tmp_path), host_key=other))


def test_known_hosts_is_looked_up_by_name_and_port(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    target = dataclasses.replace(sshd.target(tmp_path), host_key="", known_hosts=(str(known),))
    known.write_text(f"127.0.0.1 {sshd.host_key}\n")
    with pytest.raises(HostKeyError, match="unknown"):
        SftpTree(target)
    known.write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
    SftpTree(target).close()
    subprocess.run([tool("ssh-keygen"), "-q", "-H", "-f", str(known)], check=True)
    SftpTree(target).close()


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_a_server_with_several_host_keys_is_asked_for_the_known_one(
    tmp_path: Path, kind: str
) -> None:
    key = tmp_path / "another_key"
    command = [tool("ssh-keygen"), "-q", "-t", kind, "-N", "", "-f", str(key)]
    subprocess.run(command, check=True)
    with running(Sshd(tmp_path / "sshd", more=f"HostKey {key}")) as server:
        known = key.with_suffix(".pub").read_text()
        SftpTree(dataclasses.replace(server.target(tmp_path), host_key=known)).close()
        SftpTree(server.target(tmp_path)).close()


def test_a_host_key_that_is_none_is_named(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match="is no key"):
        SftpTree(dataclasses.replace(sshd.target(tmp_path), host_key="nonsense"))
    bare = sshd.host_key.split()[1]
    SftpTree(dataclasses.replace(sshd.target(tmp_path), host_key=bare)).close()


def test_a_wrong_key_is_refused_for_good(sshd: Sshd, tmp_path: Path) -> None:
    wrong = make_key(tmp_path / "wrong")
    with pytest.raises(LoginError, match="authorized_keys"):
        SftpTree(dataclasses.replace(sshd.target(tmp_path), key_file=str(wrong)))


def test_a_key_may_be_given_as_text(sshd: Sshd, tmp_path: Path) -> None:
    target = dataclasses.replace(
        sshd.target(tmp_path), key_file="", private_key=sshd.client_key.read_text()
    )
    SftpTree(target).close()


DSA = """-----BEGIN PRIVATE KEY-----
MIIBSwIBADCCASsGByqGSM44BAEwggEeAoGBAOiEyvRg2z0l23UzRio6wsAJozi6XTHHtL
9CR338oyc8y+HEqnpYH5d8hhdXcFFhzrBGYSDXi76jX/AMyReTmCunTE5jkyW8r6sG9n6y
rl7z8wPp9Xn4w4oMeKExSdVSUZidFystXwh8RxwkaViXkWqt8d4e4RfBmuo9mZSV2ho5Ah
UAtkSJ8RVg60105cLmS5xeOrMMQ/cCgYBQtNcXYWPPh1oiNfktWR19jChekvmqQD6pWK0x
5jZvA1XTvMlNwuCACz4ymnGwMXG6eVrNT7Ny6rK/FjwfWAGPtoyngZ2gxLoW7y/QcoaQiR
U2CYJKUZmBOsOzwCGyyiYwngaBbPBiDEQ1OSvez8tIbpKXWsaUb/AMjUACmf6M2AQXAhUA
hmmzSZHsTHjQJremA5wXZq6atlY=
-----END PRIVATE KEY-----
"""
# What ssh-keygen writes for a security key: how to ask the device, no key.
SECURITY_KEY = """-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAASgAAABpzay1zc2
gtZWQyNTUxOUBvcGVuc3NoLmNvbQAAACABAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB
AQEBAQAAAARzc2g6AAAAcAAAAAUAAAAFAAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY2
9tAAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAAAABHNzaDoBAAAAEGho
aGhoaGhoaGhoaGhoaGgAAAAAAAAAAWM=
-----END OPENSSH PRIVATE KEY-----
"""


@pytest.mark.parametrize("text", [DSA, SECURITY_KEY, "nonsense"])
def test_a_kind_of_key_that_is_not_used_is_skipped_or_told(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    target = dataclasses.replace(sshd.target(tmp_path), key_file="")
    other = tmp_path / "other"
    other.write_text(text)
    for named in (
        dataclasses.replace(target, key_file=str(other)),
        dataclasses.replace(target, private_key=text),
    ):
        with pytest.raises(LoginError, match=r"private key .* as ssh-keygen makes it"):
            SftpTree(named)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr(ssh, "DEFAULT_KEYS", (str(other), str(sshd.client_key)))
    SftpTree(target).close()


def test_a_user_without_a_name_is_told(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234567")

    instead(monkeypatch, ssh, getpass, getuser=nobody)
    with pytest.raises(LoginError, match="sftp://user@host"):
        SftpTree(sshd.target(tmp_path))


def test_no_secret_is_shown(sshd: Sshd, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter2-is-secret"
    target = dataclasses.replace(
        sshd.target(tmp_path), key_file="", private_key=secret, password=secret
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(LoginError) as caught:
        SftpTree(target)
    with caplog.at_level(logging.DEBUG), pytest.raises(LoginError) as again:
        SftpTree(dataclasses.replace(target, private_key=""))
    shown = f"{caught.value} {again.value} {target} {target.url} {caplog.text}"
    assert secret not in shown
    with pytest.raises(SettingsError) as refused:
        parse_target(f"sftp://user:{secret}@host/path")
    assert secret not in str(refused.value)


def test_a_refused_connection_may_come_back(tmp_path: Path, sshd: Sshd) -> None:
    with pytest.raises(TransientError):
        SftpTree(sshd.target(tmp_path, free_port()))


def test_a_read_only_server_is_refused_for_good(tmp_path: Path) -> None:
    with running(Sshd(tmp_path / "sshd", sftp="internal-sftp -R")) as server:
        tree = SftpTree(server.target(tmp_path))
        with pytest.raises(StorageRefusedError, match="permission"):
            tree.open("file", OpenMode.CREATE)
        with pytest.raises(StorageRefusedError, match="permission"):
            tree.make_folder("folder")
        tree.close()


def test_a_full_disk_is_told_from_other_failures(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with running(Sshd(tmp_path / "sshd", full_disk=disk, disk_size="4m")) as server:
        tree = SftpTree(server.target(disk))
        file = tree.open("file", OpenMode.CREATE)
        with pytest.raises(StorageRefusedError, match="disk is full"):
            file.write(0, bytes(8 << 20))
        file.close()
        tree.remove("file")
        tree.close()


def test_what_paramiko_logs_of_a_broken_connection_is_not_shown(
    sshd: Sshd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with terminal.shown(), Proxy(sshd.port) as proxy:
        proxy.cut_after = 0
        with pytest.raises(ConnectionLostError):
            _write_a_megabyte(sshd.target(tmp_path, proxy.port))
    assert [record for record in caplog.records if record.name.startswith("paramiko")] == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sftp": "/bin/echo hello from .profile"}, r"prints 'hello from .profile\\n'.*login"),
        ({"sftp": "/bin/echo no"}, r"prints 'no\\n'.*login"),
        ({"sftp": "/bin/sh -c 'exit 3'"}, r"ended at once.*Subsystem sftp"),
        ({"more": "MaxSessions 0"}, r"MaxSessions.*sshd_config"),
        ({"subsystem": "other"}, r"has no SFTP.*Subsystem sftp"),
    ],
)
def test_a_server_without_sftp_is_told_in_a_sentence(
    tmp_path: Path, options: dict[str, str], says: str
) -> None:
    with running(Sshd(tmp_path / "sshd", **options)) as server:  # type: ignore[arg-type]
        with pytest.raises(StorageRefusedError, match=says) as caught:
            SftpTree(server.target(tmp_path))
        assert "(" not in caught.value.problem


@pytest.mark.parametrize("after", [0, 500, 3_000, 4_500, 200_000, 900_000])
def test_a_silent_server_is_given_up(
    sshd: Sshd, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "CONNECT_TIMEOUT", 0.5)
    monkeypatch.setattr(sftp_session, "SILENCE_TIMEOUT", 0.5)
    with Proxy(sshd.port) as proxy:
        proxy.stall_after = after
        with pytest.raises(ConnectionLostError, match="did not answer" if after == 500 else None):
            _write_a_megabyte(sshd.target(tmp_path, proxy.port))
        proxy.heal()


def test_a_server_that_falls_silent_when_it_is_asked_for_sftp_is_given_up(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = paramiko.Channel.invoke_subsystem

    def unanswered(channel: paramiko.Channel, name: str) -> None:
        proxy.stall_after = proxy.sent
        ask(channel, name)

    monkeypatch.setattr(paramiko.Channel, "invoke_subsystem", unanswered)
    monkeypatch.setattr(sftp_session, "SILENCE_TIMEOUT", 0.5)
    with Proxy(sshd.port) as proxy, pytest.raises(ConnectionLostError):
        SftpTree(sshd.target(tmp_path, proxy.port))


@pytest.mark.parametrize("after", [0, 500, 3_000, 4_500, 200_000, 900_000])
def test_a_cut_connection_is_told(sshd: Sshd, tmp_path: Path, after: int) -> None:
    with Proxy(sshd.port) as proxy:
        proxy.cut_after = after
        with pytest.raises(ConnectionLostError):
            _write_a_megabyte(sshd.target(tmp_path, proxy.port))


@pytest.mark.parametrize("at", [100, 4_500, 300_000])
def test_a_corrupted_byte_never_arrives(sshd: Sshd, tmp_path: Path, at: int) -> None:
    with Proxy(sshd.port) as proxy:
        proxy.corrupt_at = at
        with pytest.raises((TransientError, PermanentError)):
            _write_a_megabyte(sshd.target(tmp_path, proxy.port))
    arrived = (tmp_path / "file").read_bytes() if (tmp_path / "file").exists() else b""
    assert set(arrived) <= {7}


def _write_a_megabyte(target: Target) -> None:
    tree = SftpTree(target)
    try:
        with tree.open("file", OpenMode.CREATE) as file:
            file.write(0, bytes([7]) * (1 << 20))
            file.sync()
    finally:
        tree.close()


def children(server: Sshd) -> list[int]:
    """Return the numbers of the processes that serve connections; the last one serves SFTP."""
    assert server.process
    found = [server.process.pid]
    for process in found:
        for path in Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    return found[1:]


def slow_disk(server: Sshd) -> int:
    """Halt the process that serves SFTP, and not the one that serves SSH; return its number."""
    halted = children(server)[-1]
    os.kill(halted, signal.SIGSTOP)
    return halted


def test_a_slow_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_session, "SILENCE_TIMEOUT", SILENCE)
    with running(Sshd(tmp_path / "sshd")) as server:
        tree = SftpTree(server.target(tmp_path))
        with tree.open("file", OpenMode.CREATE) as file:
            file.write(0, b"x")
            file.flush()
            halted = slow_disk(server)
            timer = threading.Timer(2 * SILENCE, os.kill, (halted, signal.SIGCONT))
            timer.start()
            begun = time.monotonic()
            file.sync()
            assert time.monotonic() - begun > 1.5 * SILENCE
        tree.close()


def test_a_disk_that_stands_still_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sftp_session, "SILENCE_TIMEOUT", SILENCE)
    monkeypatch.setattr(sftp_tree, "SYNC_PATIENCE", 2 * SILENCE)
    with running(Sshd(tmp_path / "sshd")) as server:
        tree = SftpTree(server.target(tmp_path))
        file = tree.open("file", OpenMode.CREATE)
        file.flush()
        halted = slow_disk(server)
        with pytest.raises(ConnectionLostError, match="did not answer"):
            file.sync()
        os.kill(halted, signal.SIGKILL)


def test_a_write_that_stands_still_before_a_sync_has_no_more_time_than_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sftp_session, "SILENCE_TIMEOUT", SILENCE)
    with running(Sshd(tmp_path / "sshd")) as server:
        tree = SftpTree(server.target(tmp_path))
        file = tree.open("file", OpenMode.CREATE)
        file.flush()
        halted = slow_disk(server)
        file.write(0, b"x")
        begun = time.monotonic()
        with pytest.raises(ConnectionLostError, match="did not answer"):
            file.sync()
        assert time.monotonic() - begun < 60 < sftp_tree.SYNC_PATIENCE
        os.kill(halted, signal.SIGKILL)


def test_a_write_that_the_network_does_not_take_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the other end is halted: its kernel answers, and takes nothing more."""
    monkeypatch.setattr(ssh, "DEAD", 2)
    monkeypatch.setattr(sftp_session, "UNDER_WAY", 1 << 30)  # more than the kernels hold
    with running(Sshd(tmp_path / "sshd")) as server:
        tree = SftpTree(server.target(tmp_path))
        file = tree.open("file", OpenMode.CREATE)
        file.flush()
        tree._session._channel.out_window_size = 1 << 30
        halted = children(server)
        for process in halted:
            os.kill(process, signal.SIGSTOP)
        with pytest.raises(ConnectionLostError):
            file.write(0, bytes(64 << 20))
        for process in halted:
            os.kill(process, signal.SIGKILL)


def test_a_connection_with_a_round_trip_reports_it(sshd: Sshd, tmp_path: Path) -> None:
    with Proxy(sshd.port, delay=0.05) as proxy:
        tree = SftpTree(sshd.target(tmp_path, proxy.port))
        assert tree.round_trip >= 0.1
        tree.close()


@pytest.mark.parametrize("size", [1, 200])
def test_what_is_under_way_is_bounded(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """An image of hundreds of thousands of ranges would else fill the memory."""
    monkeypatch.setattr(sftp_session, "REQUESTS_UNDER_WAY", 16)
    monkeypatch.setattr(sftp_session, "UNDER_WAY", 1000)
    monkeypatch.setattr(sftp_session, "BATCH", 1 << 20)  # answers are taken where they must be
    tree, most = SftpTree(sshd.target(tmp_path)), []
    with tree.open("file", OpenMode.CREATE) as file:
        for number in range(100):
            file.write(number * size, bytes([number]) * size)
            most.append((len(tree._session._pending), tree._session._owed))
    tree.close()
    assert max(most) <= (16, 1000)
    assert max(owed for _, owed in most) <= 1000
    assert (tmp_path / "file").read_bytes() == b"".join(bytes([n]) * size for n in range(100))
