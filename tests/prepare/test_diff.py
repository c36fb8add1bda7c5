from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.delta import AnchorEngine, contained
from puavo_repository.delta.work import prove, prove_rdiff, write_rdiff
from puavo_repository.errors import DeltaError, ImageChangingError, ProofError, StorageRefusedError
from puavo_repository.mirror import files
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import ADOPTED
from puavo_repository.prepare.diff import diff
from puavo_repository.prepare.fingerprint import fingerprint
from puavo_repository.prepare.policy import Pair
from puavo_repository.settings import Settings
from support.repository import V1, V2, V3, Repository, name

PAIR = Pair(name(V1), name(V2))


class Liar:
    """Makes a sound rdiff that gives the source instead of the target."""

    name = mark = "liar"
    threads = 1

    def delta(self, source: Any, target: Any, sink: Any, *_: Any) -> None:
        size = source.path.stat().st_size
        command = b"\x50" + bytes(4) + size.to_bytes(8, "big")
        sink(memoryview(bytes.fromhex("72730236") + command + b"\x00"))


class FullDisk:
    """Finds no space for the rdiff."""

    name = mark = "full disk"
    threads = 1

    def delta(self, source: Any, target: Any, sink: Any, *_: Any) -> None:
        sink(memoryview(b"some bytes"))
        raise OSError(28, "No space left on device")


class Slow:
    """Has an image written to before it is done."""

    name = mark = "slow"
    threads = 1

    def delta(self, source: Any, target: Any, sink: Any, *_: Any) -> None:
        AnchorEngine().delta(source, target, sink)
        os.utime(source.path, (1, 1))


@pytest.fixture
def settings(repository: Repository) -> Settings:
    found = repository.settings()
    for image in (PAIR.source, PAIR.target):
        repository.add(image)
        fingerprint(found, image)
    return found


def rdiff_path(settings: Settings) -> Path:
    return Mirror(settings.mirror_dir).rdiffs / PAIR.rdiff


def written(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written again; that it was read does not count."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def make_with_rdiff(settings: Settings) -> Path:
    """Make the rdiff as the old system did."""
    path = rdiff_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    signature = path.with_name("signature")
    source, target = settings.image_dir / PAIR.source, settings.image_dir / PAIR.target
    subprocess.run(["rdiff", "-b", "128", "signature", source, signature], check=True)
    subprocess.run(["rdiff", "-b", "128", "delta", signature, target, path], check=True)
    signature.unlink()
    return path


def test_an_rdiff_applies_and_is_recorded(settings: Settings) -> None:
    record = diff(settings, PAIR)
    path = rdiff_path(settings)
    assert record.digests.size == path.stat().st_size
    result = subprocess.run(
        ["rdiff", "patch", settings.image_dir / PAIR.source, path, "-"],
        capture_output=True,
        check=True,
    )
    assert result.stdout == (settings.image_dir / PAIR.target).read_bytes()
    assert Mirror(settings.mirror_dir).state.rdiffs.get(PAIR.rdiff) == record


def test_a_repeated_step_finds_its_result(settings: Settings) -> None:
    record = diff(settings, PAIR)
    before = written(rdiff_path(settings))
    assert diff(settings, PAIR) == record
    assert written(rdiff_path(settings)) == before


def test_a_sound_rdiff_of_the_old_system_is_adopted(settings: Settings) -> None:
    path = make_with_rdiff(settings)
    before = written(path)
    assert diff(settings, PAIR).engine == ADOPTED
    assert written(path) == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "append", "other"])
def test_an_unsound_rdiff_is_made_anew(settings: Settings, damage: str) -> None:
    path = make_with_rdiff(settings)
    content = path.read_bytes()
    path.write_bytes(
        {
            "flip": content[: len(content) // 2] + b"\xff" + content[len(content) // 2 + 1 :],
            "truncate": content[:-10],
            "append": content + b"\x00",
            "other": b"not an rdiff at all",
        }[damage]
    )
    assert diff(settings, PAIR).engine != ADOPTED
    prove(settings.image_dir / PAIR.source, settings.image_dir / PAIR.target, path)


def test_what_is_larger_than_the_policy_wants_is_remembered_not_kept(
    repository: Repository, settings: Settings
) -> None:
    strict = repository.settings(max_share=0.001)
    record = diff(strict, PAIR)
    assert record.identity is None
    assert os.listdir(rdiff_path(settings).parent) == []
    assert diff(strict, PAIR) == record
    assert diff(settings, PAIR).identity is not None


def test_an_image_that_was_replaced_since_is_fingerprinted_again(
    repository: Repository, settings: Settings
) -> None:
    target = repository.add(PAIR.target, size=70_000)
    record = diff(settings, PAIR)
    assert record.target == hashlib.sha512(target.read_bytes()).hexdigest()
    prove(settings.image_dir / PAIR.source, target, rdiff_path(settings))


def test_an_image_that_changes_meanwhile_is_left_for_later(
    repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = contained.call

    def change(*arguments: Any, **more: Any) -> Any:
        if prove_rdiff in arguments:
            return repository.add(PAIR.target, size=70_000)
        return call(*arguments, **more)

    monkeypatch.setattr(contained, "call", change)
    with pytest.raises(ImageChangingError, match="after it was fingerprinted"):
        diff(settings, PAIR)
    assert os.listdir(rdiff_path(settings).parent) == []


def test_a_wrong_rdiff_never_gets_its_name(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "delta_engine", lambda _: Liar())
    with pytest.raises(ProofError, match=PAIR.rdiff):
        diff(settings, PAIR)
    assert os.listdir(rdiff_path(settings).parent) == []
    failure = Mirror(settings.mirror_dir).state.failures.get(PAIR.rdiff)
    assert failure is not None
    assert failure.permanent


def test_a_wrong_rdiff_is_named_as_itself_not_as_its_part(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "delta_engine", lambda _: Liar())
    with pytest.raises(ProofError) as caught:
        diff(settings, PAIR)
    assert Path(caught.value.subject).name == PAIR.rdiff
    assert ".part" not in str(caught.value)


def test_an_image_that_changes_between_making_and_proving_is_left_for_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = contained.call

    def change(*arguments: Any, **more: Any) -> Any:
        result = call(*arguments, **more)
        with (settings.image_dir / PAIR.target).open("ab") as stream:
            stream.write(b"more")
        return result

    monkeypatch.setattr(contained, "call", change)
    with pytest.raises(ImageChangingError, match=PAIR.target):
        diff(settings, PAIR)


def test_a_full_disk_leaves_no_part_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "delta_engine", lambda _: FullDisk())
    with pytest.raises(StorageRefusedError, match="Free some space"):
        diff(settings, PAIR)
    assert os.listdir(rdiff_path(settings).parent) == []


def test_an_image_that_changes_while_the_rdiff_is_made_is_left_for_later(
    repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "delta_engine", lambda _: Slow())
    with pytest.raises(ImageChangingError, match=PAIR.source):
        diff(settings, PAIR)
    assert os.listdir(rdiff_path(settings).parent) == []
    assert Mirror(settings.mirror_dir).state.rdiffs.get(PAIR.rdiff) is None


def test_no_rdiff_is_described_or_on_record_while_another_takes_its_place(
    repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.prepare()
    (repository.images / PAIR.source).unlink()
    repository.add(PAIR.source, size=70_000)
    mirror, seen, claim = Mirror(repository.mirror), [], files.claim

    def named(part: Path, path: Path, before: files.Seen | None) -> None:
        if path.name == PAIR.rdiff:
            described = {file.name for file in mirror.described()}
            seen.append((path.name in described, mirror.state.rdiffs.get(path.name)))
        claim(part, path, before)

    monkeypatch.setattr(files, "claim", named)
    diff(settings, PAIR)
    assert (False, None) in seen


def test_an_rdiff_that_was_lost_is_made_again(settings: Settings) -> None:
    path = Mirror(settings.mirror_dir).rdiffs / diff(settings, PAIR).name
    path.unlink()
    diff(settings, PAIR)
    assert path.is_file()


def test_an_rdiff_is_durable_before_it_gets_its_name_and_its_digests_are_of_what_was_proven(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    claim, sync = files.claim, files.sync

    def synced(path: Path) -> None:
        done.append(f"synced {path.name}")
        sync(path)

    def named(part: Path, path: Path, seen: files.Seen | None) -> None:
        done.append(f"named {part.name}")
        claim(part, path, seen)

    monkeypatch.setattr(files, "sync", synced)
    monkeypatch.setattr(files, "claim", named)
    record = diff(settings, PAIR)
    done = [text for text in done if text.endswith(files.PART)]  # folders are synced as well
    assert [text.split()[0] for text in done] == ["synced", "named"]
    assert len({text.split()[1] for text in done}) == 1
    content = rdiff_path(settings).read_bytes()
    assert record.digests.sha512 == hashlib.sha512(content).hexdigest()
    assert record.digests.size == len(content)


@pytest.fixture
def over(repository: Repository, settings: Settings) -> Pair:
    """Have rdiffs from an image to the next, and from that to a third; return the pair of both."""
    third = repository.add(name(V3)).name
    for pair in (PAIR, Pair(PAIR.target, third)):
        diff(settings, pair)
    return Pair(PAIR.source, third, before=PAIR.target)


def watched(monkeypatch: pytest.MonkeyPatch, fail: bool) -> list[Any]:
    """Note what each rdiff is made with of the image between; where there is one it may fail."""
    given: list[Any] = []
    call = contained.call

    def noted(*arguments: Any, **more: Any) -> Any:
        if write_rdiff in arguments:
            given.append(arguments[-1])
            if fail and given[-1]:
                raise DeltaError("an rdiff", "it is damaged")
        return call(*arguments, **more)

    monkeypatch.setattr(contained, "call", noted)
    return given


@pytest.mark.parametrize("fail", [False, True])
def test_what_goes_over_the_image_before_uses_its_rdiffs_and_does_without_them_where_that_fails(
    settings: Settings, over: Pair, monkeypatch: pytest.MonkeyPatch, *, fail: bool
) -> None:
    given = watched(monkeypatch, fail)
    first, second = PAIR.rdiff, Pair(PAIR.target, over.target).rdiff
    diff(settings, over)
    assert (given[0].first.name, given[0].second.name) == (first, second)
    assert given[1:] == [None] * fail
    whole = (Mirror(settings.mirror_dir).rdiffs / over.rdiff).read_bytes()
    (Mirror(settings.mirror_dir).rdiffs / over.rdiff).unlink()
    diff(settings, Pair(over.source, over.target))
    assert (Mirror(settings.mirror_dir).rdiffs / over.rdiff).read_bytes() == whole


@pytest.mark.alike(3)
@pytest.mark.parametrize(
    "change",
    [
        lambda mirror, first, _: mirror.state.rdiffs.put(replace(first, engine="anchors")),
        lambda mirror, first, _: mirror.state.rdiffs.put(replace(first, source="another")),
        lambda mirror, _, second: mirror.state.rdiffs.put(replace(second, target="another")),
        lambda mirror, first, _: (mirror.rdiffs / first.name).unlink(),
        lambda mirror, _, second: mirror.state.rdiffs.put(replace(second, identity=None)),
        lambda mirror, _1, _2: mirror.state.images.remove(PAIR.target),
    ],
    ids=["older engine", "other source", "other target", "lost", "not kept", "image not known"],
)
def test_rdiffs_over_another_image_are_used_only_where_all_is_known_of_them(
    settings: Settings, over: Pair, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    mirror = Mirror(settings.mirror_dir)
    names = PAIR.rdiff, Pair(PAIR.target, over.target).rdiff
    change(mirror, *map(mirror.state.rdiffs.get, names))
    given = watched(monkeypatch, fail=False)
    diff(settings, over)
    assert given == [None]
