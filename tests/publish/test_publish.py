"""Publishing a mirror, to a folder and to a real server: what clients find."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puavo_repository import retry
from puavo_repository.errors import LockedError, PublishError, StorageError
from puavo_repository.mirror import published
from puavo_repository.mirror.locks import locked
from puavo_repository.progress import Progress, Watcher
from puavo_repository.publish import run as publishing
from puavo_repository.publish import transfer, upload
from puavo_repository.publish.plan import Plan, RemoteState, Transfer, sha256
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.send import send
from puavo_repository.remote import journal
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.documents import write_whole
from puavo_repository.remote.folder import FolderTree, _FolderFile
from puavo_repository.remote.journal import GENERATIONS
from puavo_repository.remote.lock import Holder, PublisherLock
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import RemoteTree
from puavo_repository.settings.model import Model
from support.audits import flip
from support.mirrors import (
    NOW,
    SERIES,
    add_image,
    images_of,
    publish,
    tree_of,
    walk,
)
from support.servers import Sshd, elsewhere

IMAGES = 3
GUARDED = Model(replace_pause=0.0)


def test_clients_find_just_what_the_mirror_describes(
    mirror: Path, remote: Path, target: Target
) -> None:
    (mirror / "undescribed.img").write_bytes(b"x")
    found = publish(mirror, target, GUARDED)
    (mirror / "undescribed.img").unlink()
    assert found.ok, found.failed
    assert tree_of(remote) == tree_of(mirror)
    assert walk(remote) == []
    assert found.generation == 1


def test_publishing_again_changes_and_sends_nothing(
    mirror: Path, remote: Path, target: Target
) -> None:
    publish(mirror, target, GUARDED)

    def shape() -> dict[Path, tuple[int, int, int]]:
        found = {path: path.stat() for path in remote.rglob("*")}
        return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in found.items()}

    before = shape()
    found = publish(mirror, target, GUARDED)
    assert shape() == before
    assert (found.generation, found.uploaded, found.assembled, found.present) == (1, {}, {}, 9)
    assert found.bytes_sent < 4_000


def test_the_next_night_sends_only_what_is_new(
    mirror: Path, remote: Path, target: Target, sshd_without_copy: Sshd
) -> None:
    publish(mirror, target, GUARDED)
    every = add_image(mirror, images_of(mirror))
    found = publish(mirror, target, GUARDED)
    new = every[-1]
    assert tree_of(remote) == tree_of(mirror)
    can_copy = target.port != sshd_without_copy.port
    assert (new in found.assembled, new in found.uploaded) == (can_copy, not can_copy)
    assert found.generation == 2
    rdiffs = sum(found.uploaded.values())
    assert found.bytes_sent < rdiffs * 1.1 + 60_000


def test_a_dry_run_says_what_would_happen_and_touches_nothing(
    mirror: Path, remote: Path, target: Target
) -> None:
    found = publish(mirror, target, GUARDED, dry_run=True)
    assert list(remote.iterdir()) == []
    assert any("to upload" in line for line in found.plan)
    assert found.dry_run
    assert not (mirror / ".puavo-repository" / "id").exists()
    json.dumps(found.to_dict())


def test_progress_reaches_the_size_of_each_file(mirror: Path, folder: Target) -> None:
    left: dict[str, int] = {}

    class Note(Watcher):
        def begin(self, name: str, total: int, files: int | None = None) -> Progress:
            left[name] = total

            def progress(done: int) -> None:
                left[name] -= done

            return progress

    publish(mirror, folder, GUARDED, watcher=Note())
    assert len(left) == 10, "each file, and all of them as one stage"
    assert not any(left.values())


def test_a_remote_that_somebody_else_filled_is_adopted(
    mirror: Path, remote: Path, target: Target
) -> None:
    shutil.copytree(mirror, remote, dirs_exist_ok=True)
    (remote / "notes.txt").write_text("theirs")
    found = publish(mirror, target, GUARDED)
    assert (found.uploaded, found.assembled, found.present) == ({}, {}, 9)
    assert found.foreign == 1
    again = publish(mirror, target, GUARDED)
    assert again.bytes_sent < 4_000, "what was compared once is known"


def test_losing_the_local_machine_loses_nothing(
    mirror: Path, remote: Path, folder: Target, tmp_path: Path
) -> None:
    publish(mirror, folder, GUARDED)
    other = tmp_path / "another machine"
    shutil.copytree(mirror, other)
    found = publish(other, folder, GUARDED)
    assert (found.uploaded, found.assembled, found.generation) == ({}, {}, 1)


@pytest.mark.parametrize("path", [f"meta/{SERIES}.json", "CKSUMS"])
def test_after_a_run_that_was_killed_what_clients_read_is_not_taken_for_granted(
    mirror: Path, remote: Path, folder: Target, target: Target, path: str
) -> None:
    """It may have been written in the very second that the journal knows, in the same length."""
    assert publish(mirror, target, GUARDED).ok
    good, tree = tree_of(remote), FolderTree(folder)
    flip(remote / path)
    record = journal.load(tree)
    record.verified = False
    write_whole(tree, journal.PATH, record.render())
    assert publish(mirror, target, GUARDED).ok
    assert tree_of(remote) == good
    # And the other way round: it is right, and the journal knows another one.
    record = journal.load(tree)
    record.verified = False
    record.files[path] = record.files[path]._replace(sha256="0" * 64)
    write_whole(tree, journal.PATH, record.render())
    assert publish(mirror, target, GUARDED).ok
    assert journal.load(tree).files[path].sha256 == sha256(good[path])


def test_everything_is_durable_before_it_gets_its_name(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, named = set(), []
    sync = _FolderFile.sync

    def noted(self: _FolderFile) -> None:
        sync(self)
        synced.add(Path(f"/proc/self/fd/{self._descriptor}").readlink())

    def checked(real: Callable[..., None]) -> Callable[..., None]:
        def name_it(self: FolderTree, path: str, new: str) -> None:
            if not new.endswith("publisher.lock"):
                named.append(new)
                assert remote / path in synced
            real(self, path, new)

        return name_it

    publish(mirror, folder, GUARDED)
    add_image(mirror, images_of(mirror), keep=4, seed=3)
    monkeypatch.setattr(_FolderFile, "sync", noted)
    for step in ("rename", "rename_exclusive"):
        monkeypatch.setattr(FolderTree, step, checked(getattr(FolderTree, step)))
    found = publish(mirror, folder, GUARDED)
    assert {*found.uploaded, *found.assembled, *found.switched, "CKSUMS"} <= set(named)
    assert journal.PATH in named


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("1 1 x\n")])
def test_cksums_is_mended_where_nothing_else_is_new(
    mirror: Path, remote: Path, folder: Target, harm: Callable[[Path], object]
) -> None:
    publish(mirror, folder, NOW)
    harm(remote / "CKSUMS")
    assert "CKSUMS: to write" in publish(mirror, folder, NOW, dry_run=True).plan
    publish(mirror, folder, NOW)
    assert tree_of(remote) == tree_of(mirror)
    assert "CKSUMS: to write" not in publish(mirror, folder, NOW, dry_run=True).plan


def test_a_mirror_that_is_being_prepared_is_not_published(mirror: Path, folder: Target) -> None:
    with (
        locked(mirror / ".puavo-repository" / "lock", "the nightly run"),
        pytest.raises(LockedError, match="the nightly run"),
    ):
        publish(mirror, folder, GUARDED)


def test_two_publishers_at_once_are_noticed(mirror: Path, folder: Target) -> None:
    other = PublisherLock(FolderTree(folder), elsewhere("other"))
    other.acquire()
    with pytest.raises(LockedError, match="somebody else is publishing"):
        publish(mirror, folder, GUARDED)
    other.release()
    assert publish(mirror, folder, GUARDED).ok


def test_a_dead_publishers_lock_goes_although_there_is_nothing_to_do(
    mirror: Path, remote: Path, folder: Target, target: Target
) -> None:
    assert publish(mirror, target, GUARDED).ok
    dead, lock = Holder.this_process(), remote / publisher_lock.PATH
    PublisherLock(FolderTree(folder), dead).acquire()
    assert publish(mirror, target, GUARDED).ok
    assert lock.exists(), "it lives"
    dead.retire()
    assert publish(mirror, target, GUARDED).ok
    assert not lock.exists()
    for debris in (f"{lock.name}.{dead.token}", ".journal.json.part", "generations/.1.json.part"):
        on_the_way = lock.parent / debris
        on_the_way.touch()
        assert publish(mirror, target, GUARDED).ok
        assert not on_the_way.exists()


def test_an_empty_or_missing_mirror_is_not_published(tmp_path: Path, folder: Target) -> None:
    with pytest.raises(PublishError, match="no mirror"):
        publish(tmp_path / "none", folder, GUARDED)
    (tmp_path / "empty" / "meta").mkdir(parents=True)
    (tmp_path / "empty" / "CKSUMS").touch()
    with pytest.raises(PublishError, match="describes no file"):
        publish(tmp_path / "empty", folder, GUARDED)


def test_the_mirror_itself_is_no_remote(mirror: Path) -> None:
    (mirror / ".puavo-repository").mkdir(exist_ok=True)
    with pytest.raises(PublishError, match="itself a mirror"):
        publish(mirror, Target(path=str(mirror)), GUARDED)


@pytest.mark.parametrize("damage", ["cut short", "a digit", "gone"])
def test_a_damaged_journal_is_worked_out_again(
    mirror: Path, remote: Path, folder: Target, damage: str
) -> None:
    every = images_of(mirror)
    publish(mirror, folder, GUARDED)
    path = remote / journal.PATH
    text = path.read_text()
    match damage:
        case "cut short":
            path.write_text(text[: len(text) // 2])
        case "a digit":
            size = str((remote / every[0]).stat().st_size)
            path.write_text(text.replace(size, size[:-1] + str(int(size[-1]) ^ 1), 1))
        case _:
            path.unlink()
    add_image(mirror, every, keep=len(every))
    found = publish(mirror, folder, GUARDED)
    assert found.ok
    assert found.generation == 2
    assert list(found.uploaded | found.assembled)[-1] == images_of(mirror)[-1]
    assert not set(every) & set(found.uploaded), "what is there is compared, not sent again"
    assert every[0] in found.waiting, "it is still known to be ours"
    assert walk(remote) == []


def test_a_generation_keeps_what_it_replaced(mirror: Path, remote: Path, folder: Target) -> None:
    publish(mirror, folder, GUARDED)
    old = (remote / "meta" / f"{SERIES}.json").read_text()
    add_image(mirror, images_of(mirror))
    publish(mirror, folder, GUARDED)
    kept = json.loads((remote / GENERATIONS / "2.json").read_bytes())["replaced"]
    assert kept[f"meta/{SERIES}.json"] == old
    first = json.loads((remote / GENERATIONS / "1.json").read_bytes())["replaced"]
    assert first[f"meta/{SERIES}.json"] is None


def test_one_failing_mirror_does_not_hold_back_another(
    mirror: Path, remote: Path, tmp_path: Path
) -> None:
    found = publishing.publish_all(
        mirror, [Target(path=str(tmp_path / "missing")), Target(path=str(remote))], GUARDED
    )
    assert [report.ok for report in found] == [False, True]
    assert "no such folder" in found[0].failed["publishing"]
    assert found[0].lines()[0] == f"{found[0].target}: nothing was sent"
    assert tree_of(remote) == tree_of(mirror)


def test_a_file_that_cannot_be_read_here_holds_back_no_other(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = images_of(mirror)[0]

    def broken(tree: RemoteTree, item: Transfer, *more: Any) -> None:
        if item.path == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        send(tree, item, *more)

    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)
    monkeypatch.setattr(upload, "LARGE", 0)  # one after another
    monkeypatch.setattr(transfer, "send", broken)
    found = publish(mirror, folder, GUARDED)
    assert [*found.failed] == [bad]
    assert found.failed[bad].startswith(f"{mirror / bad}: Input/output error")
    assert set(images_of(remote)) == set(images_of(mirror)) - {bad}
    assert found.transient
    assert not found.server_lost


def test_a_record_that_cannot_be_read_here_holds_back_no_file(mirror: Path, folder: Target) -> None:
    for image in images_of(mirror):
        (mirror / ".puavo-repository" / "images" / f"{image}.json").mkdir(parents=True)
    assert publish(mirror, folder, GUARDED).ok


def test_a_mirror_that_is_lost_right_after_the_switch_was_published_to(
    mirror: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = Publisher.look, []

    def once(publisher: Publisher) -> tuple[RemoteState, Plan]:
        looks.append(publisher)
        if len(looks) > 1:
            raise PublishError(folder.url, "does not answer")
        return look(publisher)

    monkeypatch.setattr(Publisher, "look", once)
    (report,) = publishing.publish_all(mirror, [folder], GUARDED)
    assert report.failed == {"publishing": "does not answer"}
    first = report.lines()[0]
    assert first.startswith(f"{folder.url}: how it stands is not known, ")
    assert f", {len(report.uploaded)} uploaded (" in first
    assert report.uploaded
    assert not published.known(mirror, folder.url).reached


def test_a_run_that_failed_after_the_switch_says_what_clients_see_now(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Publisher) -> None:
        raise PublishError(folder.url, "nothing may be removed")

    monkeypatch.setattr(publishing, "clean", refused)
    (report,) = publishing.publish_all(mirror, [folder], GUARDED)
    assert report.failed == {"publishing": "nothing may be removed"}
    assert tree_of(remote) == tree_of(mirror)
    kept = published.known(mirror, folder.url)
    assert (kept.generation, kept.reached) == (1, True)
    assert set(images_of(mirror)) <= kept.files.keys()


def test_an_error_of_the_system_is_one_of_ours_wherever_it_comes_from(
    mirror: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_dir = Path.is_dir

    def broken(path: Path) -> bool:
        if path == mirror / "meta":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return is_dir(path)

    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)
    monkeypatch.setattr(Path, "is_dir", broken)
    with pytest.raises(StorageError, match="mirror/meta: Input/output error"):
        publish(mirror, folder, GUARDED)
