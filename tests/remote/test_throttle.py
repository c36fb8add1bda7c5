"""The bandwidth limit holds over all connections, and by the hour."""

from __future__ import annotations

import time

import pytest

from puavo_repository.remote import pool
from puavo_repository.remote.pool import Bandwidth
from support.instead import instead


def test_rates_and_hours_are_read() -> None:
    assert Bandwidth.parse("") == Bandwidth()
    assert Bandwidth.parse("2M").at(3) == 2_000_000
    limit = Bandwidth.parse("0, 7-19=1.5k 22-6=300")
    assert [limit.at(hour) for hour in (6, 7, 18, 19, 22, 23, 0, 5)] == [
        0, 1500, 1500, 0, 300, 300, 300, 300,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["fast", "1-2", "7-25=1M", "24-3=1M", "-5", "1T"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no "):
        Bandwidth.parse(text)


def test_the_sum_of_all_users_stays_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, taken = [100.0], []

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    instead(monkeypatch, pool, time, monotonic=lambda: clock[0], sleep=sleep)
    throttle = Bandwidth(500_000)
    for _ in range(20):
        throttle.admit(100_000, lambda: taken.append(clock[0]))
    assert 2_000_000 / 500_000 - 0.5 <= clock[0] - 100 <= 2_000_000 / 500_000
    assert taken, "answers are taken before a wait"
    Bandwidth().admit(1 << 60, taken.clear)
    assert taken, "without a limit nobody waits"
