"""An engine that dies takes its rdiff with it, and nothing else."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

from delta.crashing import (
    MARK,
    count_for_ever,
    count_to,
    die,
    die_with_helper,
    double,
    fail,
    helper_of_this,
    likely_to_be_killed,
    raise_what_cannot_be_made_again,
    raise_what_cannot_be_told,
    run_out_of_space,
    tell_pid_and_much,
    tell_pid_for_ever,
)
from puavo_repository.delta import contained
from puavo_repository.errors import DeltaError, ImageError, PermanentError, TransientError
from support.instead import instead
from support.repository import AMXA, FREE, ROOT, V1, V2, Repository, environment, name


def command(repository: Repository, how: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "delta.crashing", how, *repository.arguments(*options)]


def surroundings() -> dict[str, str]:
    return environment(PYTHONPATH=f"{ROOT / 'include'}:{ROOT / 'tests'}")


def run(repository: Repository, how: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command with an engine that dies at one of two series."""
    return subprocess.run(
        command(repository, how, *options),
        capture_output=True,
        text=True,
        env=surroundings(),
        timeout=120,
        check=False,
    )


@pytest.fixture
def two_series(repository: Repository) -> Repository:
    for prefix in (AMXA, FREE):
        repository.add(name(V1, prefix))
        repository.add(name(V2, prefix))
    return repository


@pytest.mark.alike(1)
@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("segv", "the delta engine died (signal SIGSEGV) while it made this rdiff"),
        ("kill", "died (signal SIGKILL) while it made this rdiff. Most often the machine's memory"),
    ],
)
def test_a_crash_fails_its_rdiff_alone(two_series: Repository, how: str, problem: str) -> None:
    done = run(two_series, how, "--json")
    assert done.returncode == 1, done.stderr
    failed = f"{AMXA}-{V1}--{V2}-amd64.rdiff"
    assert f"error: {failed}: " not in done.stdout
    assert f"/{failed}: " in done.stderr
    assert problem in done.stderr
    assert len(json.loads(done.stdout)["failures"]) == 2  # there and back
    assert [len(image["diffs"]) for image in two_series.meta(f"{FREE}-amd64")] == [1, 1]
    assert [len(image["diffs"]) for image in two_series.meta(f"{AMXA}-amd64")] == [0, 0]
    assert two_series.check() == 2
    assert not [*two_series.mirror.rglob(".*.part")]


def test_an_index_that_crashes_fails_its_image_alone(two_series: Repository) -> None:
    with (two_series.images / name(V2)).open("ab") as stream:
        stream.write(MARK)
    done = run(two_series, "index", "--json")
    assert done.returncode == 1, done.stderr
    assert f"/{name(V2)}: the delta engine died (signal SIGSEGV) while it read this" in done.stderr
    assert two_series.check() == 2
    assert [image["filename"] for image in two_series.meta()] == [name(V1)]


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("segv", r"file: the delta engine died \(signal SIGSEGV\) so\. "),
        ("abort", r"died \(signal SIGABRT\) so \(found corrupted size vs\. prev_size\)"),
        ("exit", r"file: the delta engine ended \(exit status 3\) so"),
    ],
)
def test_a_function_that_crashes_is_an_error_here(tmp_path: Path, how: str, problem: str) -> None:
    with pytest.raises(DeltaError, match=problem):
        contained.call(tmp_path / "file", "so", die, how)
    assert contained.call(tmp_path, "so", double, 21) == 42


def test_what_is_raised_there_is_raised_here_with_all_its_parts(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        contained.call(tmp_path, "so", fail, Path("x"), "no", "this", "that", "do something")
    error = caught.value
    assert isinstance(error, PermanentError)
    assert str(error) == "x: no (expected this, found that). do something"
    with pytest.raises(OSError, match="No space") as system:
        contained.call(tmp_path, "so", run_out_of_space)
    assert system.value.errno == errno.ENOSPC
    assert "in run_out_of_space" in system.value.__notes__[0]
    with pytest.raises(RuntimeError, match="Unspeakable"):
        contained.call(tmp_path, "so", raise_what_cannot_be_told)
    with pytest.raises(RuntimeError, match="HalfTold") as half:
        contained.call(tmp_path, "so", raise_what_cannot_be_made_again)
    assert "in raise_what_cannot_be_made_again" in half.value.__notes__[0]


def test_progress_and_log_come_from_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[int] = []
    with caplog.at_level(logging.INFO):
        contained.call(tmp_path, "so", count_to, 1000, progress=told.append)
    assert sum(told) == 1000
    assert ("delta.crashing", logging.INFO, "counted to 1000") in caplog.record_tuples


def test_who_watches_may_stop_it_and_it_is_gone_then(tmp_path: Path) -> None:
    pids: list[int] = []

    def stop(done: int) -> None:
        if done:
            pids.append(done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contained.call(tmp_path, "so", tell_pid_for_ever, progress=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_who_waits_for_one_that_is_silent_may_stop_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contained.call(tmp_path, "so", double, 2)
    monkeypatch.setattr(contained, "_PATIENCE", 0.2)
    pids: list[int] = []

    def stop(done: int) -> None:
        if done:
            os.kill(done, signal.SIGSTOP)
            pids.append(done)
            killer.start()
        elif pids:
            raise KeyboardInterrupt

    killer = threading.Timer(10, lambda: os.kill(pids[0], signal.SIGKILL))
    with pytest.raises(KeyboardInterrupt):
        contained.call(tmp_path, "so", tell_pid_for_ever, progress=stop)
    killer.cancel()
    os.kill(pids[0], signal.SIGCONT)
    until(lambda: not Path(f"/proc/{pids[0]}").exists())


def begun(tmp_path: Path, work: Callable[..., None], until: threading.Event) -> threading.Thread:
    """Have something done beside until it is said that this suffices."""

    def watched(_done: int) -> None:
        if until.is_set():
            raise InterruptedError

    def call() -> None:
        with suppress(InterruptedError, TransientError):
            contained.call(tmp_path, "so", work, progress=watched)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(1)
    return thread


def test_what_ends_waits_for_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contained.call(tmp_path, "so", double, 2)
    monkeypatch.setattr(contained, "_PATIENCE", 60)
    first, both = threading.Event(), threading.Event()
    stopped = begun(tmp_path, count_for_ever, first)
    lost = begun(tmp_path, die_with_helper, first)  # its helper cannot say how it died
    later = begun(tmp_path, count_for_ever, both)
    try:
        first.set()
        for thread in (stopped, lost):
            thread.join(20)
            assert not thread.is_alive()
        assert later.is_alive()
    finally:
        both.set()
        later.join()


def test_an_answer_that_breaks_off_is_an_error_that_may_pass(tmp_path: Path) -> None:
    def kill(done: int) -> None:
        if done:
            time.sleep(0.5)  # it is amid the answer
            os.kill(done, signal.SIGKILL)

    with pytest.raises(TransientError, match="the delta engine was lost so"):
        contained.call(tmp_path, "so", tell_pid_and_much, progress=kill)


def test_a_helper_that_somebody_killed_is_replaced(tmp_path: Path) -> None:
    parent = contained.call(tmp_path, "so", helper_of_this)
    os.kill(parent, signal.SIGKILL)
    until(lambda: ") Z " in Path(f"/proc/{parent}/stat").read_text())
    assert contained.call(tmp_path, "so", double, 2) == 4


def test_a_helper_that_could_not_be_started_is_started_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = contained._Helper()
    monkeypatch.setattr(contained, "_helper", helper)
    full = mock.Mock(side_effect=BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
    with monkeypatch.context() as patched:
        instead(patched, contained, subprocess, Popen=full)
        with pytest.raises(BlockingIOError):
            contained.call(tmp_path, "so", double, 2)
    assert contained.call(tmp_path, "so", double, 2) == 4
    helper._close()


def test_a_helper_that_is_killed_with_an_order_is_an_error_that_may_pass(tmp_path: Path) -> None:
    helper = contained.call(tmp_path, "so", helper_of_this)
    os.kill(helper, signal.SIGSTOP)
    killer = threading.Timer(0.5, os.kill, (helper, signal.SIGKILL))
    killer.start()
    with pytest.raises(TransientError, match="the delta engine was lost so"):
        contained.call(tmp_path, "so", double, 2)
    killer.join()
    assert contained.call(tmp_path, "so", double, 2) == 4


def test_where_memory_runs_out_the_work_goes_and_nothing_else(tmp_path: Path) -> None:
    here = Path("/proc/self/oom_score_adj")
    before = here.read_text()
    helper = contained.call(tmp_path, "so", helper_of_this)
    assert contained.call(tmp_path, "so", likely_to_be_killed) > int(before)
    assert Path(f"/proc/{helper}/oom_score_adj").read_text() == here.read_text() == before


def groups_of(processes: list[int]) -> list[int]:
    """Return the process groups of those that are still there: tools end in a moment."""
    found = []
    for pid in processes:
        with suppress(ProcessLookupError):
            found.append(os.getpgid(pid))
    return found


def children_of(pid: int) -> list[int]:
    """Return all processes below one."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # one that ended just now has none
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children_of(int(child))]
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_command_that_is_ended(
    two_series: Repository, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        command(two_series, "hang"),
        env=surroundings(),
        stderr=subprocess.PIPE,
        process_group=0,
    )
    until(lambda: len(groups_of(children_of(process.pid))) >= 2)  # what forks, what works
    family = children_of(process.pid)
    assert set(groups_of(family)) == {process.pid}
    # As a terminal and Airflow do it: all of the group, but for the kill, which strikes one alone.
    os.kill(process.pid if number == signal.SIGKILL else -process.pid, number)
    process.communicate(timeout=10)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come to that")
