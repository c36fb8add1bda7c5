"""What lies on a remote, or here, and is not what it should be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from puavo_repository.errors import PublishError, StorageRefusedError
from puavo_repository.publish import switch
from puavo_repository.remote import journal
from puavo_repository.remote.documents import write_whole
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.target import Target
from puavo_repository.settings.model import Model
from support.audits import flip
from support.mirrors import (
    SERIES,
    add_image,
    changed,
    content,
    image,
    images_of,
    journal_of,
    other_rdiff,
    prepare,
    publish,
    tree_of,
    walk,
)
from support.repository import V1, Repository, name
from support.servers import Sshd

IMAGES = 3
GUARDED = Model(replace_pause=0.0)


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


@pytest.mark.alike(2)
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
    write_whole(tree, journal.PATH, record.render())
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
