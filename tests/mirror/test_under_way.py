"""What goes on is seen while it does, and no longer; who looks on never stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from puavo_repository.mirror import under_way
from puavo_repository.mirror.under_way import Recorder, UnderWay
from puavo_repository.progress import NO_WATCHER, Progress, Watcher
from puavo_repository.remote.target import Target
from support.mirrors import NOW, publish

A_RECORD = UnderWay("file%3A%2F%2F%2Fx", "upload", "a.img", 3, 9, 0.0, 4.5)


class Waiting(Watcher):
    """Holds the work up until somebody sees it."""

    def __init__(self, mirror: Path) -> None:
        self._mirror = mirror
        self.seen: list[UnderWay] = []

    def begin(self, name: str, total: int, files: int | None = None) -> Progress:
        if files is not None:
            return super().begin(name, total, files)

        def at_a_file() -> list[UnderWay]:
            return [one for one in under_way.now(self._mirror) if one.what != under_way.UPLOAD]

        def progress(done: int) -> None:
            wait_for(lambda: any(one.done or not done for one in at_a_file()))
            self.seen += at_a_file()

        return progress


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "EVERY", 0.01)


def test_a_run_of_publish_is_seen_while_it_goes_on(mirror: Path, folder: Target) -> None:
    watcher = Waiting(mirror)
    report = publish(mirror, folder, NOW, watcher=watcher)
    assert report.ok
    sizes = report.uploaded | report.assembled
    for one in watcher.seen:
        assert (one.subject, one.stage) == (folder.url, "upload")
        assert one.what in sizes
        assert 0 <= one.done <= one.total == sum(sizes.values())
    assert watcher.seen
    assert watcher.seen[-1].done > 0
    assert list(under_way.records(mirror).folder.iterdir()) == [], "it goes with the work"


def test_who_died_is_not_at_work_and_its_record_goes_with_the_next_one(tmp_path: Path) -> None:
    records, now = under_way.records(tmp_path), time.time()
    for name, age in {"dead": 61.0, "alive": 50.0, "a-clock-off": -50.0, "far-off": -61.0}.items():
        records.put(replace(A_RECORD, name=name, at=now - age))
    assert sorted(one.name for one in under_way.now(tmp_path)) == ["a-clock-off", "alive"]
    with Recorder(tmp_path, "file:///y", "upload", NO_WATCHER) as recorder:
        recorder.begin("b.img", 5)(2)
        name = "file%3A%2F%2F%2Fy"
        wait_for(lambda: records.get(name) is not None)
        assert records.names() == ["a-clock-off", "alive", name]
    assert records.names() == ["a-clock-off", "alive"], "each removes its own"


def test_what_was_killed_leaves_nothing_for_the_next_one_at_the_same(tmp_path: Path) -> None:
    kept = under_way.records(tmp_path).folder
    kept.mkdir(parents=True)
    for subject in ("prepare", "file%3A%2F%2F%2Fx"):
        (kept / f".{subject}.json.2fceaa98.part").touch()
    with Recorder(tmp_path, "prepare", "diff", NO_WATCHER):
        pass
    assert [path.name for path in kept.iterdir()] == [".file%3A%2F%2F%2Fx.json.2fceaa98.part"]


def test_a_signal_while_it_begins_is_what_the_caller_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(threading.Thread):
        def start(self) -> None:
            raise KeyboardInterrupt

    kinds = {"Lock": threading.Lock, "Event": threading.Event, "Thread": Interrupted}
    monkeypatch.setattr(under_way, "threading", SimpleNamespace(**kinds))
    with pytest.raises(KeyboardInterrupt), Recorder(tmp_path, "a", "b", NO_WATCHER) as recorder:
        recorder.begin("a.img", 9)


def test_a_file_that_is_begun_again_does_not_count_twice(tmp_path: Path) -> None:
    records = under_way.records(tmp_path)
    with Recorder(tmp_path, "x", "", NO_WATCHER) as recorder:
        whole = recorder.begin("upload", 100, 2)
        recorder.begin("a.img", 40)(30)
        recorder.begin("a.img", 40)(40)
        whole(40)
        recorder.begin("b.img", 60)(10)

        def half() -> bool:
            one = records.get("x")
            return one is not None and (one.what, one.done, one.total) == ("b.img", 50, 100)

        wait_for(half)


def test_what_cannot_be_recorded_holds_nothing_up(mirror: Path, folder: Target) -> None:
    folder_of = under_way.records(mirror).folder
    folder_of.parent.mkdir(exist_ok=True)
    folder_of.write_bytes(b"no folder")
    assert publish(mirror, folder, NOW).ok
