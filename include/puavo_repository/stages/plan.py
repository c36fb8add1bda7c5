"""plan: what there is to do, as data. Facts in, plan out; nothing is read here but records.

It is made twice a night: before the images are fingerprinted, to know which are new, and after,
when the content of every image is known and with it which rdiffs are really missing. The
``describe`` stage makes it once more to know what is proven by then.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from puavo_repository.errors import storage_error
from puavo_repository.formats.image_config import SeriesConfig
from puavo_repository.formats.names import image_name, rdiff_name
from puavo_repository.settings import Policy, Settings
from puavo_repository.stages.configure import Catalogue
from puavo_repository.stages.discover import Inventory
from puavo_repository.storage.files import Identity
from puavo_repository.storage.mirror import Mirror
from puavo_repository.storage.state import Failure, ImageRecord, RdiffRecord


class DiffState(Enum):
    """What is known of an rdiff."""

    PRESENT = "present"  # proven, and lies in the mirror
    TOO_LARGE = "too large"  # made once, and larger than the policy's share
    MISSING = "missing"  # to be made
    WAITING = "waiting"  # one of its images is not fingerprinted yet


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
        images: Records of the images that are still the files that were read.
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
        failures: What the configuration asks for and cannot be had.
        space_needed: The most bytes that new rdiffs and copies can take.
        space_free: Bytes free in the mirror's file system.
    """

    series: tuple[PlannedSeries, ...]
    states: Mapping[Pair, DiffState]
    fingerprints: tuple[str, ...]
    stale: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    space_needed: int = 0
    space_free: int = 0

    def pairs(self, *states: DiffState) -> list[Pair]:
        """Return the rdiffs in any of these states."""
        return [pair for pair, state in self.states.items() if state in states]

    @property
    def has_work(self) -> bool:
        """Whether there is anything to read or make."""
        return bool(self.fingerprints or self.pairs(DiffState.MISSING, DiffState.WAITING))

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


def plan(settings: Settings, inventory: Inventory, catalogue: Catalogue) -> Plan:
    """Gather the facts and make the plan.

    Raises:
        StorageError, StorageRefusedError: Something cannot be read.
    """
    mirror = Mirror(settings.mirror_dir)
    made = make_plan(inventory, catalogue, gather(mirror, inventory), settings.policy)
    try:
        copied = _copied_bytes(settings, mirror, inventory, made.images)
        space_free = shutil.disk_usage(_existing(settings.mirror_dir)).free
    except OSError as error:
        raise storage_error(error.filename or settings.mirror_dir, error) from error
    return Plan(
        made.series,
        made.states,
        made.fingerprints,
        made.stale,
        made.failures,
        made.space_needed + copied,
        space_free,
    )


def gather(mirror: Mirror, inventory: Inventory) -> Facts:
    """Read the records and keep those that still hold; no image or rdiff is read."""
    images = {
        record.name: record
        for record in mirror.state.images
        if inventory.images.get(record.name) == record.identity
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
    series = tuple(_plan_series(one, inventory, policy, failures) for one in catalogue.series)
    pairs = dict.fromkeys(pair for one in series for found in one.diffs.values() for pair in found)
    _refuse_collisions(pairs, failures)
    states = {pair: _state(pair, facts, policy) for pair in pairs}
    wanted = {name for one in series for name in one.diffs} | {pair.source for pair in pairs}
    return Plan(
        series=tuple(_only(one, states) for one in series),
        states=states,
        fingerprints=tuple(sorted(wanted - facts.images.keys())),
        stale=tuple(sorted(facts.owned - _named(catalogue, series, states))),
        failures=tuple(dict.fromkeys(failures)),
        space_needed=sum(
            int(policy.max_share * inventory.images[pair.target].size)
            for pair, state in states.items()
            if state in {DiffState.MISSING, DiffState.WAITING}
        ),
    )


def _plan_series(
    config: SeriesConfig, inventory: Inventory, policy: Policy, failures: list[Failure]
) -> PlannedSeries:
    images = list(_usable(config, inventory, failures))
    diffs: dict[str, tuple[Pair, ...]] = {}
    for index, target in enumerate(images):
        sources: list[str] = []
        if index >= len(images) - policy.targets:
            sources += [images[i] for i in policy.sources_of(index, len(images))]
        for source in config.extra_rdiffs.get(target, ()):
            if source == target or source in sources:
                continue
            if source in inventory.images:
                sources.append(source)
            else:
                failures.append(_absent(source, f"'extra_rdiffs' of series {config.name}"))
        diffs[target] = tuple(Pair(source, target) for source in sources)
    return PlannedSeries(config.name, diffs)


def _usable(config: SeriesConfig, inventory: Inventory, failures: list[Failure]) -> Iterator[str]:
    """Yield the images of a series that exist, each version once."""
    versions: dict[str, str] = {}
    for name in config.images:
        if name not in inventory.images:
            failures.append(_absent(name, f"series {config.name}"))
            continue
        first = versions.setdefault(image_name(name).number, name)
        if first is not name:
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


def _only(series: PlannedSeries, states: Mapping[Pair, DiffState]) -> PlannedSeries:
    kept = {
        image: tuple(pair for pair in pairs if pair in states)
        for image, pairs in series.diffs.items()
    }
    return PlannedSeries(series.name, kept)


def _state(pair: Pair, facts: Facts, policy: Policy) -> DiffState:
    source, target = facts.images.get(pair.source), facts.images.get(pair.target)
    if source is None or target is None:
        return DiffState.WAITING
    record = facts.rdiffs.get(pair.rdiff)
    if record is None or (record.source, record.target) != (
        source.digests.sha512,
        target.digests.sha512,
    ):
        return DiffState.MISSING
    if is_too_large(record.digests.size, target.digests.size, policy):
        return DiffState.TOO_LARGE
    return DiffState.PRESENT if record.identity is not None else DiffState.MISSING


def is_too_large(rdiff: int, target: int, policy: Policy) -> bool:
    """Tell whether an rdiff is not worth keeping; sizes in bytes."""
    return rdiff > policy.max_share * target


def _named(
    catalogue: Catalogue, series: tuple[PlannedSeries, ...], states: Mapping[Pair, DiffState]
) -> set[str]:
    """Return the mirror's paths that the plan has a use for.

    An image that the configuration names keeps its files even while it cannot be used: when
    it is mended, its rdiffs may still be right.
    """
    return {
        *(name for one in catalogue.series for name in one.images),
        *(
            f"rdiffs/{pair.rdiff}"
            for pair, state in states.items()
            if state is not DiffState.TOO_LARGE
        ),
        *(f"meta/{one.name}.json" for one in series if one.diffs),
    }


def _copied_bytes(
    settings: Settings, mirror: Mirror, inventory: Inventory, images: list[str]
) -> int:
    """Return the bytes of the images that cannot be hard links, and are not there yet."""
    device = _existing(settings.mirror_dir).stat().st_dev
    if settings.image_dir.stat().st_dev == device:
        return 0
    return sum(inventory.images[name].size for name in images if not (mirror.root / name).exists())


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
