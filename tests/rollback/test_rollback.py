"""A rollback after a bad night: clients see what they saw before, and it stays so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from puavo_repository.errors import LockedError, PublishError, SettingsError
from puavo_repository.mirror import published
from puavo_repository.publish import switch, upload
from puavo_repository.publish.publisher import Publisher
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.journal import GENERATIONS
from puavo_repository.remote.lock import PublisherLock
from puavo_repository.remote.target import Target
from puavo_repository.rollback import rollback
from puavo_repository.rollback.changes import Change
from puavo_repository.settings.model import Model
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
    tree_of,
    walk,
)
from support.servers import elsewhere

OTHER = "puavo-os-other-bookworm-amd64"
Check = Callable[[], object]


def test_a_rollback_puts_metadata_and_cksums_back_and_nothing_else(
    mirror: Path, remote: Path, target: Target
) -> None:
    seen = nights(mirror, target, remote, 3)
    everything = tree_of(remote)
    with Publisher(mirror, target, KEEP) as publisher:
        found = rollback.roll_back(publisher, None)
    assert (found.generation, found.restored, found.again) == (4, 2, "2")
    assert documents(remote) == seen[1]
    data = {p: d for p, d in everything.items() if p not in seen[0]}
    assert {p: d for p, d in tree_of(remote).items() if p not in seen[0]} == data
    assert walk(remote) == []
    assert image(4) in found.rejected
    # And again: it is done already, and goes no further by itself.
    assert roll_back(mirror, target) == 4
    assert documents(remote) == seen[1]
    assert roll_back(mirror, target, 1) == 5
    assert documents(remote) == seen[0]


def test_what_was_rolled_back_stays_away_until_it_is_allowed(
    mirror: Path, remote: Path, target: Target
) -> None:
    seen = nights(mirror, target, remote, 2)
    roll_back(mirror, target)
    again = publish(mirror, target, KEEP)
    assert not again.ok
    assert "a rollback took" in again.failed[f"meta/{SERIES}.json"]
    assert "ALLOW_ROLLED_BACK=true" in again.failed[f"meta/{SERIES}.json"]
    assert not again.uploaded
    assert documents(remote) == seen[0]
    # The next night brings one more image, but still the bad one too.
    names = add_image(mirror, [image(1), image(2), image(3)])
    held = publish(mirror, target, KEEP)
    assert not held.ok
    assert documents(remote) == seen[0]
    # Without the bad one it goes on by itself.
    prepare(mirror, [name for name in names if name != image(3)])
    assert publish(mirror, target, KEEP).ok
    assert image(4) in (remote / "meta" / f"{SERIES}.json").read_text()
    assert walk(remote) == []


@pytest.mark.parametrize("kept", [3, 2])  # with a new image alone, or by taking one away
def test_a_night_with_only_what_was_rolled_back_is_quiet(
    mirror: Path, remote: Path, kept: int
) -> None:
    target = Target(path=str(remote))
    nights(mirror, target, remote, 1)
    names = [image(1), image(2)]
    if kept == 3:
        add_image(mirror, names)
    else:
        prepare(mirror, names[1:])
    assert publish(mirror, target, KEEP).ok
    generation = roll_back(mirror, target)
    for _ in range(2):
        held = publish(mirror, target, KEEP)
        assert held.failed.keys() == {f"meta/{SERIES}.json"}
        assert not [line for line in held.plan if line.endswith(": to write")]
    before = journal_of(target).render()
    with Publisher(mirror, target, KEEP) as publisher:
        assert publisher.look()[1].is_empty
        upload.upload(publisher)
        switch.switch(publisher)
    assert journal_of(target).render() == before
    assert held.generation == journal_of(target).generation == generation


def test_the_operator_may_publish_it_after_all(mirror: Path, remote: Path, target: Target) -> None:
    seen = nights(mirror, target, remote, 2)
    roll_back(mirror, target)
    allowed = publish(mirror, target, KEEP.model_copy(update={"allow_rolled_back": True}))
    assert allowed.ok
    assert not allowed.uploaded, "its files are all still there"
    assert documents(remote) == seen[1]
    assert publish(mirror, target, KEEP).ok


def test_a_rollback_can_be_undone_by_another(mirror: Path, remote: Path, target: Target) -> None:
    seen = nights(mirror, target, remote, 2)
    roll_back(mirror, target)
    assert roll_back(mirror, target, 2) == 4
    assert documents(remote) == seen[1]
    assert publish(mirror, target, KEEP).ok


def a_night_of_two_series(
    mirror: Path, remote: Path, target: Target
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Publish a new image of each; return what clients saw before it, and after it."""
    names = [name.replace("-test-", "-other-") for name in (image(1), image(2))]
    for name in names:
        (mirror / name).write_bytes(name.encode() * 999)
    prepare(mirror, names[:1], series=OTHER)
    publish(mirror, target, KEEP)
    before = documents(remote)
    prepare(mirror, names, series=OTHER)
    add_image(mirror, [image(1), image(2)])
    publish(mirror, target, KEEP)
    return before, documents(remote)


def test_one_series_alone_rolls_back(mirror: Path, remote: Path, target: Target) -> None:
    before, after = a_night_of_two_series(mirror, remote, target)
    roll_back(mirror, target, None, SERIES)
    found = documents(remote)
    assert found[f"meta/{SERIES}.json"] == before[f"meta/{SERIES}.json"]
    assert found[f"meta/{OTHER}.json"] == after[f"meta/{OTHER}.json"]
    assert walk(remote) == []
    listed = {line.split()[2] for line in found["CKSUMS"].decode().splitlines()}
    assert image(3) not in listed
    assert image(2).replace("-test-", "-other-") in listed
    with pytest.raises(SettingsError, match="no such series"):
        roll_back(mirror, target, None, "puavo-os-nobody-amd64")


def test_one_series_after_another_rolls_back_to_the_same_and_both_stay_away(
    mirror: Path, remote: Path, target: Target
) -> None:
    before, _ = a_night_of_two_series(mirror, remote, target)
    for series in (SERIES, OTHER):
        roll_back(mirror, target, 1, series)
    assert documents(remote) == before
    assert publish(mirror, target, KEEP).failed.keys() == {
        f"meta/{SERIES}.json",
        f"meta/{OTHER}.json",
    }
    assert documents(remote) == before


@pytest.mark.parametrize("what", ["gone", "cut short", "another"])
def test_a_file_that_is_not_there_any_more_stops_it(
    mirror: Path, remote: Path, target: Target, what: str
) -> None:
    nights(mirror, target, remote, 3)
    victim = remote / image(1)
    data = victim.read_bytes()
    if what == "gone":
        victim.unlink()
    else:
        victim.write_bytes(data[:-1] if what == "cut short" else data[:-1] + b"?")
        os.utime(victim, (1, 1))
    seen = documents(remote)
    with pytest.raises(PublishError, match=r"not there any more.*Nothing was changed"):
        roll_back(mirror, target, 1)
    assert documents(remote) == seen
    with Publisher(mirror, target, KEEP) as publisher:
        missing = {step.number: step.missing for step in rollback.steps(publisher)}
    assert missing[3] == 0
    assert (missing[1] > 0) == (what != "another"), "only its bytes can tell that one"


def test_a_file_that_was_only_touched_is_read_and_counts(
    mirror: Path, remote: Path, target: Target
) -> None:
    seen = nights(mirror, target, remote, 2)
    for name in (image(1), image(2)):
        os.utime(remote / name, (1, 1))
    roll_back(mirror, target, 1)
    assert documents(remote) == seen[0]


def test_only_so_many_generations_are_kept(mirror: Path, remote: Path, target: Target) -> None:
    few = Model(max_delete=1.0, replace_pause=0.0, generations=2)
    names = [image(1), image(2)]
    for night in range(5):
        names = add_image(mirror, names, keep=3, seed=night)
        assert publish(mirror, target, few).ok
    with Publisher(mirror, target, few) as publisher:
        found = rollback.steps(publisher)
    assert [step.number for step in found] == [5, 4, 3]
    assert found[0].newest == {SERIES: "20260107120000"}
    assert found[1].newest == {SERIES: "20260106120000"}
    with pytest.raises(SettingsError, match="one of those that are kept: 4, 3"):
        roll_back(mirror, target, 1)


def test_what_a_rollback_changes_for_clients_is_told_by_series(
    mirror: Path, remote: Path, folder: Target
) -> None:
    nights(mirror, folder, remote, 2)
    other = "puavo-os-other-bookworm-2026-01-01-120000-amd64.img"
    (mirror / other).write_bytes(content(9, 1000))
    prepare(mirror, [other], series=OTHER)
    assert publish(mirror, folder, KEEP).ok
    with Publisher(mirror, folder, KEEP) as publisher:
        now, before, first = rollback.steps(publisher)
        (only,) = rollback.steps(publisher, [OTHER])[2].changes
        done = rollback.roll_back(publisher, 1, [OTHER])
    rollback.remember(mirror, "www", done)
    assert done.again == "1 of 1 series"
    left = published.known(mirror, "www")
    assert (left.restored, left.series) == (1, 1)
    assert now.changes == ()
    assert before.changes == (only,) == (Change(OTHER, "20260101120000", "", 1, 0, 0, 0),)
    assert first.changes[0] == only
    # The third image, with an rdiff from and to each of the others that there are.
    assert first.changes[1:] == (Change(SERIES, "20260103120000", "20260102120000", 1, 4, 0, 0),)


def test_a_rollback_takes_a_large_series_away_without_asking(
    mirror: Path, remote: Path, folder: Target
) -> None:
    seen = nights(mirror, folder, remote, 1)
    large = "puavo-os-other-bookworm-2026-01-01-120000-amd64.img"
    (mirror / large).write_bytes(content(9, 3_000_000))
    prepare(mirror, [large], series=OTHER)
    assert publish(mirror, folder, KEEP).ok
    with Publisher(mirror, folder, Model(replace_pause=0.0)) as publisher:
        assert rollback.roll_back(publisher, 1).restored == 1
    assert documents(remote) == seen[0]


def test_a_rollback_makes_no_mirror_where_its_disk_is_lost(tmp_path: Path) -> None:
    done = rollback.RolledBack("there", 3, 1, (), (), {}, {}, 0)
    rollback.remember(tmp_path / "lost" / "mirror", "www", done)
    assert list(tmp_path.iterdir()) == []


def test_a_first_generation_has_no_way_back(mirror: Path, target: Target) -> None:
    publish(mirror, target, KEEP)
    with pytest.raises(SettingsError, match="there is no earlier generation"):
        roll_back(mirror, target)


def test_a_generation_with_a_flipped_bit_is_no_way_back(
    mirror: Path, remote: Path, target: Target
) -> None:
    seen = nights(mirror, target, remote, 3)
    kept = remote / GENERATIONS / "3.json"
    kept.write_bytes(kept.read_bytes().replace(b"size", b"sizf", 1))
    with pytest.raises(SettingsError, match="no earlier generation"):
        roll_back(mirror, target)
    assert documents(remote) == seen[2]


def test_a_series_that_a_bad_night_dropped_comes_back(
    mirror: Path, remote: Path, target: Target
) -> None:
    other = image(1).replace("-test-", "-other-")
    (mirror / other).write_bytes(b"other" * 999)
    prepare(mirror, [other], series=OTHER)
    publish(mirror, target, KEEP)
    before = documents(remote)
    (mirror / "meta" / f"{OTHER}.json").unlink()
    add_image(mirror, [image(1), image(2)])
    assert publish(mirror, target, KEEP).ok
    assert f"meta/{OTHER}.json" not in documents(remote)
    roll_back(mirror, target)
    assert documents(remote) == before


def test_a_publisher_at_work_is_not_disturbed(mirror: Path, remote: Path, target: Target) -> None:
    nights(mirror, target, remote, 2)
    tree = FolderTree(Target(path=str(remote)))
    PublisherLock(tree, elsewhere("another")).acquire()
    with pytest.raises(LockedError):
        roll_back(mirror, target)


def test_a_rollback_of_one_series_is_another_than_that_of_all(
    mirror: Path, remote: Path, target: Target
) -> None:
    seen = nights(mirror, target, remote, 3)
    for _ in range(2):
        roll_back(mirror, target)
        assert documents(remote) == seen[1]
    for _ in range(2):
        roll_back(mirror, target, None, SERIES)
        assert documents(remote) == seen[0]


def test_only_what_was_published_is_put_back(mirror: Path, remote: Path, target: Target) -> None:
    document = remote / "meta" / f"{SERIES}.json"
    (first,) = nights(mirror, target, remote, 1)
    document.unlink()
    assert publish(mirror, target, KEEP).ok, "mended, by a generation that changes nothing"
    with pytest.raises(SettingsError, match="no earlier generation"):
        roll_back(mirror, target)
    document.write_bytes(document.read_bytes()[:300])
    names = sorted(path.name for path in mirror.glob("*.img"))
    add_image(mirror, names, keep=3, seed=5)
    assert publish(mirror, target, KEEP).ok
    roll_back(mirror, target)
    assert documents(remote) == first, "the damaged one is passed over"
    with pytest.raises(PublishError, match="was damaged before it was replaced"):
        roll_back(mirror, target, 2)
    with Publisher(mirror, target, KEEP) as publisher:
        assert [step.number for step in rollback.steps(publisher) if step.lost] == [2]


def test_metadata_without_digests_does_not_hide_the_generations(
    mirror: Path, remote: Path, target: Target
) -> None:
    seen = nights(mirror, target, remote, 3)
    document = remote / "meta" / f"{SERIES}.json"
    document.write_text(document.read_text().replace('"sha256"', '"sha255"'))
    with Publisher(mirror, target, KEEP) as publisher:
        found = {step.number: step.missing for step in rollback.steps(publisher)}
    assert found.keys() == {3, 2, 1}
    assert (found[3] > 0, found[2]) == (True, 0), "nobody knows what is there"
    roll_back(mirror, target, 2)
    assert documents(remote) == seen[1]


def test_from_damaged_metadata_nobody_rolls_back(
    mirror: Path, remote: Path, target: Target
) -> None:
    seen = nights(mirror, target, remote, 2)
    document = remote / "meta" / f"{SERIES}.json"
    document.write_bytes(document.read_bytes()[:200])
    with pytest.raises(PublishError, match="Publish once, which mends it"):
        roll_back(mirror, target)
    assert publish(mirror, target, KEEP).ok
    roll_back(mirror, target)
    assert documents(remote) == seen[0]
    assert not publish(mirror, target, KEEP).ok, "what was bad stays away"


def test_what_another_series_lacks_does_not_stop_a_step_of_this_one(
    mirror: Path, remote: Path, target: Target
) -> None:
    lost = image(9)
    (mirror / lost).write_bytes(b"hsqs" + bytes(5000))
    prepare(mirror, [lost], series=OTHER, pairs=[])
    seen = nights(mirror, target, remote, 2)
    (remote / lost).unlink()
    foreign = remote / "meta" / "theirs.json"
    foreign.write_text('{"x": {"images": [{"filename": "y", "size": 1}]}}')
    roll_back(mirror, target, None, SERIES)
    now = documents(remote)
    assert now.pop("meta/theirs.json")
    assert now == seen[0]


def test_after_a_step_forward_nothing_good_stays_away(
    mirror: Path, remote: Path, target: Target
) -> None:
    nights(mirror, target, remote, 2)
    roll_back(mirror, target)
    roll_back(mirror, target, 2)
    prepare(mirror, [image(1), image(2)])
    assert publish(mirror, target, KEEP).ok


def test_a_rollback_keeps_as_many_generations_as_are_wanted(
    mirror: Path, remote: Path, target: Target
) -> None:
    nights(mirror, target, remote, 4)
    few = KEEP.model_copy(update={"generations": 2})
    with Publisher(mirror, target, few) as publisher:
        rollback.roll_back(publisher, None)
    kept = sorted(path.name for path in (remote / GENERATIONS).iterdir())
    assert kept == ["3.json", "4.json", "5.json"], "one more: the step must be able to end"


def test_a_file_that_is_mended_after_a_rollback_is_described_again(
    mirror: Path, remote: Path, target: Target
) -> None:
    seen = nights(mirror, target, remote, 2)
    roll_back(mirror, target)
    (remote / image(1)).write_bytes(bytes((remote / image(1)).stat().st_size))
    os.utime(remote / image(1), (1, 1))
    found = publish(mirror, target, KEEP)
    assert list(found.failed) == [f"meta/{SERIES}.json"], "what is bad stays away"
    assert documents(remote) == seen[0], "and what was good is offered again"
    assert walk(remote) == []
