"""How much a disk has left, day by day, and how long that lasts. Pure."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from statistics import linear_regression

History = Mapping[str, int]
"""Free bytes by day, as 2026-11-30; the days in their order."""

KEPT = 60  # days
_LOOKED_AT = 30  # the last of them say how fast the disk fills
_LEAST = 7  # days between the first and the last; before, one night would count for all
_FOREVER = 3650  # days from which on nobody has to think of it


def noted(history: History, free: int, at: float) -> dict[str, int]:
    """Return a history with what was free at a moment, in seconds since the epoch; old days go."""
    day = datetime.fromtimestamp(at, UTC).date().isoformat()
    return dict(sorted({**history, day: free}.items())[-KEPT:])


def change(history: History) -> float | None:
    """Return how many bytes a day more are free, by the last weeks; None where not known yet."""
    last = dict(sorted(history.items())[-_LOOKED_AT:])
    days = [date.fromisoformat(day).toordinal() for day in last]
    if not days or days[-1] - days[0] < _LEAST:
        return None
    return linear_regression(days, list(last.values())).slope


def days_left(history: History, free: int) -> float | None:
    """Return how many days the ``free`` bytes last at the rate of the last weeks.

    None where the disk does not fill, or for ever so slowly, or that is not known yet.
    """
    a_day = change(history)
    if a_day is None or a_day >= 0:
        return None
    left = free / -a_day
    return left if left < _FOREVER else None
