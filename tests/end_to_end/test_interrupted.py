"""Killed at any step and run again: the same mirror as undisturbed, right at every moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from repository import AMXA, FREE, V1, V2, V3, V4, Repository, environment, name, public

KILLER = Path(__file__).resolve().parents[1] / "killer.py"
# All steps of a night in `make campaign`; a few of them in the suite.
STEPS = range(1, 400) if os.environ.get("PUAVO_CAMPAIGN") else (2, 23, 47, 71, 97, 113, 131)


def run_until(repository: Repository, step: int) -> bool:
    """Run until a step; return whether the run was killed there."""
    done = subprocess.run(
        [sys.executable, str(KILLER), str(step), *repository.arguments()],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in {3, -signal.SIGKILL}, done.stderr
    return done.returncode == -signal.SIGKILL


def first_night(repository: Repository) -> None:
    for version in (V1, V2, V3):
        repository.add(name(version))
    repository.add(name(V1, FREE))


def second_night(repository: Repository) -> None:
    """Change all that can change: one image new, one gone, one replaced."""
    repository.add(name(V4))
    (repository.images / name(V1, FREE)).unlink()
    (repository.images / name(V2)).unlink()
    repository.add(name(V2), size=61_000)


@pytest.fixture
def wanted(tmp_path: Path) -> dict[str, bytes]:
    """Return the mirror that an undisturbed run leaves."""
    repository = Repository(tmp_path / "undisturbed")
    first_night(repository)
    second_night(repository)
    assert repository.prepare().ok
    return public(repository.mirror)


@pytest.mark.parametrize("night", ["first", "second"])
def test_a_run_that_is_killed_over_and_over_comes_to_the_same_end(
    tmp_path: Path, wanted: dict[str, bytes], night: str
) -> None:
    repository = Repository(tmp_path / "killed")
    first_night(repository)
    if night == "second":
        assert repository.prepare().ok
    second_night(repository)
    # Each kill is a little further than the work that the one before could save.
    step = 1
    while run_until(repository, step):
        repository.check(at_rest=False)
        step += 1
    assert repository.prepare().ok
    assert public(repository.mirror) == wanted
    assert repository.check() == 9
    assert list(repository.mirror.rglob(".*.part")) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_night_that_is_killed_once_comes_to_the_same_end(
    tmp_path: Path, wanted: dict[str, bytes], step: int
) -> None:
    repository = Repository(tmp_path / "killed")
    first_night(repository)
    assert repository.prepare().ok
    second_night(repository)
    run_until(repository, step)
    repository.check(at_rest=False)
    assert repository.prepare().ok
    assert public(repository.mirror) == wanted


def test_a_broken_off_run_says_so_and_goes_on_later(repository: Repository) -> None:
    for version in (V1, V2):
        repository.add(name(version), size=8_000_000)
    command = [sys.executable, "-m", "puavo_repository.cli", *repository.arguments()]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        run.stderr.readline()  # the first stage has begun
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "the next run goes on" in said
    repository.check(at_rest=False)
    assert repository.prepare().ok
    assert repository.check() == 2


def test_the_killer_does_kill(repository: Repository) -> None:
    repository.add(name(V1))
    assert run_until(repository, 5)
    assert not run_until(repository, 10_000)
    assert AMXA in os.listdir(repository.mirror / "meta")[0]
