"""How long a disk lasts: by the last weeks, and nothing is said of what is not known."""

from __future__ import annotations

import pytest

from puavo_repository.mirror import space

DAY = 86_400.0
NOVEMBER = 1_790_812_800.0  # 2026-10-01


def history(*free: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, one in enumerate(free):
        found = space.noted(found, one, NOVEMBER + number * DAY)
    return found


@pytest.mark.parametrize(
    ("free", "days"),
    [
        ([], None),
        ([800, 790, 780], None),  # one night would count for all
        ([800, 790, 780, 770, 760, 750, 740, 730], 73.0),
        ([730, 740, 750, 760, 770, 780, 790, 800], None),
        ([800] * 8, None),
        ([0] * 60 + list(range(800, 500, -10)), 51.0),  # long ago is not how it fills now
        ([100_000, *[99_999] * 8], None),  # a hundred years are for ever
    ],
)
def test_days_are_those_at_the_rate_of_the_last_weeks(free: list[int], days: float | None) -> None:
    found = space.days_left(history(*free), free[-1] if free else 5)
    assert found == (None if days is None else pytest.approx(days))


def test_whether_a_disk_fills_is_known_after_a_week() -> None:
    assert space.change(history(800, 790, 780)) is None
    assert space.change(history(*range(800, 0, -100))) == pytest.approx(-100)
    assert space.change(history(*[800] * 8)) == 0


def test_one_entry_a_day_for_sixty_days() -> None:
    found = history(*range(100))
    assert list(found.values()) == list(range(40, 100))
    assert space.noted(found, 7, NOVEMBER + 99 * DAY + 60) == {**found, max(found): 7}
