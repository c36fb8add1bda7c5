"""describe: the mirror says what is proven, all of it and nothing else; what is stale goes.

In this order, so that no reader ever finds a described file missing or wrong: images are
placed, metadata is written, and only then are files removed that nothing names any more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from puavo_repository.errors import RepositoryError
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.mirror import files
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.place import place
from puavo_repository.mirror.records import Failure
from puavo_repository.prepare.clean import guard, remove_stale
from puavo_repository.prepare.plan import DiffState, Facts, Plan, PlannedSeries, look
from puavo_repository.settings import Settings


def describe(settings: Settings, undertaken: Collection[str] | None = None) -> tuple[str, ...]:
    """Bring the mirror to what is known by now; the mirror's lock is held exclusively.

    What was asked for and is not there is kept as a failure, until this is done again.

    Args:
        settings: Where things are.
        undertaken: Names of the images and rdiffs that this run was to deal with, by default
            all. Others that are not done came meanwhile, and are the next run's.

    Returns:
        Files that were removed.

    Raises:
        MassDeleteError: Clients would lose more than was agreed on. Nothing was changed.
        StorageError, StorageRefusedError: The mirror cannot be read or written.
    """
    mirror = Mirror(settings.mirror_dir)
    mirror.refuse_foreign()
    found = look(settings)
    guard(settings, found, proven=True)
    for folder in (mirror.meta, mirror.rdiffs):
        files.make_folder(folder)
    plan, facts = found.plan, found.facts
    placed, failures = _place(settings, mirror, plan, facts)
    documents = {
        f"{series.name}.json": document
        for series in plan.series
        if (document := _document(series, plan, facts, placed, settings.urlbase))
    }
    mirror.describe(documents)
    removed = remove_stale(mirror, found)
    _keep_failures(mirror, (*plan.failures, *failures, *_undone(mirror, plan, undertaken)))
    return removed


def _place(
    settings: Settings, mirror: Mirror, plan: Plan, facts: Facts
) -> tuple[set[str], list[Failure]]:
    """Return the images that lie in the mirror now, and why others do not."""
    placed = set()
    failures = []
    for name in plan.images:
        record = facts.images.get(name)
        if record is None:
            continue
        try:
            place(mirror, settings.image_dir / name, record)
            placed.add(name)
        except RepositoryError as error:
            failures.append(Failure.of(name, "describe", error))
            # What lies there under that name may be another version of it by now.
            mirror.withdraw({name})
    return placed, failures


def _document(
    series: PlannedSeries,
    plan: Plan,
    facts: Facts,
    placed: Collection[str],
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


def _undone(mirror: Mirror, plan: Plan, undertaken: Collection[str] | None) -> list[Failure]:
    """Return why images and rdiffs are still missing, as their stages kept it."""
    undone = [(name, "fingerprint") for name in plan.fingerprints]
    undone += [(pair.rdiff, "diff") for pair in plan.pairs(DiffState.MISSING)]
    kept = {name: mirror.state.failures.get(name) for name, _ in undone}
    return [
        kept[name]
        or Failure(
            name,
            stage,
            f"{name}: this was not done yet. Run again, and see the log",
            permanent=False,
        )
        for name, stage in undone
        if kept[name] or undertaken is None or name in undertaken
    ]


def _keep_failures(mirror: Mirror, failures: tuple[Failure, ...]) -> None:
    for failure in failures:
        mirror.state.failures.put(failure)
    for name in set(mirror.state.failures.names()) - {failure.name for failure in failures}:
        mirror.state.failures.remove(name)
