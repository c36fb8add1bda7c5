"""Whatever happens to a run: the next one leaves the same mirror as if nothing had happened.

The short form of ``make campaign``, which does the same for longer.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from campaign import campaign
from faults import FAULTS
from repository import V1, V2, Repository, environment, name

SEED = 20261123


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_is_disturbed_loses_nothing(tmp_path: Path, fault: str) -> None:
    for nights in range(1, 6):  # one may miss, and some have nothing to strike in the first night
        (tmp_path / f"{nights}").mkdir()
        row = campaign(fault, tmp_path / f"{nights}", nights, SEED + nights)
        if row.why_not:
            pytest.skip(row.why_not)
        assert row.lost == {}
        assert row.walks > 0
        if row.struck:
            return
    pytest.fail("this fault never strikes")


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
