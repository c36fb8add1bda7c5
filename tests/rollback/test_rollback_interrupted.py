"""A rollback or a night that was cut short: the next one ends it, and goes no further."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from puavo_repository.errors import StorageRefusedError
from puavo_repository.publish.plan import sha256
from puavo_repository.publish.publisher import LockedRemote, Publisher
from puavo_repository.remote import journal, lock
from puavo_repository.remote.documents import write_whole
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import RemoteTree
from puavo_repository.rollback import rollback
from rollback.nights import nights, roll_back
from support.mirrors import (
    KEEP,
    SERIES,
    add_image,
    content,
    documents,
    image,
    journal_of,
    prepare,
    publish,
)

OTHER = "puavo-os-other-bookworm-amd64"
OTHER_IMAGE = "puavo-os-other-bookworm-2026-01-01-120000-amd64.img"
Check = Callable[[], object]


def test_a_step_that_was_cut_short_goes_on_in_the_same_direction(
    mirror: Path, remote: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = nights(mirror, target, remote, 3)
    # As a kill leaves it: the journal knows of the step, the metadata is still the bad night's.
    bad = {remote / path: data for path, data in seen[2].items()}
    roll_back(mirror, target)
    for path, data in bad.items():
        path.write_bytes(data)
    held = publish(mirror, target, KEEP)
    assert not held.ok, "the night after does not bring it back"
    roll_back(mirror, target)
    assert json.loads(documents(remote)[f"meta/{SERIES}.json"]) == json.loads(
        seen[1][f"meta/{SERIES}.json"]
    )
    assert documents(remote) == seen[1]


@pytest.mark.parametrize("writes", range(7))
def test_a_killed_step_is_ended_by_the_next_one_and_goes_no_further(
    mirror: Path, remote: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    target = Target(path=str(remote))
    seen, left = nights(mirror, target, remote, 3), writes

    class KilledError(Exception):
        pass

    def until_killed(tree: RemoteTree, path: str, content: bytes, *more: Check) -> None:
        nonlocal left
        if left == 0:
            raise KilledError
        left -= 1
        write_whole(tree, path, content, *more)

    with monkeypatch.context() as patched:
        patched.setattr(lock, "write_whole", until_killed)
        try:
            roll_back(mirror, target)
        except KilledError:
            killed = True
        else:
            killed = False
    assert killed == (writes < 5), "record, journal, a document, CKSUMS, the journal again"
    if killed:
        roll_back(mirror, target)
    assert documents(remote) == seen[1]
    roll_back(mirror, target)
    assert documents(remote) == seen[1], "and asked for once more, it goes no further"


def test_metadata_that_a_killed_rollback_removed_is_not_missed_after_the_next_one(
    mirror: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal did not say so, and the audit would miss it until something is published."""
    target = Target(path=str(remote))
    seen = nights(mirror, target, remote, 1)
    (mirror / OTHER_IMAGE).write_bytes(content(9, 1000))
    prepare(mirror, [OTHER_IMAGE], series=OTHER)
    assert publish(mirror, target, KEEP).ok

    class KilledError(Exception):
        pass

    def until_killed(tree: RemoteTree, path: str, text: bytes, *more: Check) -> None:
        if not (remote / "meta" / f"{OTHER}.json").exists():
            raise KilledError
        write_whole(tree, path, text, *more)

    with monkeypatch.context() as patched:
        patched.setattr(lock, "write_whole", until_killed)
        with pytest.raises(KilledError):
            roll_back(mirror, target)
    roll_back(mirror, target)
    assert documents(remote) == seen[0]
    assert not journal_of(target).files.keys() & {f"meta/{OTHER}.json"}


def test_metadata_that_others_removed_is_missed_after_a_rollback_of_another_series(
    mirror: Path, remote: Path
) -> None:
    target = Target(path=str(remote))
    (mirror / OTHER_IMAGE).write_bytes(content(9, 1000))
    prepare(mirror, [OTHER_IMAGE], series=OTHER)
    nights(mirror, target, remote, 2)
    (remote / "meta" / f"{OTHER}.json").unlink()
    roll_back(mirror, target, None, SERIES)
    assert f"meta/{OTHER}.json" in journal_of(target).files


def test_a_night_that_could_not_be_recorded_leaves_no_gap_in_the_way_back(
    mirror: Path, remote: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights(mirror, target, remote, 2)
    add_image(mirror, sorted(path.name for path in mirror.glob("*.img")), keep=3, seed=7)

    def refused(*_: object) -> None:
        raise StorageRefusedError(remote, "is full")

    with monkeypatch.context() as full:
        full.setattr(journal, "save_generation", refused)
        with pytest.raises(StorageRefusedError):
            publish(mirror, target, KEEP)
    assert publish(mirror, target, KEEP).ok
    with Publisher(mirror, target, KEEP) as publisher:
        assert [step.number for step in rollback.steps(publisher)] == [3, 2, 1]


def test_a_step_that_was_killed_before_the_journal_knew_is_no_change_by_others(
    mirror: Path, remote: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where what it wrote has the size and the second of what was there."""
    seen = nights(mirror, target, remote, 2)
    save, when = LockedRemote.save, (remote / "CKSUMS").stat().st_mtime
    saved: list[journal.Journal] = []

    def once(held: LockedRemote) -> None:
        if not saved:
            save(held)
        saved.append(held.journal)

    with monkeypatch.context() as killed:
        killed.setattr(LockedRemote, "save", once)
        roll_back(mirror, target)
    assert len(saved) > 1
    roll_back(mirror, target)
    assert documents(remote) == seen[0], "it was ended, and no other one begun"
    record = journal_of(target)
    for path, text in seen[0].items():
        assert record.files[path].sha256 == sha256(text), path
    for path in seen[0]:
        os.utime(remote / path, (when, when))
    after_all = KEEP.model_copy(update={"allow_rolled_back": True})
    assert publish(mirror, target, after_all).ok
    assert documents(remote) == seen[1]
    roll_back(mirror, target)
    assert documents(remote) == seen[0], "it is known as what was published"


def test_a_night_that_was_killed_before_the_journal_knew_can_be_gone_back_to(
    mirror: Path, remote: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights(mirror, target, remote, 1)
    save, saved = LockedRemote.save, set()

    def once(held: LockedRemote) -> None:
        if 2 not in saved:  # generation 2 has begun, and its metadata comes now
            save(held)
        saved.add(held.journal.generation)

    names = add_image(mirror, [image(1), image(2)], keep=3)
    with monkeypatch.context() as killed:
        killed.setattr(LockedRemote, "save", once)
        publish(mirror, target, KEEP)
    good = documents(remote)
    assert image(3) in good["CKSUMS"].decode()
    assert not journal_of(target).verified
    add_image(mirror, names, keep=3, seed=2)
    assert publish(mirror, target, KEEP).ok
    roll_back(mirror, target)
    assert documents(remote) == good


def test_a_rollback_that_is_made_again_goes_no_further(
    mirror: Path, remote: Path, folder: Target
) -> None:
    """The first one may have failed late: in writing down here what it did."""
    seen = []
    names = [image(1), image(2)]
    for night in range(3):
        if night:
            names = add_image(mirror, names, seed=night)
        assert publish(mirror, folder, KEEP).ok
        seen.append(documents(remote))
    for _ in range(3):
        roll_back(mirror, folder)
        assert documents(remote) == seen[1]
    roll_back(mirror, folder, 1)
    assert documents(remote) == seen[0]
