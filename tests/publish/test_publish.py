"""Publishing a mirror, to a folder and to a real server: what clients find."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from puavo_repository import retry
from puavo_repository.errors import LockedError, PublishError, StorageError, StorageRefusedError
from puavo_repository.mirror.files import locked
from puavo_repository.progress import Progress, Watcher
from puavo_repository.publish import run as publishing
from puavo_repository.publish import switch
from puavo_repository.publish.options import Options
from puavo_repository.publish.run import publish
from puavo_repository.publish.state import sha256
from puavo_repository.remote import journal
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.folder import FolderFile, FolderTree
from puavo_repository.remote.generations import GENERATIONS
from puavo_repository.remote.lock import Holder, PublisherLock
from puavo_repository.remote.target import Target
from support.audits import flip
from support.mirrors import (
    NOW,
    SERIES,
    add_image,
    changed,
    content,
    image,
    images_of,
    journal_of,
    make_mirror,
    other_rdiff,
    prepare,
    tree_of,
    walk,
)
from support.repository import V1, Repository, name
from support.servers import Sshd, elsewhere

GUARDED = Options(replace_pause=0.0)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    make_mirror(tmp_path / "mirror", count=3)
    return tmp_path / "mirror"


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
    assert len(left) == 9
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


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_file_that_someone_changed_is_withdrawn_and_replaced(
    mirror: Path, remote: Path, target: Target, keep_time: bool
) -> None:
    publish(mirror, target, GUARDED)
    victim = remote / image(2)
    before = victim.stat()
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data) + (b"x" if keep_time else b""))
    os.utime(victim, (1, 1) if not keep_time else (before.st_atime, before.st_mtime))
    found = publish(mirror, target, GUARDED)
    assert found.ok, found.failed
    assert image(2) in found.withdrawn
    assert tree_of(remote) == tree_of(mirror)


def test_a_file_is_described_again_although_its_series_waits(
    mirror: Path, remote: Path, folder: Target
) -> None:
    assert publish(mirror, folder, GUARDED).ok
    before = tree_of(remote)
    names = add_image(mirror, [image(1), image(2), image(3)], keep=4)
    (mirror / names[-1]).unlink()
    (remote / image(1)).write_bytes(bytes((remote / image(1)).stat().st_size))
    os.utime(remote / image(1), (1, 1))
    found = publish(mirror, folder, GUARDED)
    assert found.withdrawn == [image(1)]
    assert not found.ok
    now = tree_of(remote)
    assert {path: now[path] for path in before} == before
    assert walk(remote) == []


@pytest.mark.parametrize("path", [image(1), "rdiff", f"meta/{SERIES}.json", "CKSUMS"])
def test_a_folder_in_the_place_of_a_file_changes_nothing(
    mirror: Path, remote: Path, target: Target, path: str
) -> None:
    assert publish(mirror, target, GUARDED).ok
    if path == "rdiff":
        path = f"rdiffs/{min(found.name for found in (remote / 'rdiffs').iterdir())}"
    (remote / path).unlink()
    (remote / path).mkdir()
    (remote / path / "theirs").touch()
    before, record = tree_of(remote), journal_of(target)
    try:
        told = publish(mirror, target, GUARDED).failed[path]
    except PublishError as error:
        told = str(error)
    assert f"{path}: is a folder, in the place of a file. Move it away there" in told
    assert tree_of(remote) == before
    assert journal_of(target).generation == record.generation
    shutil.rmtree(remote / path)
    assert publish(mirror, target, GUARDED).ok
    assert walk(remote) == []


def test_bytes_that_the_disk_forgot_are_not_published(
    repository: Repository, remote: Path, target: Target
) -> None:
    """Neither size nor time tells of them; what is sent is read anyway."""
    victim = repository.add(name(V1))
    assert repository.prepare().ok
    flip(victim)
    found = publish(repository.mirror, target, GUARDED)
    assert "its content is not what the metadata describes" in found.failed[name(V1)]
    assert not (remote / name(V1)).exists()


def test_a_file_that_came_anew_is_not_described_as_the_old_one_by_a_series_that_waits(
    mirror: Path, remote: Path, folder: Target
) -> None:
    assert publish(mirror, folder, GUARDED).ok
    (mirror / image(1)).write_bytes(content(7, (mirror / image(1)).stat().st_size))
    for rdiff in (mirror / "rdiffs").glob("*.rdiff"):
        rdiff.unlink()
    names = add_image(mirror, [image(1), image(2), image(3)], keep=4)
    (mirror / names[-1]).unlink()
    found = publish(mirror, folder, GUARDED)
    assert image(1) in found.withdrawn
    assert not found.ok
    assert walk(remote) == []
    document = (remote / "meta" / f"{SERIES}.json").read_text()
    assert (image(1) in document, image(2) in document) == (False, True)


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
    journal.save(tree, record)
    assert publish(mirror, target, GUARDED).ok
    assert tree_of(remote) == good
    # And the other way round: it is right, and the journal knows another one.
    record = journal.load(tree)
    record.verified = False
    record.files[path] = record.files[path]._replace(sha256="0" * 64)
    journal.save(tree, record)
    assert publish(mirror, target, GUARDED).ok
    assert journal.load(tree).files[path].sha256 == sha256(good[path])


def test_a_touched_file_is_compared_whole(mirror: Path, remote: Path, target: Target) -> None:
    big = image(9)
    (mirror / big).write_bytes(content(9, 6 << 20))
    prepare(mirror, [*images_of(mirror)], pairs=[])
    publish(mirror, target, GUARDED)
    with (remote / big).open("r+b") as stream:  # one byte, which samples would not meet
        stream.seek(3_000_000)
        stream.write(bytes([(mirror / big).read_bytes()[3_000_000] ^ 1]))
    os.utime(remote / big, (1, 1))
    assert publish(mirror, target, GUARDED).withdrawn == [big]
    assert (remote / big).read_bytes() == (mirror / big).read_bytes()


def test_a_touched_but_unchanged_file_stays(mirror: Path, remote: Path, target: Target) -> None:
    publish(mirror, target, GUARDED)
    os.utime(remote / image(2), (1, 1))
    found = publish(mirror, target, GUARDED)
    assert (found.uploaded, found.assembled, found.withdrawn) == ({}, {}, [])


def test_an_entry_of_another_size_proves_nothing(
    mirror: Path, remote: Path, folder: Target
) -> None:
    """What the journal and the server agree on is not yet what is wanted there."""
    assert publish(mirror, folder, GUARDED).ok
    (remote / image(1)).write_bytes(b"short")
    tree = FolderTree(folder)
    there, record = tree.stat(image(1)), journal.load(tree)
    assert there
    entry = record.files[image(1)]
    record.files[image(1)] = entry._replace(size=there.size, mtime=there.mtime)
    journal.save(tree, record)
    assert publish(mirror, folder, GUARDED).ok
    assert walk(remote) == []


def test_a_removed_file_comes_back(mirror: Path, remote: Path, target: Target) -> None:
    publish(mirror, target, GUARDED)
    (remote / image(1)).unlink()
    publish(mirror, target, GUARDED)
    assert tree_of(remote) == tree_of(mirror)


def test_an_rdiff_that_was_made_anew_is_never_described_wrongly(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, folder, GUARDED)
    rdiff = other_rdiff(mirror)
    prepare(mirror, images_of(mirror))
    seen: list[bool] = []

    def pause(_seconds: float) -> None:
        described = (remote / "meta" / f"{SERIES}.json").read_text()
        seen.append(rdiff.name in described or rdiff.name in (remote / "CKSUMS").read_text())

    monkeypatch.setattr(switch, "sleep", pause)
    found = publish(mirror, folder, GUARDED)
    assert found.withdrawn == [f"rdiffs/{rdiff.name}"]
    assert seen == [False], "withdrawn before the pause"
    assert tree_of(remote) == tree_of(mirror)
    assert found.generation == 2


def test_everything_is_durable_before_it_gets_its_name(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, named = set(), []
    sync = FolderFile.sync

    def noted(self: FolderFile) -> None:
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
    monkeypatch.setattr(FolderFile, "sync", noted)
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


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(
    mirror: Path, remote: Path, target: Target, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (remote / image(1)).symlink_to(outside)
    (remote / "meta").mkdir()
    (remote / "meta" / f"{SERIES}.json").symlink_to(outside)
    assert publish(mirror, target, GUARDED).ok
    assert outside.read_bytes() == b"precious"
    assert tree_of(remote) == tree_of(mirror)


def test_a_folder_that_is_a_link_is_refused(
    mirror: Path, remote: Path, target: Target, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (remote / "rdiffs").symlink_to(tmp_path / "outside")
    with pytest.raises(StorageRefusedError, match=r"link.*not entered"):
        publish(mirror, target, GUARDED)
    assert list((tmp_path / "outside").iterdir()) == []


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
    for debris in (f"{lock.name}.{dead.token}", ".journal.json.part"):
        on_the_way = lock.with_name(debris)
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


def test_a_bad_local_file_holds_back_its_series_alone(
    mirror: Path, remote: Path, target: Target
) -> None:
    publish(mirror, target, GUARDED)
    described = (remote / "meta" / f"{SERIES}.json").read_bytes()
    every = add_image(mirror, images_of(mirror))
    other = "puavo-os-other-bookworm-2026-01-01-120000-amd64.img"
    (mirror / other).write_bytes(content(9, 100_000))
    prepare(mirror, [other], series="puavo-os-other-bookworm-amd64")
    rotten = bytearray((mirror / every[-1]).read_bytes())
    rotten[1000] ^= 1
    (mirror / every[-1]).write_bytes(rotten)
    found = publish(mirror, target, GUARDED)
    assert not found.ok
    assert every[-1] in found.failed
    assert (remote / "meta" / f"{SERIES}.json").read_bytes() == described
    assert (remote / "meta" / "puavo-os-other-bookworm-amd64.json").exists()
    assert walk(remote) == []


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


def test_a_base_that_is_not_the_right_one_is_not_assembled_from(
    mirror: Path, remote: Path, sshd: Sshd
) -> None:
    target = sshd.target(remote)
    publish(mirror, target, GUARDED)
    every = add_image(mirror, images_of(mirror))
    for one in every[:-1]:
        data = changed((remote / one).read_bytes(), 5)
        before = (remote / one).stat()
        (remote / one).write_bytes(data[: before.st_size].ljust(before.st_size))
        os.utime(remote / one, (before.st_atime, before.st_mtime))
    # The journal believes in them: size and time agree. The samples do not.
    found = publish(mirror, target, GUARDED)
    assert every[-1] in found.uploaded
    assert (remote / every[-1]).read_bytes() == (mirror / every[-1]).read_bytes()


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
    assert tree_of(remote) == tree_of(mirror)


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
