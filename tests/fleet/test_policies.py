"""A fleet whose every client is known: how far it is, and what each policy would have saved.

The long form is ``python -m campaign.fleet``.
"""

from __future__ import annotations

from puavo_repository.fleet import fold
from puavo_repository.prepare.demand import DEMAND, records
from support.repository import Repository
from support.synthetic_fleet import SyntheticFleet, furthest, live, on_day

DAYS = 100


def test_shares_are_right_and_demand_needs_half_the_rdiffs(repository: Repository) -> None:
    log = repository.root / "access.log"
    repository.mirror.mkdir()
    chosen = repository.settings(usage_logs=[str(log)])
    fleet = SyntheticFleet(repository.mirror, log, clients=1000)
    live(fleet, chosen, range(DAYS))
    with on_day(DAYS - 1):
        figures = fold.figures(chosen)
        found = {one.policy: one for one in fold.policies(chosen, 60)}
    assert furthest(fleet, figures) < 0.03
    old, new = found["all"], found["demand 0.95"]
    assert new.rdiffs <= old.rdiffs / 2
    assert new.saved >= 0.95 * old.saved
    assert old.share == 1.0
    assert new.disk < old.disk
    assert found["nearest:1"].rdiffs < found["demand 0.9"].rdiffs < found["demand 0.99"].rdiffs
    expected = records(repository.mirror).get(DEMAND)
    assert expected is not None
    most = max(expected.steps, key=lambda step: step[3])
    assert most[1:3] == (0, 1), "most clients go from the last but one to the newest"
