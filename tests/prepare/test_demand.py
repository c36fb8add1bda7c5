"""Which rdiffs are made where clients' demand is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from puavo_repository.fleet import fold
from puavo_repository.formats.names import rdiff_name
from puavo_repository.mirror.store import Record
from puavo_repository.prepare.demand import DEMAND, Expected, Sizes, choose, records
from puavo_repository.prepare.plan import DiffState, look
from support.fleet import SERIES, built
from support.repository import FREE, V1, V2, V3, V4, Repository, name

IMAGES = [built(number) for number in range(5)]
OLDEST, OLDER, MIDDLE, LAST, NEWEST = IMAGES
SIZES = Sizes(dict.fromkeys(IMAGES, 1000), {})


def steps(*known: tuple[int, int, float]) -> Expected:
    return Expected(DEMAND, tuple((SERIES, *one) for one in known))


def chosen(expected: Expected, coverage: float = 0.95, **how: object) -> set[tuple[str, str]]:
    options = {"targets": 3, **how}
    return choose(expected.of(SERIES, IMAGES), IMAGES, SIZES, coverage, **options)  # type: ignore[arg-type]


def test_what_clients_did_before_they_are_expected_to_do_between_the_images_of_today() -> None:
    assert steps((0, 1, 10), (0, 3, 2), (1, -1, 0.5)).of(SERIES, IMAGES) == {
        (LAST, NEWEST): 10,
        (OLDER, NEWEST): 2,
        # Clients go back to the last but one; the newest of today will be that one day, but
        # what goes back to it then has no image yet.
        (NEWEST, LAST): 0.5,
    }
    # What is made at a higher age is still to come for a newer target.
    assert steps((1, 1, 4)).of(SERIES, IMAGES) == {(MIDDLE, LAST): 4, (LAST, NEWEST): 4}
    assert steps((9, 1, 4), (0, 9, 4), (0, -1, 4)).of(SERIES, IMAGES[:2]) == {
        (OLDEST, OLDER): 4,
    }
    assert steps((0, 1, 10)).of("puavo-os-other-amd64", IMAGES) == {}


def test_puavo_tells_what_its_devices_want() -> None:
    wanted = ((OLDEST, NEWEST, 7.0), (NEWEST, NEWEST, 90.0), (built(99), NEWEST, 9.0))
    expected = Expected(DEMAND, ((SERIES, 0, 4, 2.0),), wanted)
    assert expected.of(SERIES, IMAGES) == {(OLDEST, NEWEST): 7}


def test_those_worth_most_are_made_up_to_the_coverage() -> None:
    expected = steps((0, 1, 80), (0, 2, 16), (0, 3, 3), (0, 4, 1))
    last, middle, older, oldest = ((image, NEWEST) for image in IMAGES[-2::-1])
    assert chosen(expected, 0.8) == {last}
    assert chosen(expected, 0.81) == {last, middle}
    assert chosen(expected, 0.97) == {last, middle, older}
    assert chosen(expected, 1.0) == {last, middle, older, oldest}
    assert chosen(expected, 0.0) == {last}


def test_the_step_to_the_newest_is_always_there_and_no_target_beyond_the_last() -> None:
    assert chosen(Expected(DEMAND)) == {(LAST, NEWEST)}
    assert chosen(steps((3, 1, 100))) == {(LAST, NEWEST), (MIDDLE, LAST), (OLDER, MIDDLE)}
    assert chosen(steps((0, 1, 100)), targets=0) == set()
    assert choose({}, IMAGES[:1], SIZES, 0.95, targets=3) == set()
    assert choose({}, [], SIZES, 0.95, targets=3) == set()


def test_an_rdiff_that_is_there_stays_while_it_is_worth_nearly_enough() -> None:
    expected = steps((0, 1, 90), (0, 2, 6), (0, 3, 4))
    there = {(OLDER, NEWEST)}
    assert chosen(expected, 0.95) == {(LAST, NEWEST), (MIDDLE, NEWEST)}
    assert chosen(expected, 0.95, present=there) == {(LAST, NEWEST), (MIDDLE, NEWEST), *there}
    assert chosen(expected, 0.9, present=there) == {(LAST, NEWEST)}


def test_an_rdiff_that_spares_nothing_is_not_made() -> None:
    made = {rdiff_name(OLDEST, NEWEST): 1000, rdiff_name(LAST, NEWEST): 10}
    sizes = Sizes(SIZES.images, made)
    pairs = {(source, NEWEST): 1.0 for source in IMAGES[:-1]}
    assert choose(pairs, IMAGES, sizes, 1.0, targets=1) == {
        (LAST, NEWEST),
        (MIDDLE, NEWEST),  # nearer to the one that is small
    }


def test_what_was_never_made_is_as_large_as_its_neighbours() -> None:
    sizes = Sizes(SIZES.images, {rdiff_name(LAST, NEWEST): 100, rdiff_name(OLDEST, NEWEST): 500})
    found = sizes.of(IMAGES, [(source, NEWEST) for source in IMAGES[:-1]])
    assert list(found.values()) == [500, 500, 100, 100]


@pytest.fixture
def four(repository: Repository) -> Repository:
    for version in (V1, V2, V3, V4):
        repository.add(name(version))
    return repository


def rdiffs(repository: Repository, **how: object) -> set[str]:
    plan = look(repository.settings(sources="demand", **how))
    return {pair.rdiff for pair in plan.pairs(*DiffState)}


def test_the_plan_follows_the_demand_and_makes_all_where_it_is_not_known(
    four: Repository,
) -> None:
    one, two, three, last = (name(version) for version in (V1, V2, V3, V4))
    every = {pair.rdiff for pair in look(four.settings()).pairs(*DiffState)}
    assert rdiffs(four) == every
    assert len(every) == 9
    expected = Expected(DEMAND, (("puavo-os-amxa-buster-amd64", 0, 2, 90.0),))
    records(four.mirror).put(expected)
    assert rdiffs(four) == {rdiff_name(two, last), rdiff_name(three, last)}
    four.write_config(
        "buster",
        {
            "puavo-os-amxa-buster-amd64": {
                "images": [one, two, three, last],
                "extra_rdiffs": {last: [one]},
            }
        },
    )
    extra = rdiffs(four, no_config=True)
    assert extra == {rdiff_name(source, last) for source in (one, two, three)}
    (four.mirror / ".puavo-repository" / "demand.json").write_text("damaged")
    assert rdiffs(four) == every | extra


def test_a_series_of_which_nothing_is_known_keeps_all_its_rdiffs(four: Repository) -> None:
    own, log = "puavo-os-amxa-buster-amd64", four.root / "access.log"
    every, last = rdiffs(four), name(V4)
    log.touch()
    (four.mirror / "meta").mkdir(parents=True)
    chosen = four.settings(usage_logs=[str(log)])
    fold.fold_logs(chosen, chosen.target)
    fold.figures(chosen)  # by a log without a line of ours
    assert rdiffs(four) == every
    elsewhere = name(V1, FREE)
    steps = (("puavo-os-free-buster-amd64", 0, 1, 9.0),)
    others = Expected(DEMAND, steps, ((elsewhere, elsewhere, 9.0),))
    records(four.mirror).put(others)
    assert rdiffs(four) == every
    newest = {rdiff_name(name(V3), last)}
    for known in (
        replace(others, steps=((own, 0, 9, 9.0),)),
        replace(others, wanted=((last, last, 9.0),)),
    ):
        records(four.mirror).put(known)
        assert rdiffs(four) == newest, "it is known that no client makes a step of these"


def test_what_devices_want_is_known_while_the_image_is_new(repository: Repository) -> None:
    one, two, three, last = (name(version) for version in (V1, V2, V3, V4))
    for image in (one, two, three):
        repository.add(image, size=5_000)
    assert repository.prepare(targets=0).ok
    repository.add(last)
    records(repository.mirror).put(Expected(DEMAND, wanted=((one, last, 9.0),)))
    wanted = {(one, last), (three, last), (two, three)}
    assert rdiffs(repository) == {rdiff_name(*both) for both in wanted}


def test_what_the_demand_drops_goes_from_the_metadata_and_from_here(
    repository: Repository,
) -> None:
    for version in (V1, V2, V3):
        repository.add(name(version), size=5_000)
    assert repository.prepare(targets=1).ok
    made = {path.name for path in (repository.mirror / "rdiffs").iterdir()}
    assert made == {rdiff_name(name(source), name(V3)) for source in (V1, V2)}
    series = "puavo-os-amxa-buster-amd64"
    records(repository.mirror).put(Expected(DEMAND, ((series, 0, 1, 90.0),)))
    assert repository.prepare(sources="demand").ok
    kept = {rdiff_name(name(V2), name(V3))}
    assert {diff["filename"] for image in repository.meta() for diff in image["diffs"]} == kept
    assert {path.name for path in (repository.mirror / "rdiffs").iterdir()} == kept


def test_a_record_of_before_is_read(tmp_path: Path) -> None:
    expected = Expected(DEMAND, ((SERIES, 0, 1, 2.5),), ((LAST, NEWEST, 3.0),))
    records(tmp_path).put(expected)
    assert records(tmp_path).get(DEMAND) == expected
    assert isinstance(expected, Record)
