"""Whatever happens to a run: the next one leaves the same mirror as if nothing had happened.

The short form of ``make campaign``, which does the same for longer.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from campaign.faults import FAMILIES, FAULTS
from campaign.run import campaign
from campaign.terminal import until_ended

SEED = 20261123
DRAWN = random.Random(os.environ["SUITE_SEED"])  # conftest.py draws and prints it


def test_each_fault_has_a_family() -> None:
    assert sorted(name for family in FAMILIES for name in family) == sorted(FAULTS)


@pytest.mark.parametrize("fault", [DRAWN.choice(family) for family in DRAWN.sample(FAMILIES, 4)])
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


def test_who_ends_the_campaign_reads_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise KeyboardInterrupt

    assert until_ended(main) == 130
    assert capsys.readouterr().err == "Ended\n"
    assert until_ended(lambda: 1) == 1
