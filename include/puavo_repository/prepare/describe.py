"""describe: the mirror says what is proven, all of it and nothing else; what is stale goes.

In this order, so that no reader ever finds a described file missing or wrong: images are
placed, metadata is written, and only then are files removed that nothing names any more.
"""

from __future__ import annotations

from collections.abc import Collection

from puavo_repository.errors import RepositoryError
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.mirror import files
from puavo_repository.mirror.mirror import Mirror, place
from puavo_repository.mirror.records import Failure
from puavo_repository.prepare.clean import guard, remove_stale
from puavo_repository.prepare.plan import DiffState, Plan, look
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
    """
    mirror = Mirror(settings.mirror_dir)
    mirror.refuse_foreign()
    plan = look(settings)
    guard(settings, plan, proven=True)
    for folder in (mirror.meta, mirror.rdiffs):
        files.make_folder(folder)
    placed, failures = set(), list(plan.failures)
    for name in plan.images:
        try:
            if record := plan.known.images.get(name):
                place(mirror, settings.image_dir / name, record)
                placed.add(name)
        except RepositoryError as error:
            failures.append(Failure.of(name, "describe", error))
            # What lies there under that name may be another version of it by now.
            mirror.remove_from_metadata({name})
    mirror.describe(_documents(settings.repository, plan, placed))
    removed = remove_stale(mirror, plan)
    kept = mirror.state.failures
    undone = [(name, "fingerprint") for name in plan.fingerprints]
    undone += [(pair.rdiff, "diff") for pair in plan.pairs(DiffState.MISSING)]
    for name, stage in undone:
        failure = kept.get(name)  # as its stage kept it
        if failure is None and (undertaken is None or name in undertaken):
            text = f"{name}: this was not done yet. Run again, and see the log"
            failure = Failure(name, stage, text, permanent=False)
        failures += [failure] if failure else []
    for failure in failures:
        kept.put(failure)
    for name in set(kept.names()) - {failure.name for failure in failures}:
        kept.remove(name)
    return removed


def _documents(urlbase: str, plan: Plan, placed: Collection[str]) -> dict[str, Document]:
    """Return the metadata of every series that has an image, by file name."""
    found: dict[str, Document] = {}
    known = plan.known
    for series, images in plan.series.items():
        entries = []
        for name in (name for name in images if name in placed):
            diffs = [
                metadata.diff_entry(
                    pair.source, pair.rdiff, known.rdiffs[pair.rdiff].digests, urlbase
                )
                for pair in images[name]
                if plan.states[pair] is DiffState.PRESENT
            ]
            image = known.images[name]
            entry = metadata.image_entry(name, image.digests, image.puavo_conf, diffs, urlbase)
            entries.append(entry)
        if entries:
            found[f"{series}.json"] = {series: {"images": entries}}
    return found
