"""describe: the mirror says what is proven, all of it and nothing else; what is stale goes.

In this order, so that no reader ever finds a described file missing or wrong: images are
placed, metadata is written, and only then are files removed that nothing names any more.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from puavo_repository.errors import RepositoryError
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.settings import Settings
from puavo_repository.stages.configure import Catalogue
from puavo_repository.stages.discover import Inventory
from puavo_repository.stages.plan import (
    DiffState,
    Facts,
    Plan,
    PlannedSeries,
    gather,
    make_plan,
)
from puavo_repository.storage import files
from puavo_repository.storage.mirror import Mirror, Placed
from puavo_repository.storage.state import Failure

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Described:
    """What was done to the mirror.

    Attributes:
        placed: How the images came into the mirror (``Placed`` value) to how many did.
        removed: Files that were removed.
        failures: Everything that was asked for and is not there.
        changed: Whether clients see anything new.
    """

    placed: Mapping[str, int]
    removed: tuple[str, ...]
    failures: tuple[Failure, ...]
    changed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a task's result."""
        return {
            "placed": dict(self.placed),
            "removed": list(self.removed),
            "failures": [{"name": f.name, **f.to_dict()} for f in self.failures],
            "changed": self.changed,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Described:
        """Read what ``to_dict`` returned."""
        return cls(
            values["placed"],
            tuple(values["removed"]),
            tuple(Failure.from_dict(f["name"], f) for f in values["failures"]),
            values["changed"],
        )


def withdraw(settings: Settings) -> bool:
    """Take out of the metadata what is missing or was changed behind its back.

    The first step of a run: whatever happens later, clients are not led to a wrong file.

    Returns:
        Whether there was any.
    """
    mirror = Mirror(settings.mirror_dir)
    wrong = mirror.wrong_files()
    for path in sorted(wrong):
        logger.warning("%s is missing or was changed: it is not described any more", path)
    return mirror.withdraw(wrong)


def describe(settings: Settings, inventory: Inventory, catalogue: Catalogue) -> Described:
    """Bring the mirror to what is known by now; the mirror's lock is held exclusively.

    Raises:
        StorageError, StorageRefusedError: The mirror cannot be written.
    """
    mirror = Mirror(settings.mirror_dir)
    for folder in (mirror.meta, mirror.rdiffs):
        files.make_folder(folder)
    facts = gather(mirror, inventory)
    plan = make_plan(inventory, catalogue, facts, settings.policy)
    placed, failures = _place(settings, mirror, plan, facts)
    documents = {
        f"{series.name}.json": document
        for series in plan.series
        if (document := _document(series, plan, facts, placed, settings.urlbase))
    }
    changed = mirror.describe(documents)
    removed = _prune(mirror, plan, catalogue)
    failures = (*plan.failures, *failures, *_undone(mirror, plan))
    _keep_failures(mirror, failures)
    counts = Counter(how.value for how in placed.values())
    return Described(counts, removed, failures, changed)


def _place(
    settings: Settings, mirror: Mirror, plan: Plan, facts: Facts
) -> tuple[dict[str, Placed], tuple[Failure, ...]]:
    placed: dict[str, Placed] = {}
    failures = []
    for name in plan.images:
        record = facts.images.get(name)
        if record is None:
            continue
        try:
            placed[name] = mirror.place(settings.image_dir / name, record)
        except RepositoryError as error:
            failures.append(Failure.of(name, "describe", error))
            # What lies there under that name may be another version of it by now.
            mirror.withdraw({name})
    return placed, tuple(failures)


def _document(
    series: PlannedSeries,
    plan: Plan,
    facts: Facts,
    placed: Mapping[str, Placed],
    urlbase: str,
) -> Document | None:
    entries: list[dict[str, Any]] = []
    for name, pairs in series.diffs.items():
        if name not in placed:
            continue
        image = facts.images[name]
        diffs = [
            metadata.diff_entry(pair.source, pair.rdiff, facts.rdiffs[pair.rdiff].digests, urlbase)
            for pair in pairs
            if plan.states[pair] is DiffState.PRESENT
        ]
        entries.append(metadata.image_entry(name, image.digests, image.puavo_conf, diffs, urlbase))
    return {series.name: {"images": entries}} if entries else None


def _prune(mirror: Mirror, plan: Plan, catalogue: Catalogue) -> tuple[str, ...]:
    """Remove files that nothing names, then what was known of them."""
    removed = [path for path in plan.stale if files.remove(mirror.root / path)]
    for pair in plan.pairs(DiffState.TOO_LARGE):
        record = mirror.state.rdiffs.get(pair.rdiff)
        if record is not None and record.identity is not None:
            mirror.state.rdiffs.put(replace(record, identity=None))
    images = {
        *(name for one in catalogue.series for name in one.images),
        *(pair.source for pair in plan.states),
    }
    rdiffs = {pair.rdiff for pair in plan.states}
    for name in mirror.state.images.names():
        if name not in images:
            mirror.state.images.remove(name)
    for name in mirror.state.rdiffs.names():
        if name not in rdiffs:
            mirror.state.rdiffs.remove(name)
    for path in files.listed(mirror.state.anchors, "[!.]*"):
        if path.name not in images:
            files.remove(path)
    return tuple(removed)


def _undone(mirror: Mirror, plan: Plan) -> list[Failure]:
    """Return why images and rdiffs are still missing, as their stages kept it."""
    undone = [(name, "fingerprint") for name in plan.fingerprints]
    undone += [(pair.rdiff, "diff") for pair in plan.pairs(DiffState.MISSING)]
    return [
        mirror.state.failures.get(name)
        or Failure(
            name,
            stage,
            f"{name}: this was not done yet. Run again, and see the log",
            permanent=False,
        )
        for name, stage in undone
    ]


def _keep_failures(mirror: Mirror, failures: tuple[Failure, ...]) -> None:
    for failure in failures:
        mirror.state.failures.put(failure)
    for name in set(mirror.state.failures.names()) - {failure.name for failure in failures}:
        mirror.state.failures.remove(name)
