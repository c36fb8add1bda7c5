"""Planning as tables: what is configured and known, to what there is to do."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puavo_repository.formats.image_config import SeriesConfig
from puavo_repository.formats.metadata import Digests
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.records import ImageRecord, RdiffRecord
from puavo_repository.prepare import demand
from puavo_repository.prepare.configure import Catalogue
from puavo_repository.prepare.discover import Inventory
from puavo_repository.prepare.plan import DiffState, Plan, make_plan
from puavo_repository.prepare.policy import Known, Pair
from puavo_repository.settings import Model

SERIES = "a-os-b-buster-amd64"
IMAGES = tuple(f"a-os-b-buster-2022-01-0{day}-120000-amd64.img" for day in range(1, 6))
ONE, TWO, THREE, FOUR, FIVE = IMAGES
POLICY = Model()


def inventory(*names: str) -> Inventory:
    return Inventory({name: Identity(1000, 1) for name in names})


def catalogue(*names: str, extra: dict[str, tuple[str, ...]] | None = None) -> Catalogue:
    return Catalogue((SeriesConfig(SERIES, names, extra or {}),))


def known(*names: str) -> dict[str, ImageRecord]:
    return {
        name: ImageRecord(name, Identity(1000, 1), Digests(1000, "1", "2", f"sha of {name}"), {})
        for name in names
    }


def rdiff(pair: Pair, size: int = 10, *, kept: bool = True) -> RdiffRecord:
    return RdiffRecord(
        pair.rdiff,
        f"sha of {pair.source}",
        f"sha of {pair.target}",
        Digests(size, "1", "2", "3"),
        Identity(size, 1) if kept else None,
        "test",
    )


def plan(
    names: tuple[str, ...],
    facts: Known | None = None,
    extra: dict[str, tuple[str, ...]] | None = None,
    policy: Model = POLICY,
    present: tuple[str, ...] | None = None,
) -> Plan:
    found = inventory(*(IMAGES if present is None else present))
    return make_plan(found, catalogue(*names, extra=extra), facts or Known(), policy)


def pairs(found: Plan) -> list[tuple[int, int]]:
    return [(IMAGES.index(p.source) + 1, IMAGES.index(p.target) + 1) for p in found.states]


def test_the_old_rule_makes_rdiffs_to_the_last_three_from_every_other_image() -> None:
    assert pairs(plan(IMAGES)) == [
        (1, 3), (2, 3), (4, 3), (5, 3),
        (1, 4), (2, 4), (3, 4), (5, 4),
        (1, 5), (2, 5), (3, 5), (4, 5),
    ]  # fmt: skip


def test_short_series_make_what_they_can() -> None:
    assert pairs(plan(())) == []
    assert pairs(plan((ONE,))) == []
    assert pairs(plan((ONE, TWO))) == [(2, 1), (1, 2)]


def test_extra_rdiffs_come_last_and_once() -> None:
    found = plan((ONE, TWO), extra={TWO: (FIVE, ONE, TWO), THREE: (ONE,)})
    assert pairs(found) == [(2, 1), (1, 2), (5, 2)]
    assert FIVE in found.fingerprints
    assert not found.failures


def test_extra_rdiffs_reach_images_beyond_the_policy() -> None:
    found = plan(IMAGES, extra={ONE: (TWO,)}, policy=Model(targets=1, sources="nearest:1"))
    assert pairs(found) == [(2, 1), (4, 5)]


def test_absent_images_fail_and_the_rest_is_planned() -> None:
    found = plan((ONE, TWO, THREE), extra={TWO: (FOUR,)}, present=(ONE, TWO))
    assert pairs(found) == [(2, 1), (1, 2)]
    assert {failure.name for failure in found.failures} == {THREE, FOUR}
    assert all("not in the image directory" in failure.message for failure in found.failures)


def test_a_version_counts_once_in_a_series() -> None:
    other = ONE.replace("a-os-b", "x-os-y")
    found = make_plan(inventory(ONE, other, TWO), catalogue(ONE, other, TWO, ONE), Known(), POLICY)
    assert [list(images) for images in found.series.values()] == [[ONE, TWO]]
    assert [failure.name for failure in found.failures] == [other]


def test_an_image_that_is_named_twice_counts_once() -> None:
    again = "".join(list(ONE))  # equal, and not the same object
    found = plan((ONE, TWO, again, TWO), extra={TWO: (again, ONE)})
    assert [list(images) for images in found.series.values()] == [[ONE, TWO]]
    assert not found.failures


def test_two_rdiffs_never_share_a_name() -> None:
    other = TWO.replace("a-os-b", "x-os-y")
    series = (
        SeriesConfig(SERIES, (TWO,), {TWO: (ONE,)}),
        SeriesConfig("s", (other,), {other: (ONE,)}),
    )
    found = make_plan(inventory(ONE, TWO, other), Catalogue(series), Known(), POLICY)
    assert list(found.states) == [Pair(ONE, TWO)]
    assert [failure.name for failure in found.failures] == [Pair(ONE, TWO).rdiff]
    assert list(found.series.values()) == [{TWO: (Pair(ONE, TWO),)}, {other: ()}]


def test_states_follow_what_is_known() -> None:
    one_two, two_one = Pair(ONE, TWO), Pair(TWO, ONE)
    images = known(ONE, TWO)
    names = (ONE, TWO)
    assert set(plan(names).states.values()) == {DiffState.WAITING}
    assert set(plan(names, Known(images)).states.values()) == {DiffState.MISSING}
    facts = Known(images, {one_two.rdiff: rdiff(one_two), two_one.rdiff: rdiff(two_one, 901)})
    assert plan(names, facts).states == {
        two_one: DiffState.TOO_LARGE,
        one_two: DiffState.PRESENT,
    }
    larger = Model(max_share=0.95)
    assert plan(names, facts, policy=larger).states[two_one] is DiffState.PRESENT
    dropped = Known(images, {two_one.rdiff: rdiff(two_one, 901, kept=False)})
    assert plan(names, dropped).states[two_one] is DiffState.TOO_LARGE
    assert plan(names, dropped, policy=larger).states[two_one] is DiffState.MISSING


def test_an_rdiff_of_other_content_is_missing() -> None:
    pair = Pair(ONE, TWO)
    stale = replace(rdiff(pair), target="sha of what it was before")
    facts = Known(known(ONE, TWO), {pair.rdiff: stale})
    assert plan((ONE, TWO), facts).states[pair] is DiffState.MISSING


def test_only_unknown_images_are_read() -> None:
    assert plan((ONE, TWO, THREE), Known(known(ONE, THREE))).fingerprints == (TWO,)


def test_last_steps_come_first_then_what_takes_longest_then_what_goes_over_them() -> None:
    sizes = {ONE: 1000, TWO: 3000, THREE: 3000}
    found = Inventory({name: Identity(size, 1) for name, size in sizes.items()})
    policy, asked = Model(), catalogue(*sizes)
    assert make_plan(found, asked, Known(), policy).to_read == [TWO, THREE, ONE]
    read = {name: replace(one, identity=found.images[name]) for name, one in known(*sizes).items()}
    made = make_plan(found, asked, Known(read), policy).to_make
    last = [Pair(ONE, TWO), Pair(TWO, THREE)]
    back = [Pair(THREE, TWO), Pair(THREE, ONE), Pair(TWO, ONE)]
    assert made == [*last, *back, Pair(ONE, THREE)]
    assert [pair.before for pair in made] == [ONE, TWO, "", "", "", TWO]


def test_what_nothing_names_is_stale() -> None:
    kept = {ONE, TWO, f"rdiffs/{Pair(ONE, TWO).rdiff}", f"meta/{SERIES}.json"}
    gone = {FIVE, f"rdiffs/{Pair(FIVE, TWO).rdiff}", "meta/old.json"}
    assert set(plan((ONE, TWO), Known(owned=frozenset(kept | gone))).stale) == gone


def test_an_image_that_is_configured_and_absent_keeps_its_link() -> None:
    found = plan((ONE, TWO), Known(owned=frozenset({TWO})), present=(ONE,))
    assert found.stale == ()


def test_space_is_bounded_by_the_policy() -> None:
    assert plan((ONE, TWO)).space_needed == 2 * 900
    assert plan(()).space_needed == 0


@pytest.mark.parametrize("sources", ["all", demand.DEMAND])
def test_all_images_are_not_gone_through_for_each_series(sources: str) -> None:
    looks: list[None] = []

    class Counted(UserDict[str, Identity]):
        def __iter__(self) -> Iterator[str]:
            looks.append(None)
            return super().__iter__()

    def planned(*configured: str) -> int:
        looks.clear()
        images = Counted({name: Identity(1000, 1) for name in IMAGES})
        series = tuple(SeriesConfig(f"{SERIES}-{name}", (name,)) for name in configured)
        facts = Known(expected=demand.Expected(demand.DEMAND))
        make_plan(Inventory(images), Catalogue(series), facts, Model(sources=sources))
        return len(looks)

    assert planned(*IMAGES) == planned(ONE)


@given(
    st.integers(0, 8),
    st.integers(0, 8),
    st.sampled_from(["all", "older", "nearest:1", "nearest:3"]),
)
def test_no_rdiff_leads_to_itself_or_is_planned_twice(
    count: int, targets: int, sources: str
) -> None:
    names = tuple(f"a-os-b-buster-2022-01-{day:02}-120000-amd64.img" for day in range(1, count + 1))
    found = make_plan(
        inventory(*names), catalogue(*names), Known(), Model(targets=targets, sources=sources)
    )
    assert all(pair.source != pair.target for pair in found.states)
    assert {pair.target for pair in found.states} <= set(names[max(0, count - targets) :])
    assert found.to_dict()["series"]
