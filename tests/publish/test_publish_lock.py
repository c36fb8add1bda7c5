"""What a publisher does that has lost its lock, or never had it: nothing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from puavo_repository import retry
from puavo_repository.errors import (
    LockedError,
    PublishError,
)
from puavo_repository.publish import transfer, upload
from puavo_repository.publish.plan import Transfer
from puavo_repository.publish.publisher import LockedRemote, Publisher
from puavo_repository.remote import journal
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.documents import read_whole
from puavo_repository.remote.folder import FolderTree, _FolderFile
from puavo_repository.remote.lock import PublisherLock
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import RemoteTree
from puavo_repository.rollback import rollback
from support.mirrors import (
    KEEP,
    NOW,
    SERIES,
    add_image,
    documents,
    image,
    journal_of,
    other_rdiff,
    prepare,
    publish,
    tree_of,
    walk,
)

OTHER = "puavo-os-other-bookworm-amd64"


def roll_back(mirror: Path, target: Target, to: int | None = None) -> None:
    with Publisher(mirror, target, KEEP) as publisher:
        rollback.roll_back(publisher, to)


def two_nights(mirror: Path, remote: Path, folder: Target) -> tuple[dict[str, bytes], list[str]]:
    """Publish twice; return what clients saw after the first, and the images of the second."""
    assert publish(mirror, folder, KEEP).ok
    seen = documents(remote)
    names = add_image(mirror, [image(1), image(2)])
    assert publish(mirror, folder, KEEP).ok
    return seen, names


def make_stale(remote: Path) -> None:
    """Have the lock look as if nobody had given a sign of life for long."""
    long_ago = time.time() - publisher_lock.EXPIRY - 5
    os.utime(remote / publisher_lock.PATH, (long_ago, long_ago))


def test_a_rollback_between_a_look_and_the_lock_is_not_undone(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, names = two_nights(mirror, remote, folder)
    add_image(mirror, names, seed=5)
    acquire = PublisherLock.acquire

    def later(lock: PublisherLock) -> None:
        monkeypatch.setattr(PublisherLock, "acquire", acquire)
        roll_back(mirror, folder)
        acquire(lock)

    monkeypatch.setattr(PublisherLock, "acquire", later)
    assert not publish(mirror, folder, KEEP).ok
    assert documents(remote) == good
    assert image(3) in journal_of(folder).rejected


def test_who_lost_the_lock_writes_nothing(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one took over while this one slept before it replaced a file, and rolled back."""
    good, names = two_nights(mirror, remote, folder)
    other_rdiff(mirror)
    prepare(mirror, names)
    left: list[dict[str, bytes]] = []

    def sleep(_seconds: float) -> None:
        monkeypatch.undo()
        make_stale(remote)
        roll_back(mirror, folder, 1)
        left.append(tree_of(remote))

    monkeypatch.setattr("puavo_repository.publish.switch.sleep", sleep)
    with pytest.raises(LockedError):
        publish(mirror, folder, KEEP.model_copy(update={"replace_pause": 1000.0}))
    assert left == [tree_of(remote)]
    assert documents(remote)[f"meta/{SERIES}.json"] == good[f"meta/{SERIES}.json"]
    assert image(3) in journal_of(folder).rejected


def test_who_lost_the_lock_takes_no_part_that_waits(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one took over, whose proven part waits to be switched to, while this one slept."""
    _, names = two_nights(mirror, remote, folder)
    other_rdiff(mirror)
    prepare(mirror, names)
    with Publisher(mirror, folder, KEEP) as publisher:
        upload.upload(publisher)
    (part,) = (remote / "rdiffs").glob(".*")
    rdiff = next((mirror / "rdiffs").glob("*.rdiff"))
    rdiff.write_bytes(rdiff.read_bytes()[:-1] + b"\x01b\x00")
    prepare(mirror, names)

    def sleep(*_: object) -> str:
        monkeypatch.undo()
        make_stale(remote)
        PublisherLock(FolderTree(folder)).acquire()
        return ""

    monkeypatch.setattr(transfer, "proven_part", sleep)
    with Publisher(mirror, folder, KEEP) as publisher, pytest.raises(LockedError):
        upload.upload(publisher)
    assert part.exists()


@pytest.mark.parametrize(
    "path",
    [f"meta/{SERIES}.json", "CKSUMS", journal.PATH, f"{journal.GENERATIONS}/2.json"],
)
def test_a_lock_that_is_lost_while_a_document_is_written_is_noticed(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A server's disk may take its time; the lock is looked at when all is on it."""
    assert publish(mirror, folder, KEEP).ok
    before = read_whole(FolderTree(folder), path)
    add_image(mirror, [image(1), image(2)])
    real, above, _, name = _FolderFile.sync, *path.rpartition("/")
    part = f"{above}/.{name}." if above else f".{name}."

    def sync(file: _FolderFile) -> None:
        real(file)
        if file._path.startswith(part):
            monkeypatch.undo()
            make_stale(remote)
            PublisherLock(FolderTree(folder)).acquire()

    monkeypatch.setattr(_FolderFile, "sync", sync)
    with pytest.raises(LockedError):
        publish(mirror, folder, KEEP)
    assert read_whole(FolderTree(folder), path) == before


def test_what_a_sleeper_left_goes_in_a_night_without_news(
    mirror: Path, remote: Path, folder: Target
) -> None:
    """Another publisher took over and named the file; the sleeper found its name taken."""
    assert publish(mirror, folder, KEEP).ok
    item = Transfer(image(1), 5, "a" * 64)
    (remote / item.part("0" * 16)).write_bytes(b"left")
    assert publish(mirror, folder, KEEP).ok
    assert tree_of(remote) == tree_of(mirror)
    assert not list(remote.glob(".*.part"))


def test_the_lock_is_kept_alive_for_as_long_as_clients_are_given_time(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, KEEP).ok
    other_rdiff(mirror)
    prepare(mirror, [image(1), image(2)])
    monkeypatch.setattr(publisher_lock, "BEAT", 0.02)
    alive: list[bool] = []
    real = time.sleep

    def sleep(_seconds: float) -> None:
        make_stale(remote)
        end = time.monotonic() + 60
        while (remote / publisher_lock.PATH).stat().st_mtime < time.time() - 60:
            if time.monotonic() > end:
                break
            real(0.01)
        alive.append(time.monotonic() < end)

    monkeypatch.setattr("puavo_repository.publish.switch.sleep", sleep)
    assert publish(mirror, folder, KEEP).ok
    assert alive == [True]


def test_the_lock_is_looked_at_before_each_write_that_others_rely_on(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, NOW).ok
    other_rdiff(mirror)
    names = add_image(mirror, [image(1), image(2)])
    orphan = ".gone.img.0123456789abcdef.01234567.part"  # nobody goes on with it
    (remote / orphan).write_bytes(b"a part")
    (remote / names[-1]).write_bytes(b"no metadata names it")
    writes: dict[str, list[bool]] = {}
    sure = threading.local()
    check = PublisherLock.check

    def checked(lock: PublisherLock, tree: RemoteTree | None = None) -> None:
        check(lock, tree)
        sure.now = getattr(sure, "now", False) or tree is None  # a sign of life is for no write

    def kind_of(path: str) -> str:
        """Return what kind of file that others rely on this is, if it is one."""
        if path == orphan:
            return "part"
        if Path(path).name.startswith("."):
            return ""
        if path.endswith((".img", ".rdiff")):
            return "data" if (remote / path).exists() else ""
        if path.startswith(journal.GENERATIONS):
            return "generation"
        kinds = {journal.PATH: "journal", journal.PARTS: "parts", "CKSUMS": "CKSUMS"}
        return kinds.get(path, "metadata" if path.startswith("meta/puavo") else "")

    def noted(real: Callable[..., object]) -> Callable[..., object]:
        def change(*arguments: object) -> object:
            kind = kind_of(str(arguments[-1]))
            if kind:
                writes.setdefault(kind, []).append(getattr(sure, "now", False))
                sure.now = False
            return real(*arguments)

        return change

    monkeypatch.setattr(PublisherLock, "check", checked)
    monkeypatch.setattr(FolderTree, "remove", noted(FolderTree.remove))
    monkeypatch.setattr(FolderTree, "rename", noted(FolderTree.rename))
    assert publish(mirror, folder, NOW).withdrawn
    prepare(mirror, [image(2)], series=OTHER, pairs=[])
    prepare(mirror, names[1:])
    assert publish(mirror, folder, NOW).pruned
    (mirror / "meta" / f"{OTHER}.json").unlink()
    prepare(mirror, names[1:])
    assert not publish(mirror, folder, NOW).failed
    assert not (remote / "meta" / f"{OTHER}.json").exists()
    assert len(writes) == 7
    assert {kind: all(found) for kind, found in writes.items()} == dict.fromkeys(writes, True)


def test_a_new_file_takes_nobody_s_name(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another publisher may have put another file there, and told clients, while this one slept."""
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)
    assert publish(mirror, folder, KEEP).ok
    add_image(mirror, [image(1), image(2)])
    rename_into_place = transfer.rename_into_place

    def too_late(tree: RemoteTree, item: Transfer, part: str) -> int:
        if item.path == image(3):
            (remote / image(3)).write_bytes(b"another's")
        return rename_into_place(tree, item, part)

    monkeypatch.setattr(transfer, "rename_into_place", too_late)
    assert image(3) in publish(mirror, folder, KEEP).failed
    assert (remote / image(3)).read_bytes() == b"another's"
    monkeypatch.undo()
    assert publish(mirror, folder, KEEP).ok
    assert walk(remote) == []


def test_what_failed_before_the_lock_was_lost_is_told_as_well(
    mirror: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def failing(item: Transfer, _remote: LockedRemote) -> None:
        if not told:
            told.append(item.path)
            raise PublishError(item.path, "its content is not what the metadata describes")
        raise LockedError("the remote", "another publisher has taken over")

    monkeypatch.setattr(upload, "transfer", failing)
    monkeypatch.setattr(upload, "LARGE", 0)  # one after the other
    with Publisher(mirror, folder, NOW) as publisher:
        with pytest.raises(LockedError):
            upload.upload(publisher)
        (why,) = publisher.report.failed.values()
    assert "its content is not" in why
