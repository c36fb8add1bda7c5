"""The short form of what ``make campaign`` tries for long: crash points, and a state machine."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from campaign.faults import EACH
from campaign.faults.each import EachStep
from campaign.machine import Repositories, settings
from campaign.run import campaign

SEED = 20261124


@pytest.mark.parametrize("fault", EACH)
def test_a_run_that_is_killed_at_any_step_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(EachStep, "stride", 211)
    row = campaign(fault, tmp_path, 100, SEED)
    assert row.lost == {}
    assert row.struck
    assert row.struck < row.tries, "the last one came to its end"


def test_whatever_happens_in_any_order_nothing_is_lost() -> None:
    hypothesis.seed(SEED)(Repositories)
    run_state_machine_as_test(Repositories, settings=settings(2, 10))
