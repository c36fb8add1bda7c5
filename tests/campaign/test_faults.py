"""Whatever happens to a run: the next one leaves the same mirror as if nothing had happened.

The short form of ``make campaign``, which does the same for longer.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from campaign.faults import FAULTS
from campaign.run import campaign

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
