"""A remote is named by an URL or a connection: read as meant or refused, and no secret is shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from puavo_repository.errors import SettingsError
from puavo_repository.remote.documents import write_whole
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.sftp.tree import SftpTree
from puavo_repository.remote.target import (
    Target,
    parse_target,
    target_of_connection,
    without_password,
)
from puavo_repository.remote.tree import RemoteTree
from support.servers import Sshd

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "path", "host", "port", "user"),
    [
        ("sftp://me@host/srv/mirror", "/srv/mirror", "host", 22, "me"),
        ("sftp://host:2222/a%20b/%C3%A4/", "/a b/ä", "host", 2222, ""),
        ("sftp://me@[::1]:22/a/./b", "/a/b", "::1", 22, "me"),
        ("sftp://m%40e%3A@Host:/%40", "/@", "host", 22, "m@e:"),
        ("sftp://host//srv///mirror//", "/srv/mirror", "host", 22, ""),
        ("sftp://bücher.example/x", "/x", "bücher.example", 22, ""),
        ("SFTP://host/a%23b%3Fc%25", "/a#b?c%", "host", 22, ""),
        ("file:///srv/my%20mirror", "/srv/my mirror", "", 22, ""),
        ("file:///ä b@c", "/ä b@c", "", 22, ""),
    ],
)
def test_urls_are_read(url: str, path: str, host: str, port: int, user: str) -> None:
    target = parse_target(url)
    assert (target.path, target.host, target.port, target.user) == (path, host, port, user)
    assert parse_target(target.url) == target


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "no place to publish to"),
        ("host:/path", "no place to publish to"),
        ("http://host/x", "no place to publish to"),
        ("sftp:///x", "no place to publish to"),
        ("file://host/x", "no place to publish to"),
        ("file://me@/x", "no place to publish to"),
        ("file:relative", "no place to publish to"),
        ("sftp://host", "names no folder"),
        ("sftp://host/", "names no folder"),
        ("sftp://host//./", "names no folder"),
        ("file:///", "names no folder"),
        ("sftp://host/%2F", "names no folder"),
        ("sftp://host:99999/x", "unusable port"),
        ("sftp://host:0/x", "unusable port"),
        ("sftp://host:x/x", "unusable host or port"),
        ("sftp://:22/x", "unusable host or port"),
        ("sftp://me@:/x", "unusable host or port"),
        ("sftp://ho st/x", "unusable host or port"),
        ("sftp://a..b/x", "unusable host or port"),
        ("sftp://-oProxyCommand=x/x", "unusable host or port"),
        ("sftp://[::g]/x", "unusable host or port"),
        ("sftp://host/a#b", "Write %23 for #"),
        ("sftp://host/a?b", "%3F for ?"),
        ("sftp://host?/a", "%3F for ?"),
        ("file:///a#b", "Write %23 for #"),
        ("sftp://host/a%00b", "control character"),
        ("sftp://host/a\nb", "control character"),
        ("\x01sftp://host/a", "control character"),
        ("sftp://m%0Ae@host/a", "control character"),
        ("sftp://m%FFe@host/a", "not UTF-8"),
        ("sftp://host/100%", "Write %25 for %"),
        ("sftp://host/%zz", "Write %25 for %"),
        ("sftp://host/a/../b", "leads upwards"),
        ("sftp://host/a/%2E%2E", "leads upwards"),
        ("sftp://host/a\ud800", "no name of a file"),
        ("sftp://host/a@b", "%40 for @"),
        (f"sftp://u:{SECRET}@host/x", "has a password in it"),
        (f"sftp://u:a@{SECRET}@host/x", "has a password in it"),
        (f"sftp://u:a#{SECRET}@host/x", "@host/x"),
        (f"sftp://u:a?{SECRET}@host/x", "@host/x"),
        (f"sftp://u:a/{SECRET}@host/x", "@host/x"),
        (f"sftp://u:22/{SECRET}@host/x", "@host/x"),
        (f"ftp://u:{SECRET}@host/x", "ftp://…@host/x"),
        (f"u:{SECRET}@host:/x", "…@host:/x"),
        (f"sftp://u:{SECRET}", "unusable host or port"),
        (f"sftp://u:{SECRET}/x", "unusable host or port"),
    ],
)
def test_bad_urls_are_refused_and_no_password_is_shown(url: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_target(url)
    assert says in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in without_password(url)


PIECES = st.lists(
    st.sampled_from(["sftp", "file", "://", "/", ":", "@", "?", "#", "%", "%00", "%FF", "%2F", "["])
    | st.sampled_from(["]", "..", ".", "host", "u", "22", "::1", " ", "\0", "\n", "\udcff", "ä"])
    | st.text(max_size=3)
    | st.text(st.characters(categories=["Cs", "Cc", "Nd"]), max_size=2),
    max_size=12,
).map("".join)
SPECIAL = st.text("@/?#:%[]. 2u", max_size=5)


@given(PIECES | st.tuples(st.just("sftp://host/"), PIECES).map("".join))
@example("sftp://" + "9" * 5000 + ":" + "9" * 5000 + "/x")
@example("sftp://" + "a" * 70 + "/x")
def test_any_text_is_a_target_or_a_refusal(url: str) -> None:
    try:
        target = parse_target(url)
    except SettingsError:
        return
    assert target.path.startswith("/")
    assert not {"..", ".", ""} & set(target.path[1:].split("/"))
    assert not any(ord(c) < 32 for c in target.path + target.user + target.host)
    assert parse_target(target.url) == target
    assert os.fsdecode(os.fsencode(target.path)) == target.path


@given(before=SPECIAL, after=SPECIAL, rest=SPECIAL, start=st.sampled_from(["sftp://", "", "x://"]))
def test_no_part_of_a_password_is_shown(before: str, after: str, rest: str, start: str) -> None:
    url = f"{start}u:{before}{SECRET}{after}@host/{rest}"
    with pytest.raises(SettingsError) as caught:
        parse_target(url)
    assert SECRET not in str(caught.value)
    assert SECRET not in without_password(url)


def test_what_can_be_shown_is_shown() -> None:
    assert without_password("sftp://me@host:2222/a%20b") == "sftp://me@host:2222/a%20b"
    assert without_password("file:///a b") == "file:///a%20b"
    for connection in ("a_connection", "prod:mirror", "test:mirror"):
        assert without_password(connection) == connection


@pytest.mark.parametrize("kind", ["file", "sftp"])
@pytest.mark.parametrize("name", ["a#b", "what?", "100%", "%41", "\udcff", " x ", "a@b", "x\\y"])
def test_a_folder_of_any_name_is_reached(tmp_path: Path, sshd: Sshd, kind: str, name: str) -> None:
    (tmp_path / name).mkdir()
    plain = Target(str(tmp_path / name), host="127.0.0.1" if kind == "sftp" else "")
    read = parse_target(plain.url)
    assert read == plain
    tree: RemoteTree = (
        SftpTree(sshd.target(read.path)) if kind == "sftp" else FolderTree(Target(read.path))
    )
    write_whole(tree, "file", b"x")
    tree.close()
    assert (tmp_path / name / "file").read_bytes() == b"x"
    assert os.listdir(tmp_path) == [name]


def connection(**fields: Any) -> Target:
    given = {"host": "h", "port": None, "login": "", "password": "", **fields}
    extra = given.pop("extra", {"path": "/x"})
    return target_of_connection("mirror", **given, extra=extra)


def test_a_connection_becomes_a_target() -> None:
    extra = {"path": "/srv/m%20#?/", "host_key": "ssh-ed25519 AAAA", "key_file": "k"}
    target = connection(login="me", password="p", extra={**extra, "private_key": None})
    assert target == Target(
        path="/srv/m%20#?",
        host="h",
        port=22,
        user="me",
        password="p",
        host_key="ssh-ed25519 AAAA",
        key_file="k",
        connection="mirror",
    )
    assert (target.name, target.url) == ("mirror", "sftp://me@h/srv/m%2520%23%3F")
    assert connection(host="[::1]").host == connection(host="::1").host == "::1"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"extra": {}}, "path"),
        ({"extra": {"path": None}}, "path"),
        ({"extra": {"path": "srv"}}, "path"),
        ({"extra": {"path": "/"}}, "names no folder"),
        ({"extra": {"path": "/a/../b"}}, "leads upwards"),
        ({"extra": {"path": "/a\0b"}}, "control character"),
        ({"extra": {"path": "/a\ud800"}}, "no name of a file"),
        ({"host": None}, "a host"),
        ({"host": f"u:{SECRET}@host"}, "unusable host"),
        ({"host": "sftp://host"}, "unusable host"),
        ({"port": 70_000}, "unusable port"),
        ({"login": "a\nb"}, "control character"),
    ],
)
def test_a_bad_connection_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        connection(**fields)
    assert str(caught.value).startswith("connection mirror: ")
    assert says in str(caught.value)
    assert SECRET not in str(caught.value)


@given(st.dictionaries(st.sampled_from(["path", "host_key", "key_file"]), st.none() | st.text()))
def test_any_extra_is_a_target_or_a_refusal(extra: dict[str, Any]) -> None:
    try:
        target = connection(extra={"path": "/x", **extra})
    except SettingsError:
        return
    assert parse_target(target.url).path == target.path
