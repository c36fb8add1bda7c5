"""The figures that are made of the counts."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from puavo_repository.fleet import fold, store, usage
from puavo_repository.fleet.history import Share
from puavo_repository.fleet.usage import Unused, Usage, Wanted
from puavo_repository.formats.names import rdiff_name
from puavo_repository.settings import Settings
from support.fleet import DAY, SERIES, built, line, offer
from support.repository import Repository

FIRST, SECOND, THIRD = (built(number) for number in (0, 10, 20))
SIZE = 1000
RDIFFS = {(FIRST, SECOND): 100, (SECOND, THIRD): 200, (THIRD, SECOND): 300}


@pytest.fixture(autouse=True)
def at_day_40(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "today", lambda: (DAY + timedelta(40)).isoformat())


@pytest.fixture
def chosen(repository: Repository) -> Settings:
    offer(repository.mirror, dict.fromkeys((FIRST, SECOND, THIRD), SIZE), RDIFFS)
    return repository.settings(usage_logs=[str(repository.root / "access.log")])


def figures(chosen: Settings, *lines: str) -> Usage:
    Path(chosen.usage_logs[0]).write_text("".join(lines))
    fold.fold_logs(chosen, chosen.target)
    return fold.figures(chosen)


def fetched(source: str, target: str, clients: int, day: int) -> str:
    path = f"rdiffs/{rdiff_name(source, target)}"
    size = RDIFFS[source, target]
    return "".join(line(path, size, address=f"::{n}", day=day) for n in range(clients))


def whole(image: str, clients: int, day: int) -> str:
    return "".join(line(image, SIZE, address=f"::1:{n}", day=day) for n in range(clients))


def test_the_fleet_moves_as_clients_fetch(chosen: Settings) -> None:
    found = figures(
        chosen,
        fetched(FIRST, SECOND, 90, 11),  # so 90 had the first before the log began
        fetched(SECOND, THIRD, 80, 21),
        whole(THIRD, 10, 23),  # from the first, or new: no rdiff leads from there
        fetched(SECOND, THIRD, 10, 26),
    )
    (series,) = found.series
    assert (series.name, series.clients) == (SERIES, 100)
    assert [(one.image, one.share, one.nearly_all) for one in series.shares] == [(THIRD, 1.0, 3)]
    assert [(one.rdiffs, one.images, one.saved, one.clients) for one in found.days] == [
        (9000, 0, 90 * 900, 90),
        (16000, 0, 80 * 800, 80),
        (0, 10_000, 0, 10),
        (2000, 0, 10 * 800, 10),
    ]
    assert found.total().saved == 90 * 900 + 90 * 800
    assert fold.figures(chosen) == found
    assert usage.last(chosen.mirror_dir) == found


def test_whole_images_count_for_those_who_had_no_way(chosen: Settings) -> None:
    back = f"rdiffs/{rdiff_name(FIRST, THIRD)}"
    found = figures(
        chosen,
        whole(FIRST, 100, 11),
        fetched(FIRST, SECOND, 40, 12),
        "".join(line(back, 0, status=404, address=f"::{n}", day=21) for n in range(10)),
        whole(THIRD, 30, 21),
    )
    assert found.wanted == (Wanted(FIRST, THIRD, 30, 30_000),)
    (series,) = found.series
    assert series.shares == (
        Share(THIRD, 30, 0.3, 0.0, None),
        Share(SECOND, 40, 0.4, 0.0, None),
        Share(FIRST, 30, 0.3, 0.0, 11),
    )


def test_a_client_that_gives_an_rdiff_up_is_seen_to_fetch_the_image_instead(
    chosen: Settings,
) -> None:
    broken = f"rdiffs/{rdiff_name(FIRST, SECOND)}"
    found = figures(
        chosen,
        whole(FIRST, 10, 11),
        whole(THIRD, 10, 21),  # no rdiff leads to it: from the first
        whole(FIRST, 10, 22),  # and new ones, or back
        line(broken, 40, address="::1", day=23),
        line(SECOND, SIZE, address="::1", day=23),
        line(SECOND, SIZE, address="::2", day=23),  # another one, from who knows where
    )
    with store.Store(chosen.mirror_dir) as opened:
        sql = "SELECT name, downloads FROM counts, files WHERE file = id AND via = 'given up'"
        assert opened.rows(sql) == [(rdiff_name(FIRST, SECOND), 1)]
    assert sum(share.clients for share in found.series[0].shares) == found.series[0].clients


def test_rdiffs_that_nobody_fetched_in_a_month_are_named_once_the_logs_tell(
    chosen: Settings,
) -> None:
    assert figures(chosen, fetched(FIRST, SECOND, 1, 35)).unused == ()
    found = figures(chosen, fetched(SECOND, THIRD, 1, 5), fetched(SECOND, THIRD, 1, 30))
    back = rdiff_name(THIRD, SECOND)
    assert found.unused == (Unused(back, 300, (DAY + timedelta(10)).isoformat()),)
    assert found.unused_bytes == 300


def test_an_rdiff_that_was_only_asked_for_in_vain_is_unused(chosen: Settings) -> None:
    back, up = (f"rdiffs/{rdiff_name(*both)}" for both in ((THIRD, SECOND), (SECOND, THIRD)))
    found = figures(
        chosen,
        fetched(FIRST, SECOND, 1, 5),
        fetched(FIRST, SECOND, 1, 30),
        line(back, 0, status=404, day=30),
        line(up, 40, day=30),
        line(THIRD, SIZE, day=30),  # in its place
    )
    with store.Store(chosen.mirror_dir) as opened:
        ways = opened.rows("SELECT DISTINCT via FROM counts WHERE downloads ORDER BY via")
    assert [via for (via,) in ways] == ["given up", "https", "missing"]
    assert [f"rdiffs/{one.rdiff}" for one in found.unused] == [back, up]


def test_a_new_rdiff_was_on_offer_only_since_it_was_described(chosen: Settings) -> None:
    figures(chosen, whole(FIRST, 50, 12))
    both = {**RDIFFS, (FIRST, THIRD): 150}
    offer(chosen.mirror_dir, dict.fromkeys((FIRST, SECOND, THIRD), SIZE), both)
    found = figures(chosen, whole(FIRST, 50, 12), whole(THIRD, 20, 30))
    assert found.wanted == (Wanted(FIRST, THIRD, 20, 20_000),)


@pytest.mark.parametrize("asked", [False, True])
def test_it_was_on_offer_only_since_then_also_where_it_was_asked_for_before(
    chosen: Settings, repository: Repository, asked: bool
) -> None:
    """The first of the log's files has no news, as those that were rotated have none."""
    vain = line(f"rdiffs/{rdiff_name(FIRST, THIRD)}", 0, status=404, day=21)
    rotated = repository.root / "access.log.1"
    rotated.write_text(whole(FIRST, 50, 12) + vain * asked)
    os.utime(rotated, (1, 1))
    logs = chosen.model_copy(update={"usage_logs": [f"{repository.root}/access.log*"]})
    fold.fold_logs(logs, logs.target)
    both = {**RDIFFS, (FIRST, THIRD): 150}
    offer(logs.mirror_dir, dict.fromkeys((FIRST, SECOND, THIRD), SIZE), both)
    repository.root.joinpath("access.log").write_text(whole(THIRD, 20, 30))
    fold.fold_logs(logs, logs.target)
    with store.Store(logs.mirror_dir) as opened:
        since = {name: file.first for name, file in opened.files.items()}
    assert since[rdiff_name(FIRST, THIRD)] == str(DAY + timedelta(40))
    assert since[THIRD] == str(DAY + timedelta(20))
    assert fold.figures(logs).wanted == (Wanted(FIRST, THIRD, 20, 20_000),)


def test_what_was_there_when_the_first_log_was_read_is_as_old_as_its_image(
    chosen: Settings,
) -> None:
    figures(chosen)  # a log that is empty
    (unused, *_) = figures(chosen, whole(FIRST, 1, 1)).unused
    assert unused.since == str(DAY + timedelta(10))


def test_what_was_served_before_it_was_described_was_there(chosen: Settings) -> None:
    offer(chosen.mirror_dir, {})
    figures(chosen, fetched(FIRST, SECOND, 90, 11))
    offer(chosen.mirror_dir, dict.fromkeys((FIRST, SECOND, THIRD), SIZE), RDIFFS)
    fold.figures(chosen)
    with store.Store(chosen.mirror_dir) as opened:
        since = {name: file.first for name, file in opened.files.items()}
    assert since[rdiff_name(FIRST, SECOND)] == str(DAY + timedelta(10))
    assert since[rdiff_name(THIRD, SECOND)] == str(DAY + timedelta(40))
