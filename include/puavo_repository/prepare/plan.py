"""plan: what there is to do, as data; a pure function of what is there and what is known.

Before the images are fingerprinted it says which are new; after that, which rdiffs are really
missing; at the end, what is proven and can be described.

The policy counts images that can be used. One that was not read yet, or cannot be, is hoped for:
what it would push out stays until it is whole, and what it needs stays until it is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from puavo_repository.formats.image_config import SeriesConfig
from puavo_repository.formats.names import image_name, rdiff_name
from puavo_repository.mirror.records import Failure, ImageRecord, RdiffRecord
from puavo_repository.prepare.configure import Catalogue
from puavo_repository.prepare.discover import Inventory
from puavo_repository.settings import Policy


class DiffState(Enum):
    """What is known of an rdiff."""

    PRESENT = "present"  # proven, and lies in the mirror
    TOO_LARGE = "too large"  # made once, and larger than the policy's share
    MISSING = "missing"  # to be made
    WAITING = "waiting"  # one of its images is not fingerprinted yet


_TO_DO = (DiffState.MISSING, DiffState.WAITING)


@dataclass(frozen=True)
class Pair:
    """An rdiff by the images that it leads from and to."""

    source: str
    target: str

    @property
    def rdiff(self) -> str:
        """The file name that clients compute."""
        return rdiff_name(self.source, self.target)


@dataclass(frozen=True)
class Known:
    """What is known before planning.

    Attributes:
        images: Records of the images that clients can have: the file that was read is still
            in the image directory, or the mirror still has it where the other was replaced or
            cannot be reached.
        rdiffs: Records of rdiffs whose file, if it was kept, is still the one that was proven.
        owned: What lies in the mirror, as ``Mirror.owned`` says.
    """

    images: Mapping[str, ImageRecord] = field(default_factory=dict)
    rdiffs: Mapping[str, RdiffRecord] = field(default_factory=dict)
    owned: frozenset[str] = frozenset()


Series = Mapping[str, tuple[Pair, ...]]
"""Images of a series in the order of the configuration, to their rdiffs in the order of their
sources there, extra ones last."""


@dataclass(frozen=True)
class Plan:
    """What is there at this moment, and what there is to do about it.

    Attributes:
        inventory: What the image directory holds.
        catalogue: What the configuration asks for.
        known: What is known of all that.
        series: What the mirror is to offer, by name of the series.
        states: Every rdiff of it to what is known of it, in the order of the series.
        fingerprints: Images to read, sorted.
        stale: Files of the mirror that nothing names any more, sorted.
        named: Images and rdiffs whose records are of use, whether they can be had now or not.
        failures: What the configuration asks for and cannot be had.
        space_needed: The most bytes that new rdiffs and copies can take.
        space_free: Bytes free in the mirror's file system.
    """

    inventory: Inventory
    catalogue: Catalogue
    known: Known
    series: Mapping[str, Series]
    states: Mapping[Pair, DiffState]
    fingerprints: tuple[str, ...]
    stale: tuple[str, ...]
    named: frozenset[str]
    failures: tuple[Failure, ...]
    space_needed: int
    space_free: int = 0

    def pairs(self, *states: DiffState) -> list[Pair]:
        """Return the rdiffs in any of these states."""
        return [pair for pair, state in self.states.items() if state in states]

    @property
    def has_work(self) -> bool:
        """Whether there is anything to read or make."""
        return bool(self.fingerprints or self.pairs(*_TO_DO))

    @property
    def images(self) -> list[str]:
        """Every image that the mirror is to offer, once, in order."""
        return list(dict.fromkeys(name for images in self.series.values() for name in images))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for ``--json`` and the page."""
        return {
            "series": {
                name: {image: [pair.rdiff for pair in pairs] for image, pairs in images.items()}
                for name, images in self.series.items()
            },
            "fingerprints": list(self.fingerprints),
            "rdiffs": {
                state.value: [pair.rdiff for pair in self.pairs(state)] for state in DiffState
            },
            "stale": list(self.stale),
            "failures": [asdict(failure) for failure in self.failures],
            "space_needed": self.space_needed,
            "space_free": self.space_free,
        }


def make_plan(inventory: Inventory, catalogue: Catalogue, known: Known, policy: Policy) -> Plan:
    """Decide what to do; pure."""
    failures = list(inventory.failures)
    series = {
        one.name: _plan_series(one, inventory.names, known, policy, failures)
        for one in catalogue.series
    }
    pairs = dict.fromkeys(
        pair for images in series.values() for found in images.values() for pair in found
    )
    _refuse_collisions(pairs, failures)
    wanted = {name for images in series.values() for name in images}
    wanted |= {pair.source for pair in pairs}
    unread = {name for name in wanted & inventory.images.keys() if _is_new(name, inventory, known)}
    unreachable = inventory.unreachable & wanted
    states = {pair: _state(pair, known, policy, unread | unreachable) for pair in pairs}
    listed = {name for one in catalogue.series for name in one.images}
    stale = known.owned - _named_paths(listed, series, states)
    # No rdiff can be made now with an image that cannot be reached: what is there of it stays.
    for pair in [pair for pair, state in states.items() if state in _TO_DO]:
        if unreachable & {pair.source, pair.target}:
            del states[pair]
    offered = known.images.keys() | inventory.images.keys()
    return Plan(
        inventory=inventory,
        catalogue=catalogue,
        known=known,
        series={
            name: {
                image: tuple(pair for pair in found if pair in states)
                for image, found in images.items()
                if image in offered
            }
            for name, images in series.items()
        },
        states=states,
        fingerprints=tuple(sorted(unread)),
        stale=tuple(sorted(stale)),
        named=frozenset({*wanted, *listed, *(pair.rdiff for pair in pairs)}),
        failures=tuple(dict.fromkeys(failures)),
        space_needed=sum(
            int(policy.max_share * inventory.images[pair.target].size)
            for pair, state in states.items()
            if state in _TO_DO
        ),
    )


def _is_new(name: str, inventory: Inventory, known: Known) -> bool:
    record = known.images.get(name)
    return record is None or record.identity != inventory.images[name]


def _plan_series(
    config: SeriesConfig,
    there: Collection[str],
    known: Known,
    policy: Policy,
    failures: list[Failure],
) -> Series:
    """Choose the rdiffs for the images that clients can have now, and for all hoped for."""
    images = list(_usable(config, there, failures))
    everything = range(len(images))
    now = [index for index in everything if images[index] in known.images]
    sources: dict[int, set[int]] = {}
    for some in (everything, now) if len(now) < len(images) else (everything,):
        for place in range(max(0, len(some) - policy.targets), len(some)):
            found = sources.setdefault(some[place], set())
            found.update(some[one] for one in policy.sources_of(place, len(some)))
    diffs: dict[str, tuple[Pair, ...]] = {}
    for index, target in enumerate(images):
        chosen = dict.fromkeys(images[one] for one in sorted(sources.get(index, ())))
        for source in config.extra_rdiffs.get(target, ()):
            if source in there:
                chosen.setdefault(source)
            else:
                failures.append(_absent(source, f"'extra_rdiffs' of series {config.name}"))
        diffs[target] = tuple(Pair(source, target) for source in chosen if source != target)
    return diffs


def _usable(config: SeriesConfig, there: Collection[str], failures: list[Failure]) -> Iterator[str]:
    """Yield the images of a series that exist, each version once."""
    versions: dict[str, str] = {}
    for name in dict.fromkeys(config.images):
        if name not in there:
            failures.append(_absent(name, f"series {config.name}"))
            continue
        version = image_name(name).number
        first = versions.setdefault(version, name)
        if first == name:
            yield name
        else:
            failures.append(
                _failure(
                    name,
                    f"series {config.name} has version {version} twice (the other is {first}); "
                    "clients tell images of a series by their version alone. Remove one of them "
                    "from the series, or give it another version",
                )
            )


def _refuse_collisions(pairs: dict[Pair, None], failures: list[Failure]) -> None:
    """Drop pairs whose rdiff would have the name of another: the name lacks the target's prefix."""
    owners: dict[str, Pair] = {}
    for pair in list(pairs):
        owner = owners.setdefault(pair.rdiff, pair)
        if owner != pair:
            del pairs[pair]
            failures.append(
                _failure(
                    pair.rdiff,
                    f"the rdiffs from {pair.source} to {owner.target} and to {pair.target} would "
                    "have the same name; only the first is made. Remove one of them from "
                    "'extra_rdiffs'",
                )
            )


def _absent(name: str, where: str) -> Failure:
    return _failure(
        name,
        f"{where} names this image, but it is not in the image directory. "
        "Put it there, or remove it from the configuration",
    )


def _failure(name: str, text: str) -> Failure:
    return Failure(name, "plan", f"{name}: {text}")


def _state(pair: Pair, known: Known, policy: Policy, unread: Collection[str]) -> DiffState:
    source, target = known.images.get(pair.source), known.images.get(pair.target)
    if source is None or target is None:
        return DiffState.WAITING
    waits = pair.source in unread or pair.target in unread
    missing = DiffState.WAITING if waits else DiffState.MISSING
    record = known.rdiffs.get(pair.rdiff)
    if record is None or not record.leads(source, target):
        return missing
    if is_too_large(record.digests.size, target.digests.size, policy):
        return DiffState.TOO_LARGE
    return DiffState.PRESENT if record.identity is not None else missing


def is_too_large(rdiff: int, target: int, policy: Policy) -> bool:
    """Tell whether an rdiff is not worth keeping; sizes in bytes."""
    return rdiff > policy.max_share * target


def _named_paths(
    listed: Collection[str], series: Mapping[str, Series], states: Mapping[Pair, DiffState]
) -> set[str]:
    """Return the mirror's paths that the plan has a use for.

    An image that the configuration names keeps its files even while it cannot be used: when
    it is whole again, its rdiffs may still be right.
    """
    kept = (pair for pair, state in states.items() if state is not DiffState.TOO_LARGE)
    return {
        *listed,
        *(f"rdiffs/{pair.rdiff}" for pair in kept),
        *(f"meta/{name}.json" for name, images in series.items() if images),
    }
