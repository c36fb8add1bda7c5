"""The cores that a task keeps busy are those that its worker gives it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from puavo_repository import cores
from support.instead import instead
from support.repository import environment

_GROUPS = Path("/sys/fs/cgroup/cpu")


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Path]:
    """Return a real control group, inside one that allows one core and a half."""
    outer = _GROUPS / f"puavo-repository-test-{os.getpid()}"
    inner = outer / "inner"
    try:
        inner.mkdir(parents=True)
        (outer / "cpu.cfs_period_us").write_text("100000")
        (outer / "cpu.cfs_quota_us").write_text("150000")
    except OSError:
        pytest.skip("no control group of version 1 can be made here")
    yield inner
    inner.rmdir()
    outer.rmdir()


def test_the_limit_of_a_control_group_around_counts(
    limited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = "from puavo_repository import cores, os; os.sched_getaffinity = lambda _: range(64); "
    asks = asks.replace("import cores, os", "import cores; import os") + "print(cores.cores())"
    joined = f"echo $$ > {limited}/tasks && exec {sys.executable} -c '{asks}'"
    done = subprocess.run(
        ["sh", "-c", joined], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2"


@pytest.mark.parametrize(
    ("group", "folder", "limit", "expected"),
    [
        ("/worker/task", "worker", "150000 100000", 2),
        ("/worker/task", "worker/task", "50000 100000", 1),
        ("/worker/task", "worker", "max 100000", 8),
        ("/worker/task", "worker", "9900000 100000", 8),
        ("/pods/a", ".", "300000 100000", 3),  # a container that sees its whole path
        ("/", ".", "300000 100000", 3),  # one that sees its own group as the root
        ("/worker/task", "worker", "nonsense", 8),
    ],
)
def test_the_limit_of_version_2_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    folder: str,
    limit: str,
    expected: int,
) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "cpu.max").write_text(f"{limit}\n")
    (tmp_path / "own").write_text(f"4:memory:/\n0::{group}\n")
    monkeypatch.setattr(cores, "_GROUP", tmp_path / "own")
    monkeypatch.setattr(cores, "_TOP", tmp_path)
    instead(monkeypatch, cores, os, sched_getaffinity=lambda _: range(8))
    assert cores.cores() == expected


def test_where_nothing_is_known_of_groups_the_affinity_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_GROUP", tmp_path / "none")
    assert cores.cores() == len(os.sched_getaffinity(0))
