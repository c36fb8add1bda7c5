"""A server that is broken or means harm: an error that says so, and no path outside the folder."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paramiko import sftp

from puavo_repository import retry
from puavo_repository.errors import (
    ConnectionLostError,
    RepositoryError,
    StorageError,
    StorageRefusedError,
)
from puavo_repository.formats import jsonfile
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.survey import sha256_of
from puavo_repository.remote import journal
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.documents import read_whole
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.journal import GENERATIONS
from puavo_repository.remote.sftp import session as sftp_session
from puavo_repository.remote.sftp import tree as sftp_tree
from puavo_repository.remote.sftp.session import LARGEST_REPLY
from puavo_repository.remote.sftp.tree import SftpTree
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Kind
from puavo_repository.rollback import rollback
from puavo_repository.settings.model import Model
from support.foreign import NAMES, changed_bytes, changed_json, changed_values, examples
from support.meddler import Meddle, Meddler, whole
from support.mirrors import changed, image, make_mirror, prepare, publish, tree_of, walk

NOW = Model(connections=1, grace_days=0.0, max_delete=1.0, replace_pause=0.0)
SILENCE = 0.4  # seconds


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mirror = tmp_path_factory.mktemp("foreign") / "mirror"
    make_mirror(mirror, count=2, size=20_000)
    return mirror


@contextmanager
def remote_of(mirror: Path) -> Iterator[Path]:
    """Have a remote that a generation was published to; what lies outside must stay as it is."""
    with tempfile.TemporaryDirectory(prefix="foreign-") as home:
        remote = Path(home, "a", "b", "remote")
        remote.mkdir(parents=True)
        publish(mirror, Target(path=str(remote)), NOW)
        outside = [Path(home, *parts, "x") for parts in ((), ("a",), ("a", "b"))]
        outside += [path.with_name(".x.0123456789abcdef.part") for path in outside]
        for path in (*outside, Path(home, "a", "b", "outside.json")):
            path.write_bytes(b"precious")
            os.utime(path, (1, 1))
        before = around(Path(home), remote)
        yield remote
        assert around(Path(home), remote) == before


def around(home: Path, remote: Path) -> dict[str, bytes]:
    files = (path for path in home.rglob("*") if path.is_file())
    return {str(p): p.read_bytes() for p in files if not p.is_relative_to(remote)}


@contextmanager
def meddled(meddle: Meddle) -> Iterator[Meddler]:
    meddler = Meddler(meddle)
    with (
        mock.patch.object(sftp_tree, "connect", meddler.connect),
        mock.patch.object(sftp_session, "SILENCE_TIMEOUT", SILENCE),
        mock.patch.object(sftp_tree, "SYNC_PATIENCE", SILENCE),
        mock.patch.object(retry, "ATTEMPTS", 1),
    ):
        try:
            yield meddler
        finally:
            meddler.close()


def mischief(kind: str, packet: bytes, chance: random.Random) -> bytes | None:
    """Return what is sent instead of a packet."""
    number = chance.choice([0, 1, 2**16, 2**31, 2**32 - 1])
    large = chance.choice([2**31, 2**62, 2**64 - 1])
    name = chance.choice(NAMES).encode("utf-8", "surrogatepass")
    if kind == "silence":
        return None
    if kind == "huge":
        return struct.pack(">IB", chance.choice([0, LARGEST_REPLY + 1, 2**32 - 1]), packet[0])
    if kind == "cut":
        return whole(packet[: chance.randrange(1, len(packet) + 1)])
    if kind == "unfinished":
        return whole(packet)[:-1]
    if kind == "id":
        return whole(packet[:1] + struct.pack(">I", number) + packet[5:])
    if kind == "type":
        return whole(bytes([chance.choice([0, 2, 101, 102, 103, 104, 105, 201, 255])]) + packet[1:])
    if kind == "status":
        return status(packet, chance.randrange(12))
    if kind == "failure":
        return status(packet, sftp.SFTP_FAILURE)
    if kind == "noise":
        return whole(packet[:5] + chance.randbytes(chance.randrange(200)))
    if kind == "twice":
        return whole(packet) * 2
    if kind == "attributes" and packet[0] in (sftp.CMD_ATTRS, sftp.CMD_NAME):
        at = packet.rfind(b"\0\0\0\x0f")  # the flags of the last attributes
        return whole(packet[: at + 4] + struct.pack(">Q", large) + packet[at + 12 :])
    if kind == "names" and packet[0] == sftp.CMD_NAME:
        entry = struct.pack(">I", len(name)) + name + bytes(4) + packet[-32:]
        return whole(packet[:5] + struct.pack(">I", 1) + entry)
    if kind == "count" and packet[0] == sftp.CMD_NAME:
        return whole(packet[:5] + struct.pack(">I", number) + packet[9:])
    return whole(packet)


def status(packet: bytes, code: int) -> bytes:
    return whole(b"\x65" + packet[1:5] + struct.pack(">I", code) + bytes(8))


MISCHIEF = (
    *("silence", "huge", "cut", "unfinished", "id", "type", "status", "failure", "noise", "twice"),
    *("attributes", "names", "count"),
)


@examples(0.5)
@given(
    kind=st.sampled_from(MISCHIEF),
    first=st.integers(0, 60),
    often=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
@example(kind="attributes", first=2, often=True, seed=0)  # sizes that no memory holds
@example(kind="attributes", first=4, often=True, seed=0)
def test_meddled_replies_end_in_an_error_or_do_not_matter(
    mirror: Path, kind: str, first: int, often: bool, seed: int
) -> None:
    chance = random.Random(seed)

    def meddle(number: int, packet: bytes) -> bytes | None:
        wanted = number >= first if often else number == first
        return mischief(kind, packet, chance) if wanted else whole(packet)

    with remote_of(mirror) as remote, meddled(meddle) as meddler:
        (remote / "CKSUMS").unlink()
        (remote / image(1)).unlink()
        meddler.spares_folder = first > 1
        with suppress(RepositoryError):  # and nothing else
            publish(mirror, Target(path=str(remote), host="meddled"), NOW)
        root = os.path.realpath(remote)
        if meddler.spares_folder:
            for _, path in meddler.paths:
                assert path == root or path.startswith(f"{root}/")
                assert ".." not in path.split("/")


@pytest.mark.parametrize("first", [0, 1, 2, 6, 11])
def test_a_server_that_fails_whatever_it_is_asked_ends_in_an_error(
    mirror: Path, first: int
) -> None:
    def meddle(number: int, packet: bytes) -> bytes:
        fails = number >= first and packet[0] != sftp.CMD_VERSION
        return status(packet, sftp.SFTP_FAILURE) if fails else whole(packet)

    with remote_of(mirror) as remote, meddled(meddle):
        target = Target(path=str(remote), host="meddled")
        with pytest.raises(RepositoryError, match="the server says: 4"):
            publish(mirror, target, NOW)


@pytest.mark.parametrize("answer", [sftp.CMD_HANDLE, sftp.CMD_ATTRS])
def test_an_ok_in_place_of_an_answer_is_an_error(tmp_path: Path, answer: int) -> None:
    begun: list[bool] = []

    def meddle(_number: int, packet: bytes) -> bytes:
        wrong = begun and packet[0] == answer
        return status(packet, sftp.SFTP_OK) if wrong else whole(packet)

    (tmp_path / "one").write_bytes(b"x")
    with meddled(meddle):
        tree = SftpTree(Target(path=str(tmp_path), host="meddled"))
        begun.append(True)
        with pytest.raises(StorageError, match="the server says: 0"):
            read_whole(tree, "one")


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "/" in name or "\0" in name or not name]
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    raw = name.encode()

    def meddle(_number: int, packet: bytes) -> bytes:
        if packet[0] == sftp.CMD_NAME and packet.count(b"one"):
            entry = struct.pack(">II", 1, len(raw)) + raw + bytes(4) + bytes(4)
            return whole(packet[:5] + entry)
        return whole(packet)

    (tmp_path / "one").touch()
    with meddled(meddle):
        tree = SftpTree(Target(path=str(tmp_path), host="meddled"))
        with pytest.raises(StorageRefusedError, match="cannot be in a folder"):
            tree.list("")


def test_a_name_that_is_no_text_is_a_name(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/bad-\xff", os.O_CREAT))
    with meddled(lambda _number, packet: whole(packet)):
        assert list(SftpTree(Target(path=str(tmp_path), host="meddled")).list("")) == ["bad-\udcff"]


def test_what_a_listing_leaves_out_does_not_count_as_gone(tmp_path: Path) -> None:
    """OpenSSH's ends a listing where it cannot read on, and leaves out what it cannot look at."""
    mirror, remote = tmp_path / "mirror", tmp_path / "remote"
    remote.mkdir()
    names = make_mirror(mirror, size=20_000)
    wrong: list[str] = []
    assert publish(mirror, Target(path=str(remote)), NOW).ok
    for rdiff in (mirror / "rdiffs").iterdir():
        rdiff.unlink()
    (mirror / names[1]).write_bytes(changed((mirror / names[1]).read_bytes(), 9, length=100))
    prepare(mirror, names[1:])

    def meddle(_number: int, packet: bytes) -> bytes:
        wrong.extend(walk(remote))
        listed = packet[0] == sftp.CMD_NAME and struct.unpack_from(">I", packet, 5)[0] > 1
        return status(packet, sftp.SFTP_EOF) if listed else whole(packet)

    with meddled(meddle):
        assert publish(mirror, Target(path=str(remote), host="meddled"), NOW).ok
    assert wrong == []
    (mirror / names[0]).unlink()
    assert tree_of(remote) == tree_of(mirror)


@contextmanager
def long_listing(folder: Path, count: int) -> Iterator[SftpTree]:
    """Have a server that lists so many names of a folder in which one lies."""
    listed = 0

    def meddle(_number: int, packet: bytes) -> bytes:
        nonlocal listed
        one = packet[0] == sftp.CMD_NAME and b"one" in packet
        if one or (0 < listed < count and packet[0] == sftp.CMD_STATUS):
            names = [f"{listed + n}".encode() for n in range(5_000)]
            listed += len(names)
            entries = b"".join(struct.pack(">I", len(n)) + n + bytes(8) for n in names)
            return whole(b"\x68" + packet[1:5] + struct.pack(">I", len(names)) + entries)
        return whole(packet)

    (folder / "one").touch()
    with meddled(meddle):
        yield SftpTree(Target(path=str(folder), host="meddled"))


def test_a_listing_without_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_tree, "LARGEST_LISTING", 10_000_000)
    with (
        long_listing(tmp_path, 1 << 40) as tree,
        pytest.raises(StorageRefusedError, match="without end"),
    ):
        tree.list("")


def test_answers_without_names_end_a_listing(tmp_path: Path) -> None:
    empty = 0

    def meddle(_number: int, packet: bytes) -> bytes:
        nonlocal empty
        is_end = packet[0] == sftp.CMD_STATUS and packet[5:9] == b"\0\0\0\1"
        if (packet[0] == sftp.CMD_NAME and b"one" in packet) or (is_end and empty < 100):
            empty += 1
            return whole(b"\x68" + packet[1:5] + bytes(4))
        return whole(packet)

    (tmp_path / "one").touch()
    with meddled(meddle):
        assert SftpTree(Target(path=str(tmp_path), host="meddled")).list("") == {}
    assert empty == 1


def test_a_folder_with_many_foreign_files_is_listed(tmp_path: Path) -> None:
    with long_listing(tmp_path, 150_000) as tree:
        assert len(tree.list("")) == 150_000


@pytest.mark.parametrize("length", [0, LARGEST_REPLY + 1, 2**32 - 1])
def test_a_packet_of_an_impossible_length_is_not_waited_for(tmp_path: Path, length: int) -> None:
    with (
        meddled(lambda _number, packet: struct.pack(">I", length) + packet),
        mock.patch.object(sftp_session, "SILENCE_TIMEOUT", 600.0),
        pytest.raises(ConnectionLostError, match="not SFTP"),
    ):
        SftpTree(Target(path=str(tmp_path), host="meddled"))


ENTRY = [3, "a" * 64, 5, [1, 2]]
JOURNAL = {
    "version": 1,
    "generation": 3,
    "verified": True,
    "rejected": {image(1): "b" * 64},
    "files": {image(1): ENTRY, "CKSUMS": ENTRY, "rdiffs/x.rdiff": ENTRY, "meta/x.json": ENTRY},
}
GENERATION = {
    "at": 5,
    "step_back": None,
    "rejected": {},
    "replaced": {"meta/x.json": "{}", "meta/y.json": None},
}
LOCK = {"token": "t", "host": "h", "machine": "m", "process": 1, "started": "1"}


def sealed_again(document: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Draw a document whose checksum is right, whoever wrote it; or damage."""
    whole_ones = changed_values(document).filter(bool).map(_seal)
    return whole_ones | changed_bytes(jsonfile.dumps_sealed(document)) | changed_json(document)


def _seal(values: Any) -> bytes:
    try:
        return jsonfile.dumps_sealed(values)
    except (ValueError, AttributeError, TypeError):
        return json.dumps(values).encode()


@given(sealed_again(JOURNAL))
@example(jsonfile.dumps_sealed({**JOURNAL, "files": {"../../x": ENTRY}}))
@example(jsonfile.dumps_sealed({**JOURNAL, "generation": -1}))
@example(jsonfile.dumps_sealed({**JOURNAL, "files": {image(1): [3, "a", "b", ["c", None]]}}))
def test_a_journal_is_understood_or_refused(content: bytes) -> None:
    try:
        found = journal.Journal.parse(content)
    except ValueError:
        return
    assert found.generation >= 0
    for path, entry in found.files.items():
        assert not path.startswith(("/", "."))
        assert ".." not in path.split("/")
        assert entry.unnamed is None or isinstance(entry.unnamed.server + entry.unnamed.local, int)
    assert journal.Journal.parse(found.render()) == found


@pytest.mark.parametrize("entry", [[], [8], [8, "a"], [8, "a", 1]])
def test_an_entry_that_is_cut_short_is_damage(entry: list[Any]) -> None:
    """Every version wrote four fields at least."""
    with pytest.raises(ValueError, match="not a journal"):
        journal.Journal.parse(jsonfile.dumps_sealed({**JOURNAL, "files": {"CKSUMS": entry}}))


@pytest.mark.parametrize("path", ["../x.json", "x.img", "rdiffs/x", "meta/../x", "meta/.x"])
def test_a_record_that_names_what_is_no_metadata_is_damage(tmp_path: Path, path: str) -> None:
    tree = FolderTree(Target(path=str(tmp_path)))
    (tmp_path / GENERATIONS).mkdir(parents=True)
    for replaced, readable in (({"meta/x.json": "{}"}, True), ({path: "{}"}, False)):
        content = jsonfile.dumps_sealed({**GENERATION, "replaced": replaced})
        (tmp_path / GENERATIONS / "1.json").write_bytes(content)
        assert (journal.load_generation(tree, 1) is not None) == readable


@pytest.mark.parametrize("name", ["../.x.part", "x.part", ".x", "meta/../.x.part", image(1)])
def test_a_part_that_is_none_of_ours_is_not_gone_on_with(tmp_path: Path, name: str) -> None:
    tree = FolderTree(Target(path=str(tmp_path)))
    tree.make_folder(journal.FOLDER)
    for one, known in ((f".{image(1)}.part", True), (name, False)):
        part = {"name": one, "size": 1, "sha256": "a" * 64, "synced": 1, "proven": False}
        content = jsonfile.dumps_sealed({"parts": {image(1): part}})
        (tmp_path / journal.PARTS).write_bytes(content)
        parts = journal.Parts(tree, publisher_lock.PublisherLock(tree))
        assert (image(1) in parts.known) == known


@given(changed_json(LOCK))
@example(b"[" * 100_000)
@example(json.dumps({**LOCK, "process": "../../etc"}).encode())
def test_a_lock_is_understood_or_nobodys(content: bytes) -> None:
    found = publisher_lock._parse(content)
    assert found is None or isinstance(found.is_gone(), bool)


@examples(0.3)
@given(
    own=sealed_again(JOURNAL), past=sealed_again(GENERATION), lock=changed_json(LOCK) | st.none()
)
@example(
    own=jsonfile.dumps_sealed({**JOURNAL, "files": {"../x": [8, "a", 1, None], "../../x": ENTRY}}),
    past=jsonfile.dumps_sealed({**GENERATION, "replaced": {"../outside.json": "{}"}}),
    lock=None,
)
@example(
    own=jsonfile.dumps_sealed({**JOURNAL, "generation": 1}),
    past=jsonfile.dumps_sealed({**GENERATION, "at": 1 << 62}),
    lock=None,
)
def test_a_hostile_journal_leads_nowhere(
    mirror: Path, own: bytes, past: bytes, lock: bytes | None
) -> None:
    with remote_of(mirror) as remote:
        (remote / journal.PATH).write_bytes(own)
        (remote / GENERATIONS / "1.json").write_bytes(past)
        (remote / GENERATIONS / "0.json").write_bytes(past)
        (remote / GENERATIONS / f"{'9' * 100}.json").write_bytes(past)
        if lock is not None:
            path = remote / publisher_lock.PATH
            path.write_bytes(lock)
            os.utime(path, (1, 1))
        target = Target(path=str(remote))
        with Publisher(mirror, target, NOW) as publisher, suppress(RepositoryError):  # and no other
            assert "\n".join(map(str, rollback.steps(publisher)))
        with suppress(RepositoryError):
            publish(mirror, target, NOW)
            with Publisher(mirror, target, NOW) as publisher:
                rollback.steps(publisher)
                rollback.roll_back(publisher, None)


def test_a_hostile_remote_metadata_leads_nowhere(mirror: Path) -> None:
    for name in NAMES:
        with remote_of(mirror) as remote:
            entry = {"filename": name, "size": 1, "sha256": "a" * 64}
            document = {"x": {"images": [entry, {**entry, "diffs": [entry]}]}}
            (remote / "meta" / "x.json").write_text(json.dumps(document))
            (remote / journal.PATH).unlink()
            assert publish(mirror, Target(path=str(remote)), NOW).ok
            assert FolderTree(Target(path=str(remote))).list("")["meta"].kind is Kind.FOLDER


@pytest.mark.timeout(60)
def test_a_file_that_is_shorter_than_its_server_says_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    tree = FolderTree(Target(path=str(tmp_path)))
    assert sha256_of(tree, "file", 1 << 60) == hashlib.sha256(b"short").hexdigest()
