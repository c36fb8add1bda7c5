"""A fleet whose every client is known: how far it is, and what each policy would have saved.

The long form is ``python -m campaign.fleet``.
"""

from __future__ import annotations

from puavo_repository.fleet import fold
from puavo_repository.prepare.demand import DEMAND, records
from support.fleet import built, line, offer
from support.repository import AMXA, Repository
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


def test_a_series_without_a_known_step_has_all_rdiffs_in_the_replay_as_in_the_plan(
    repository: Repository,
) -> None:
    log, size = repository.root / "access.log", 1000
    known, other = (
        [built(number, prefix) for number in (0, 10, 20)] for prefix in (AMXA, "puavo-os-other")
    )
    offer(repository.mirror, dict.fromkeys(known, size))
    offer(repository.mirror, dict.fromkeys(other, size), series="puavo-os-other-amd64")
    log.write_text(line(known[0], size, day=1) + line(known[1], size, day=11))
    chosen = repository.settings(usage_logs=[str(log)])
    with on_day(40):
        fold.fold_logs(chosen, chosen.target)
        found = {one.policy: one.rdiffs for one in fold.policies(chosen, 40)}
    assert found["all"] == 6 + 6
    # Until the step of day 11 is known, both between the first two; then the last alone.
    assert found["demand 0.95"] == 2 + 1 + 6
