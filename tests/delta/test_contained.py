"""An engine that dies takes its rdiff with it, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from repository import AMXA, FREE, ROOT, V1, V2, Repository, environment, name


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


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("segv", "the delta engine died (signal SIGSEGV) while it made this rdiff"),
        ("abort", "died (signal SIGABRT) while it made this rdiff (found corrupted size vs. prev"),
        ("kill", "died (signal SIGKILL) while it made this rdiff. Most often the machine's memory"),
        ("exit", "the delta engine ended (exit status 3) while it made this rdiff"),
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
    # The next night has an engine that is well.
    assert two_series.command().returncode == 0
    assert two_series.check() == 4
