"""plan: what there is to do, as data; ``look`` gathers what is there, ``make_plan`` is pure.

Before the images are fingerprinted it says which are new; after that, which rdiffs are missing; at
the end, what can be described. Nothing is read for it but records, the configuration and names.

The policy counts images that can be used. One that was not read yet, or cannot be, is hoped for:
what it would push out stays until it is whole, and what it needs stays until it is gone.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from itertools import chain
from typing import Any

from puavo_repository.errors import as_storage_error
from puavo_repository.mirror import files
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import Failure, ImageRecord, RdiffRecord
from puavo_repository.prepare import demand
from puavo_repository.prepare.configure import Catalogue, configure
from puavo_repository.prepare.discover import Inventory, discover
from puavo_repository.prepare.policy import Known, Pair, Series, choose_pairs
from puavo_repository.progress import count, format_bytes
from puavo_repository.settings import Model, Settings


class DiffState(Enum):
    """What is known of an rdiff."""

    PRESENT = "present"  # proven, and lies in the mirror
    TOO_LARGE = "too large"  # made once, and larger than the policy's share
    MISSING = "missing"  # to be made
    WAITING = "waiting"  # one of its images is not fingerprinted yet


_TO_DO = (DiffState.MISSING, DiffState.WAITING)


@dataclass(frozen=True)
class Plan:
    """What is there at this moment, and what there is to do about it."""

    inventory: Inventory
    catalogue: Catalogue
    known: Known
    series: Mapping[str, Series]  # what the mirror is to offer, by name of the series
    states: Mapping[Pair, DiffState]  # of every rdiff of it, in the order of the series
    fingerprints: tuple[str, ...]  # images to read, sorted
    stale: tuple[str, ...]  # files of the mirror that nothing names any more, sorted
    named: frozenset[str]  # images and rdiffs whose records are of use, to be had now or not
    failures: tuple[Failure, ...]  # what the configuration asks for and cannot be had
    space_needed: int  # the most bytes that new rdiffs and copies can take
    space_free: int = 0  # bytes, in the mirror's file system

    def pairs(self, *states: DiffState) -> list[Pair]:
        """Return the rdiffs in any of these states."""
        return [pair for pair, state in self.states.items() if state in states]

    @property
    def to_read(self) -> list[str]:
        """Return the images to read, the largest first: none is begun alone at the end."""
        return sorted(self.fingerprints, key=lambda name: -self.inventory.images[name].size)

    @property
    def to_make(self) -> list[Pair]:
        """Return the rdiffs that can be made now, in the order in which they are best made."""
        sizes = {name: image.size for name, image in self.inventory.images.items()}
        return sorted(self.pairs(DiffState.MISSING), key=lambda pair: pair.turn(sizes))

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
            "rdiffs": {one.value: [pair.rdiff for pair in self.pairs(one)] for one in DiffState},
            "stale": list(self.stale),
            "failures": [asdict(failure) for failure in self.failures],
            "space_needed": self.space_needed,
            "space_free": self.space_free,
        }

    def lines(self) -> list[str]:
        """Return what a run would do, as lines for people; the last one sums up."""
        missing = self.pairs(*_TO_DO)
        images = sum(len(images) for images in self.series.values())
        return [
            *(f"would read {name}" for name in self.fingerprints),
            *(f"would make rdiffs/{pair.rdiff}" for pair in missing),
            *(f"would remove {path}" for path in self.stale),
            (
                f"{count(images, 'image')} in {len(self.series)} series; "
                f"{len(self.fingerprints)} to read, {count(len(missing), 'rdiff')} to make, "
                f"{len(self.pairs(DiffState.PRESENT))} there; space: at most "
                f"{format_bytes(self.space_needed)} needed, {format_bytes(self.space_free)} free"
            ),
        ]


def look(settings: Settings) -> Plan:
    """Look at images, configuration and mirror, and plan; nothing is written."""
    inventory, mirror = discover(settings), Mirror(settings.mirror_dir)
    catalogue = configure(settings, inventory, dry_run=True)
    known = _known(settings, mirror, inventory)
    plan = make_plan(inventory, catalogue, known, settings)
    folder = next(one for one in (mirror.root, *mirror.root.parents) if files.exists(one))
    with as_storage_error(mirror.root):
        linked = settings.image_dir.stat().st_dev == folder.stat().st_dev
        copies = set() if linked else inventory.images.keys() & set(plan.images) - known.owned
        needed = plan.space_needed + sum(inventory.images[name].size for name in copies)
        return replace(plan, space_needed=needed, space_free=shutil.disk_usage(folder).free)


def _known(settings: Settings, mirror: Mirror, inventory: Inventory) -> Known:
    images, rdiffs = list(mirror.state.images), list(mirror.state.rdiffs)
    lying = mirror.there()  # after the records: what they speak of was there before them
    there, by_demand = inventory.names, settings.sources == demand.DEMAND
    return Known(
        images={
            record.name: record
            for record in images
            if inventory.images.get(record.name) == record.identity
            or (record.name in there and record.fits(lying.get(record.path)))
        },
        rdiffs={
            record.name: record
            for record in rdiffs
            if record.identity is None or record.fits(lying.get(record.path))
        },
        owned=frozenset(mirror.owned(lying)),
        expected=demand.records(mirror.root).get(demand.DEMAND) if by_demand else None,
    )


def make_plan(inventory: Inventory, catalogue: Catalogue, known: Known, policy: Model) -> Plan:
    """Decide what to do; pure."""
    failures = list(inventory.failures)
    rdiffs: dict[str, Pair] = {}  # by name
    series = {
        one.name: choose_pairs(one, inventory, known, policy, rdiffs, failures)
        for one in catalogue.series
    }
    wanted = {*chain.from_iterable(series.values()), *(pair.source for pair in rdiffs.values())}
    unread = {
        name
        for name in wanted & inventory.images.keys()
        if name not in known.images or known.images[name].identity != inventory.images[name]
    }
    unreachable = inventory.unreachable & wanted
    waiting = unread | unreachable
    # An image that the configuration names keeps its files even while it cannot be used: when
    # it is whole again, its rdiffs may still be right.
    listed = {name for one in catalogue.series for name in one.images}
    used = {*listed, *(f"meta/{name}.json" for name, images in series.items() if images)}
    states = {}
    for name, pair in rdiffs.items():
        source, target = known.images.get(pair.source), known.images.get(pair.target)
        state = DiffState.WAITING
        if source and target:
            state = state_of(known.rdiffs.get(name), source, target, policy)
        if state is DiffState.MISSING and not waiting.isdisjoint({pair.source, pair.target}):
            state = DiffState.WAITING
        if state is not DiffState.TOO_LARGE:
            used.add(f"rdiffs/{name}")
        # No rdiff can be made now with an image that cannot be reached: what is there of it stays.
        if state not in _TO_DO or unreachable.isdisjoint({pair.source, pair.target}):
            states[pair] = state
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
        stale=tuple(sorted(known.owned - used)),
        named=frozenset({*wanted, *listed, *rdiffs}),
        failures=tuple(dict.fromkeys(failures)),
        space_needed=sum(
            int(policy.max_share * inventory.images[pair.target].size)
            for pair, state in states.items()
            if state in _TO_DO
        ),
    )


def state_of(
    rdiff: RdiffRecord | None, source: ImageRecord, target: ImageRecord, policy: Model
) -> DiffState:
    """Say by their records what there is to do for an rdiff between two images."""
    if rdiff is not None and rdiff.leads(source, target):
        if rdiff.digests.size > policy.max_share * target.digests.size:
            return DiffState.TOO_LARGE
        if rdiff.identity is not None:
            return DiffState.PRESENT
    return DiffState.MISSING
