"""known_hosts is read as OpenSSH reads it, and whatever is in it, it never ends in a traceback."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from puavo_repository.errors import HostKeyError
from puavo_repository.remote.sftp.ssh import known_keys
from puavo_repository.remote.sftp.tree import SftpTree
from puavo_repository.remote.target import Target
from support.servers import Sshd, make_key, tool

DSS = "ssh-dss AAAAB3NzaC1kc3MAAACBAO" + "A" * 40
OLD = "1024 35 159612345678901234567890"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The public key of some server."""
    made = make_key(tmp_path_factory.mktemp("keys") / "key").with_suffix(".pub")
    return " ".join(made.read_text().split()[:2])


def known(tmp_path: Path, text: str, host: str = "www.example", port: int = 22) -> list[str]:
    path = tmp_path / "known_hosts"
    path.write_text(text)
    target = Target(path="/x", host=host, port=port, known_hosts=(str(path),))
    found = [one.key for one in known_keys(target) if not one.marker]
    return [f"{key.get_name()} {key.get_base64()}" for key in found]


@pytest.mark.parametrize(
    ("hosts", "host", "port", "matches"),
    [
        ("www.example", "www.example", 22, True),
        ("WWW.example", "www.Example", 22, True),
        ("other,www.example", "www.example", 22, True),
        ("other", "www.example", 22, False),
        ("*", "www.example", 22, True),
        ("*.example", "www.example", 22, True),
        ("w?w.example", "www.example", 22, True),
        ("w[w]w.example", "www.example", 22, False),
        ("*.example,!www.example", "www.example", 22, False),
        ("!www.example,*.example", "www.example", 22, False),
        ("*.example,!other.example", "www.example", 22, True),
        ("!other.example", "www.example", 22, False),
        ("www.example", "www.example", 2222, False),
        ("[www.example]:2222", "www.example", 2222, True),
        ("[*.example]:2222", "www.example", 2222, True),
        ("[::1]:2222", "::1", 2222, True),
        ("::1", "::1", 22, True),
        ("|1|nonsense", "www.example", 22, False),
    ],
)
def test_a_line_is_for_the_hosts_that_it_names(
    tmp_path: Path, key: str, hosts: str, host: str, port: int, matches: bool
) -> None:
    assert known(tmp_path, f"{hosts} {key} a comment\n", host, port) == [key] * matches
    path = tmp_path / "known_hosts"
    name = host if port == 22 else f"[{host}]:{port}"
    command = [tool("ssh-keygen"), "-F", name, "-f", str(path)]
    asked = subprocess.run(command, capture_output=True, check=False)
    assert (asked.returncode == 0) == matches, "as OpenSSH reads it"


def test_hashed_names_are_found(tmp_path: Path, key: str) -> None:
    path = tmp_path / "known_hosts"
    known(tmp_path, f"www.example {key}\n[www.example]:2222 {key}\n")
    subprocess.run([tool("ssh-keygen"), "-q", "-H", "-f", str(path)], check=True)
    text = path.read_text()
    assert "www.example" not in text
    for port, count in ((22, 1), (2222, 1), (2223, 0)):
        assert len(known(tmp_path, text, "WWW.example", port)) == count


@pytest.mark.parametrize(
    ("line", "logged"),
    [
        (f"www.example {DSS}", True),
        (f"www.example {OLD}", True),
        (f"other.example {DSS}", False),
        ("www.example ssh-ed25519 AAAA", True),
        ("www.example ssh-ed25519 no/base64!", True),
        ("www.example ssh-ed25519", True),
        ("www.example", True),
        ("|1|x|y ssh-ed25519 AAAA", True),
        ("@revoked www.example", True),
        ("@strange www.example ssh-ed25519 AAAA", True),
        ("# a comment", False),
        ("   ", False),
        ("\x00\xff\x1b garbage", True),
    ],
)
def test_a_line_that_cannot_be_used_is_skipped_and_named(
    tmp_path: Path, key: str, line: str, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # every connection reads it again
            assert known(tmp_path, f"\n{line}\nwww.example {key}\n") == [key]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == logged
    if logged:
        assert f"{tmp_path / 'known_hosts'}:2" in lines[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["@revoked", "@cert-authority", "www.example", "*", "!", ",", "|1|", "|"])
        | st.sampled_from(["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "AAAA", " ", "\t"])
        | st.sampled_from(["AAAAC3NzaC1lZDI1NTE5AAAAIA==", "AAAAB3NzaC1yc2EAAAADAQABAAAA", "["])
        | st.binary(max_size=8).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
        max_size=8,
    )
)
@example(["\x0b"])
def test_whatever_is_in_it_the_good_line_counts(
    tmp_path: Path, key: str, pieces: list[str]
) -> None:
    for joint in ("", " "):
        line = joint.join(pieces).replace("\n", "").replace("\r", "")
        path = tmp_path / "known_hosts"
        path.write_bytes(os.fsencode(f"{line}\nwww.example {key}\n"))
        target = Target(path="/x", host="www.example", known_hosts=(str(path),))
        assert key in [f"{k.key.get_name()} {k.key.get_base64()}" for k in known_keys(target)]


def connect(sshd: Sshd, tmp_path: Path, text: str) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(text)
    target = dataclasses.replace(sshd.target(tmp_path), host_key="", known_hosts=(str(path),))
    SftpTree(target).close()


def test_a_revoked_key_is_refused(sshd: Sshd, tmp_path: Path, key: str) -> None:
    name = f"[127.0.0.1]:{sshd.port}"
    connect(sshd, tmp_path, f"@revoked * {key}\n{name} {sshd.host_key}\n")
    for hosts in ("*", name):
        for text in (
            f"{name} {sshd.host_key}\n@revoked {hosts} {sshd.host_key}\n",
            f"@revoked {hosts} {sshd.host_key}\n",
        ):
            with pytest.raises(HostKeyError, match=r"is revoked.*known_hosts:\d") as caught:
                connect(sshd, tmp_path, text)
            assert "ssh-ed25519 SHA256:" in str(caught.value)
    connect(sshd, tmp_path, f"@revoked other {sshd.host_key}\n{name} {sshd.host_key}\n")


def test_an_authority_is_no_host_key(sshd: Sshd, tmp_path: Path) -> None:
    for hosts in ("*", f"[127.0.0.1]:{sshd.port}"):
        with pytest.raises(HostKeyError, match=r"is unknown.*certificates.*ssh-keyscan"):
            connect(sshd, tmp_path, f"@cert-authority {hosts} {sshd.host_key}\n")
    with pytest.raises(HostKeyError, match=r"is unknown"):
        connect(sshd, tmp_path, f"@cert-authority other {sshd.host_key}\n")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, key: str) -> None:
    assert known(tmp_path, f"www.example {key}\n") == [key]
    for path in (tmp_path, tmp_path / "loop"):
        (tmp_path / "loop").unlink(missing_ok=True)
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(HostKeyError, match=f"{path}: cannot be read"):
            known_keys(Target(path="/x", host="www.example", known_hosts=(str(path),)))
    missing = Target(path="/x", host="www.example", known_hosts=(str(tmp_path / "none"),))
    assert known_keys(missing) == []


def test_the_way_out_names_the_file_that_was_looked_in(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match=f">> {tmp_path}/known_hosts"):
        connect(sshd, tmp_path, "")
