"""plan: what there is to do, as data. Facts in, plan out; nothing is read here but records.

Every step makes it anew, from what is there at that moment (``look``). Before the images are
fingerprinted it says which are new; after that, which rdiffs are really missing; at the end,
what is proven and can be described.

The policy counts images that can be used. One that was not read yet, or cannot be, is hoped for:
what it would push out stays until it is whole, and what it needs stays until it is gone.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from puavo_repository.errors import storage_error
from puavo_repository.formats.image_config import SeriesConfig
from puavo_repository.formats.names import image_name, rdiff_name
from puavo_repository.mirror import files
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import Failure, ImageRecord, RdiffRecord
from puavo_repository.prepare.configure import Catalogue, configure
from puavo_repository.prepare.discover import Inventory, discover
from puavo_repository.settings import Policy, Settings


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
class PlannedSeries:
    """A series as metadata will list it.

    Attributes:
        name: Of the series and its metadata file.
        diffs: Images in the order of the configuration, to their rdiffs in the order of
            their sources there, extra ones last.
    """

    name: str
    diffs: Mapping[str, tuple[Pair, ...]]


@dataclass(frozen=True)
class Facts:
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


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        series: What the mirror is to offer.
        states: Every rdiff of it to what is known of it, in the order of the series.
        fingerprints: Images to read, sorted.
        stale: Files of the mirror that nothing names any more, sorted.
        known: Images and rdiffs whose records are of use, whether they can be had now or not.
        failures: What the configuration asks for and cannot be had.
        space_needed: The most bytes that new rdiffs and copies can take.
        space_free: Bytes free in the mirror's file system.
    """

    series: tuple[PlannedSeries, ...]
    states: Mapping[Pair, DiffState]
    fingerprints: tuple[str, ...]
    stale: tuple[str, ...] = ()
    known: frozenset[str] = frozenset()
    failures: tuple[Failure, ...] = ()
    space_needed: int = 0
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
        return list(dict.fromkeys(name for one in self.series for name in one.diffs))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a report or a task's result."""
        return {
            "series": {
                one.name: {image: [p.rdiff for p in pairs] for image, pairs in one.diffs.items()}
                for one in self.series
            },
            "fingerprints": list(self.fingerprints),
            "rdiffs": {
                state.value: [pair.rdiff for pair in self.pairs(state)] for state in DiffState
            },
            "stale": list(self.stale),
            "failures": [{"name": f.name, **f.to_dict()} for f in self.failures],
            "space_needed": self.space_needed,
            "space_free": self.space_free,
        }


@dataclass(frozen=True)
class Outlook:
    """What is there at this moment, and what there is to do about it."""

    inventory: Inventory
    catalogue: Catalogue
    facts: Facts
    plan: Plan


def look(settings: Settings) -> Outlook:
    """Look at the image directory, the configuration and the mirror; nothing is written.

    Raises:
        ConfigError: A configuration file cannot be used.
        StorageError, StorageRefusedError: Something cannot be read.
    """
    mirror = Mirror(settings.mirror_dir)
    inventory = discover(settings)
    catalogue = configure(settings, inventory, dry_run=True)
    facts = gather(mirror, inventory)
    made = make_plan(inventory, catalogue, facts, settings.policy)
    try:
        copied = _copied_bytes(settings, inventory, facts, made.images)
        space_free = shutil.disk_usage(_existing(settings.mirror_dir)).free
    except OSError as error:
        raise storage_error(error.filename or settings.mirror_dir, error) from error
    made = replace(made, space_needed=made.space_needed + copied, space_free=space_free)
    return Outlook(inventory, catalogue, facts, made)


def gather(mirror: Mirror, inventory: Inventory) -> Facts:
    """Read the records and keep those that still hold; no image or rdiff is read."""
    images = {
        record.name: record
        for record in mirror.state.images
        if inventory.images.get(record.name) == record.identity
        or (record.name in inventory.names and mirror.has(record))
    }
    rdiffs = {
        record.name: record
        for record in mirror.state.rdiffs
        if record.identity is None or Identity.at(mirror.rdiff(record.name)) == record.identity
    }
    return Facts(images, rdiffs, frozenset(mirror.owned()))


def make_plan(inventory: Inventory, catalogue: Catalogue, facts: Facts, policy: Policy) -> Plan:
    """Decide what to do; pure."""
    failures = list(inventory.failures)
    there = inventory.names
    series = tuple(_plan_series(one, there, facts, policy, failures) for one in catalogue.series)
    pairs = dict.fromkeys(pair for one in series for found in one.diffs.values() for pair in found)
    _refuse_collisions(pairs, failures)
    wanted = {name for one in series for name in one.diffs} | {pair.source for pair in pairs}
    unread = {
        name
        for name in wanted & inventory.images.keys()
        if name not in facts.images or facts.images[name].identity != inventory.images[name]
    }
    unreadable = inventory.unreachable & wanted
    states = {pair: _state(pair, facts, policy, unread | unreadable) for pair in pairs}
    listed = {name for one in catalogue.series for name in one.images}
    stale = facts.owned - _named(listed, series, states)
    # No rdiff can be made now with an image that cannot be reached: what is there of it stays.
    for pair in [pair for pair, state in states.items() if state in _TO_DO]:
        if pair.source in unreadable or pair.target in unreadable:
            del states[pair]
    offered = facts.images.keys() | inventory.images.keys()
    return Plan(
        series=tuple(_only(one, offered, states) for one in series),
        states=states,
        fingerprints=tuple(sorted(unread)),
        stale=tuple(sorted(stale)),
        known=frozenset({*wanted, *listed, *(pair.rdiff for pair in pairs)}),
        failures=tuple(dict.fromkeys(failures)),
        space_needed=sum(
            int(policy.max_share * inventory.images[pair.target].size)
            for pair, state in states.items()
            if state in _TO_DO
        ),
    )


def _plan_series(
    config: SeriesConfig,
    there: Collection[str],
    facts: Facts,
    policy: Policy,
    failures: list[Failure],
) -> PlannedSeries:
    """Choose the rdiffs for the images that clients can have now, and for all hoped for."""
    images = list(_usable(config, there, failures))
    everything = range(len(images))
    now = [index for index in everything if images[index] in facts.images]
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
    return PlannedSeries(config.name, diffs)


def _usable(config: SeriesConfig, there: Collection[str], failures: list[Failure]) -> Iterator[str]:
    """Yield the images of a series that exist, each version once."""
    versions: dict[str, str] = {}
    for name in dict.fromkeys(config.images):
        if name not in there:
            failures.append(_absent(name, f"series {config.name}"))
            continue
        first = versions.setdefault(image_name(name).number, name)
        if first != name:
            failures.append(
                Failure(
                    name,
                    "plan",
                    f"{name}: series {config.name} has version {image_name(name).number} twice "
                    f"(the other is {first}); clients tell images of a series by their version "
                    "alone. Remove one of them from the series, or give it another version",
                )
            )
            continue
        yield name


def _absent(name: str, where: str) -> Failure:
    return Failure(
        name,
        "plan",
        f"{name}: {where} names this image, but it is not in the image directory. "
        "Put it there, or remove it from the configuration",
    )


def _refuse_collisions(pairs: dict[Pair, None], failures: list[Failure]) -> None:
    """Drop pairs whose rdiff would have the name of another: the name lacks the target's prefix."""
    owners: dict[str, Pair] = {}
    for pair in list(pairs):
        owner = owners.setdefault(pair.rdiff, pair)
        if owner != pair:
            del pairs[pair]
            failures.append(
                Failure(
                    pair.rdiff,
                    "plan",
                    f"{pair.rdiff}: the rdiffs from {pair.source} to {owner.target} and to "
                    f"{pair.target} would have the same name; only the first is made. "
                    "Remove one of them from 'extra_rdiffs'",
                )
            )


def _only(
    series: PlannedSeries, images: Collection[str], states: Mapping[Pair, DiffState]
) -> PlannedSeries:
    kept = {
        image: tuple(pair for pair in pairs if pair in states)
        for image, pairs in series.diffs.items()
        if image in images
    }
    return PlannedSeries(series.name, kept)


def _state(pair: Pair, facts: Facts, policy: Policy, unread: Collection[str]) -> DiffState:
    source, target = facts.images.get(pair.source), facts.images.get(pair.target)
    if source is None or target is None:
        return DiffState.WAITING
    missing = (
        DiffState.WAITING if pair.source in unread or pair.target in unread else DiffState.MISSING
    )
    record = facts.rdiffs.get(pair.rdiff)
    if record is None or (record.source, record.target) != (
        source.digests.sha512,
        target.digests.sha512,
    ):
        return missing
    if is_too_large(record.digests.size, target.digests.size, policy):
        return DiffState.TOO_LARGE
    return DiffState.PRESENT if record.identity is not None else missing


def is_too_large(rdiff: int, target: int, policy: Policy) -> bool:
    """Tell whether an rdiff is not worth keeping; sizes in bytes."""
    return rdiff > policy.max_share * target


def _named(
    listed: Collection[str],
    series: tuple[PlannedSeries, ...],
    states: Mapping[Pair, DiffState],
) -> set[str]:
    """Return the mirror's paths that the plan has a use for.

    An image that the configuration names keeps its files even while it cannot be used: when
    it is mended, its rdiffs may still be right.
    """
    return {
        *listed,
        *(
            f"rdiffs/{pair.rdiff}"
            for pair, state in states.items()
            if state is not DiffState.TOO_LARGE
        ),
        *(f"meta/{one.name}.json" for one in series if one.diffs),
    }


def _copied_bytes(settings: Settings, inventory: Inventory, facts: Facts, images: list[str]) -> int:
    """Return the bytes of the images that cannot be hard links, and are not there yet."""
    device = _existing(settings.mirror_dir).stat().st_dev
    if settings.image_dir.stat().st_dev == device:
        return 0
    absent = inventory.images.keys() & set(images) - facts.owned
    return sum(inventory.images[name].size for name in absent)


def _existing(folder: Path) -> Path:
    while not files.exists(folder):
        folder = folder.parent
    return folder
