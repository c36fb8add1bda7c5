"""What is removed from a remote, when, and what never is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from puavo_repository import retry
from puavo_repository.errors import StorageError
from puavo_repository.formats import jsonfile
from puavo_repository.publish import clean, run, switch, upload
from puavo_repository.publish.plan import sha256
from puavo_repository.publish.publisher import Publisher
from puavo_repository.remote import journal
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.lock import PublisherLock
from puavo_repository.remote.target import Target
from puavo_repository.settings.model import Model
from support.instead import have_time
from support.mirrors import (
    NOW,
    content,
    image,
    images_of,
    journal_of,
    prepare,
    publish,
    tree_of,
    walk,
)

IMAGES = 3
GUARDED = Model(replace_pause=0.0)


def test_what_no_metadata_names_goes_after_its_grace(
    mirror: Path, remote: Path, target: Target
) -> None:
    publish(mirror, target, GUARDED)
    every = images_of(mirror)
    prepare(mirror, every[1:])
    patient = publish(mirror, target, GUARDED)
    assert (remote / every[0]).exists(), "a client may be in the middle of it"
    assert every[0] in patient.waiting
    done = publish(mirror, target, NOW)
    assert every[0] in done.pruned
    assert not (remote / every[0]).exists()
    assert walk(remote) == []


@pytest.mark.parametrize("step", ["stat", "remove"])
def test_what_could_not_be_removed_goes_the_next_time(
    step: str, mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, folder, NOW)
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)
    every, real = images_of(mirror), getattr(FolderTree, step)
    prepare(mirror, every[1:])

    def broken(tree: FolderTree, path: str) -> object:
        if path == every[0]:
            raise StorageError(path, "Input/output error")
        return real(tree, path)

    with monkeypatch.context() as fault:
        fault.setattr(FolderTree, step, broken)
        with pytest.raises(StorageError):
            publish(mirror, folder, NOW)
        assert (remote / every[0]).exists()
    assert every[0] in publish(mirror, folder, NOW).pruned
    assert not (remote / every[0]).exists()


@pytest.mark.parametrize("again", [run.publish, clean.clean])
def test_what_was_removed_right_before_a_kill_is_forgotten_though_nothing_is_new(
    mirror: Path, remote: Path, folder: Target, again: Callable[[Publisher], object]
) -> None:
    publish(mirror, folder, NOW)
    every = images_of(mirror)
    prepare(mirror, every[1:])
    with Publisher(mirror, folder, NOW) as publisher:
        upload.upload(publisher)
        switch.switch(publisher)
        journal_then = (remote / journal.PATH).read_bytes()
        clean.clean(publisher)
        (remote / journal.PATH).write_bytes(journal_then)  # killed before it was saved
        assert every[0] in journal_of(folder).files
        again(publisher)
    assert journal_of(folder).files.keys() == tree_of(remote).keys()


def meant_to_be_sent(mirror: Path, folder: Target) -> bytes:
    """Have somebody about to send an image, and return its content."""
    late = content(9, 1000)
    with Publisher(mirror, folder).hold() as other:
        other.journal.intend(image(9), len(late), sha256(late))
        other.save()
    return late


def test_a_file_that_was_only_meant_to_be_sent_is_ours_also_where_it_comes_late(
    mirror: Path, remote: Path, folder: Target
) -> None:
    """Whoever was to send it may have slept, and one write was left to them."""
    publish(mirror, folder, GUARDED)
    late = meant_to_be_sent(mirror, folder)
    for _ in range(2):
        publish(mirror, folder, GUARDED)
        prepare(mirror, images_of(mirror)[1:])
    (remote / image(9)).write_bytes(late)
    assert image(9) in publish(mirror, folder, NOW).pruned


def test_what_was_only_meant_to_be_sent_is_forgotten_where_a_kill_follows_its_removal(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, folder, NOW)
    late = meant_to_be_sent(mirror, folder)
    (remote / image(9)).write_bytes(late)
    real, then = PublisherLock.remove, list[bytes]()

    def noted(lock: PublisherLock, path: str) -> None:
        real(lock, path)
        then.extend([(remote / journal.PATH).read_bytes()] if path == image(9) else [])

    with monkeypatch.context() as kill, Publisher(mirror, folder, NOW) as publisher:
        kill.setattr(PublisherLock, "remove", noted)
        clean.clean(publisher)
    (remote / journal.PATH).write_bytes(then[0])  # killed before it was saved
    publish(mirror, folder, NOW)  # where there is nothing to do
    assert journal_of(folder).files.keys() == tree_of(remote).keys()


def test_the_grace_counts_by_both_clocks(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, folder, GUARDED)
    prepare(mirror, images_of(mirror)[1:])
    publish(mirror, folder, GUARDED)
    later = time.time() + 30 * 24 * 3600
    have_time(monkeypatch, lambda: later)
    patient = Model(max_delete=1.0, replace_pause=0.0)
    found = publish(mirror, folder, patient)
    assert found.ok
    assert image(1) in found.waiting
    path = remote / journal.PATH
    data = json.loads(path.read_bytes())
    for entry in data["files"].values():
        if entry[3]:
            entry[3][0] -= 30 * 24 * 3600
    path.write_bytes(jsonfile.dumps_sealed(data))
    assert image(1) in publish(mirror, folder, patient).pruned


def test_a_clock_that_was_wrong_once_does_not_keep_a_file_for_years(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, folder, GUARDED)
    prepare(mirror, images_of(mirror)[1:])
    with monkeypatch.context() as wrong:
        next_year = time.time() + 365 * 24 * 3600
        have_time(wrong, lambda: next_year)
        publish(mirror, folder, GUARDED)
    assert image(1) in publish(mirror, folder, GUARDED).waiting
    assert image(1) in publish(mirror, folder, NOW).pruned
    assert not (remote / image(1)).exists()


def test_a_journal_that_was_worked_out_again_does_not_count_what_is_gone(
    mirror: Path, remote: Path, folder: Target
) -> None:
    publish(mirror, folder, GUARDED)
    prepare(mirror, images_of(mirror)[1:])
    for _ in range(2):
        publish(mirror, folder, NOW)
    assert not (remote / image(1)).exists(), "but a generation still names it"
    (remote / journal.PATH).write_bytes(b"damaged")
    publish(mirror, folder, GUARDED)
    now = Model(grace_days=0.0, max_delete=0.0, replace_pause=0.0)
    assert publish(mirror, folder, now).ok


def test_a_journal_that_is_worked_out_again_has_nothing_that_is_gone_by_now(
    mirror: Path, remote: Path, folder: Target
) -> None:
    publish(mirror, folder, NOW)
    prepare(mirror, images_of(mirror)[1:])
    publish(mirror, folder, NOW)
    (remote / journal.PATH).unlink()
    publish(mirror, folder, GUARDED)
    assert journal_of(folder).files.keys() == tree_of(remote).keys()


def test_what_we_did_not_put_there_is_left_alone(
    mirror: Path, remote: Path, folder: Target, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (remote / "other.img").write_bytes(b"theirs")
    (remote / "folder").mkdir()
    (remote / "link.img").symlink_to(outside)
    publish(mirror, folder, NOW)
    victim, changed_one = images_of(mirror)[0], images_of(mirror)[1]
    prepare(mirror, images_of(mirror)[2:])
    (remote / victim).unlink()
    (remote / victim).symlink_to(outside)
    (remote / changed_one).write_bytes(b"somebody else's")
    publish(mirror, folder, NOW)
    assert outside.read_bytes() == b"precious"
    assert (remote / victim).is_symlink()
    assert (remote / changed_one).read_bytes() == b"somebody else's"
    assert (remote / "other.img").read_bytes() == b"theirs"


def test_a_mass_deletion_stops_and_asks(mirror: Path, remote: Path, folder: Target) -> None:
    publish(mirror, folder, GUARDED)
    prepare(mirror, images_of(mirror)[-1:])
    careful = Model(grace_days=0.0, replace_pause=0.0)
    found = publish(mirror, folder, careful)
    assert not found.ok
    assert "ALLOW_MASS_DELETE=true" in found.failed["removing"]
    assert len(list(remote.glob("*.img"))) == 3
    agreed = Model(grace_days=0.0, replace_pause=0.0, allow_mass_delete=True)
    assert publish(mirror, folder, agreed).ok
    assert len(list(remote.glob("*.img"))) == 1


def test_a_vanished_series_is_a_mass_deletion_too(
    mirror: Path, remote: Path, folder: Target
) -> None:
    other = "puavo-os-other-bookworm-2026-01-01-120000-amd64.img"
    (mirror / other).write_bytes(content(9, 2_000_000))
    prepare(mirror, [other], series="puavo-os-other-bookworm-amd64")
    publish(mirror, folder, GUARDED)
    (mirror / "meta" / "puavo-os-other-bookworm-amd64.json").unlink()
    prepare(mirror, images_of(mirror)[:0] or [image(1), image(2), image(3)])
    found = publish(mirror, folder, GUARDED)
    assert "ALLOW_MASS_DELETE=true" in found.failed["removing"]
    assert (remote / "meta" / "puavo-os-other-bookworm-amd64.json").exists()
    assert publish(mirror, folder, GUARDED.model_copy(update={"max_delete": 1.0})).ok
    assert not (remote / "meta" / "puavo-os-other-bookworm-amd64.json").exists()
    assert (remote / other).exists(), "its grace has only begun"
