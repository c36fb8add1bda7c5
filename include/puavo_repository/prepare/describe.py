"""describe: the mirror says what is proven, all of it and nothing else; what is stale goes.

In this order, so that no reader ever finds a described file missing or wrong: images are
placed, metadata is written, and only then are files removed that nothing names any more.

A run begins with ``clean``, before it writes anything: on a full disk, what the operator has
removed makes room for what is new. Neither ever removes too much at once (``guard``).
"""

import errno
import logging
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace

from puavo_repository.errors import MassDeleteError, RepositoryError, StorageRefusedError
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.formats.names import ImageName
from puavo_repository.mirror import files
from puavo_repository.mirror.mirror import WRITTEN, Mirror, place
from puavo_repository.mirror.records import Failure
from puavo_repository.prepare.plan import DiffState, Plan, look
from puavo_repository.progress import count, format_bytes
from puavo_repository.settings import Settings, once

logger = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT}


def clean(settings: Settings, plan: Plan | None = None) -> tuple[str, ...]:
    """Bring the mirror, whose lock is held, to what is right of it and wanted; return what went.

    With a ``plan`` it need not look itself, where nothing was read or made since.
    """
    mirror = Mirror(settings.mirror_dir)
    mirror.refuse_foreign()
    plan = plan or look(settings)
    guard(settings, plan)
    wrong = mirror.wrong_files()
    for path in sorted(wrong):
        logger.warning("%s is missing or was changed: it is not described any more", path)
    mirror.remove_from_metadata(wrong)
    try:
        guard(settings, plan, proven=True)
    except MassDeleteError:
        return ()  # until it is known whether the new images are whole
    return remove_stale(mirror, plan)


def describe(
    settings: Settings, undertaken: Collection[str] | None = None, plan: Plan | None = None
) -> tuple[str, ...]:
    """Bring the mirror, whose lock is held, to what is known by now; return what was removed.

    What was asked for and is not there is kept as a failure, until this is done again. Images and
    rdiffs that this run had not ``undertaken``, by default all, came meanwhile: the next run's.
    ``plan`` is as for ``clean``.
    """
    mirror = Mirror(settings.mirror_dir)
    mirror.refuse_foreign()
    plan = plan or look(settings)
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
    mirror.state.note_space()
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


def _documents(urlbase: str, plan: Plan, placed: Collection[str]) -> Iterator[tuple[str, Document]]:
    """Iterate over the metadata of every series that has an image, by file name."""
    known, rdiffs = plan.known.images, plan.known.rdiffs
    for series, images in plan.series.items():
        entries = []
        for name in (name for name in images if name in placed):
            diffs = [
                metadata.diff_entry(pair.source, pair.rdiff, rdiffs[pair.rdiff].digests, urlbase)
                for pair in images[name]
                if plan.states[pair] is DiffState.PRESENT
            ]
            digests, puavo_conf = known[name].digests, known[name].puavo_conf
            entries.append(metadata.image_entry(name, digests, puavo_conf, diffs, urlbase))
        if entries:
            yield f"{series}.json", {series: {"images": entries}}


def guard(settings: Settings, plan: Plan, *, proven: bool = False) -> None:
    """Stop with a ``MassDeleteError`` where clients would lose more images than was agreed on.

    Images alone count, in bytes: they cannot be made again, and rdiffs come and go with them.
    A newer image of the same series takes the place of one that goes. A single image is never too
    much where another of its series stays: so a bad one can be taken away from a small mirror.
    Where ``proven``, only those new images count that were read and are whole.
    """
    if settings.allow_mass_delete:
        return
    mirror = Mirror(settings.mirror_dir)
    there = mirror.described_images()
    # One that clients are not told of yet is new, whether it lies in the mirror already or not.
    new = set(plan.images) - there.keys()
    # Others of ours count where metadata was lost, and their series has none. Else a run took them
    # from clients, such as a night that was killed.
    series, written = {_parts(name)[1] for name in there}, mirror.state.written.get(WRITTEN)
    images = (name for name in plan.known.owned if "/" not in name)
    others = [name for name in images if _parts(name)[1] not in series]
    if others and (written is None or mirror.changed_since_written(mirror.contents())):
        found = {name: files.Identity.at(mirror.root / name) for name in others}
        there |= {name: identity.size for name, identity in found.items() if identity}
    remedy = f"If that is meant, prepare {once('allow_mass_delete')}"
    if not plan.inventory.names and (there or plan.catalogue.named):
        raise MassDeleteError(
            settings.image_dir,
            "this folder holds no image any more; nothing was changed",
            expected=f"those that {settings.mirror_dir} or the configuration names",
            remedy=f"Is its disk mounted? {remedy}",
        )
    wanted = set(plan.images)
    if proven:
        wanted &= plan.known.images.keys()
    lost = _lost(there.keys() - wanted, wanted & new)
    every, gone = sum(there.values()), sum(there[name] for name in lost)
    staying = {_parts(name)[1] for name in there.keys() & wanted}
    one_of_several = len(lost) == 1 and _parts(lost[0])[1] in staying
    if gone <= settings.max_delete * every or one_of_several:
        return
    raise MassDeleteError(
        settings.mirror_dir,
        f"{count(len(lost), 'image')} would go, {format_bytes(gone)} of {format_bytes(every)} "
        f"there; clients keep them until then: {', '.join(lost[:3])}{'…' if len(lost) > 3 else ''}",
        expected=f"at most {settings.max_delete:.0%} at once",
        remedy=remedy,
    )


def _lost(gone: Collection[str], new: Collection[str]) -> list[str]:
    """Return the images that go and whose place no newer one of their series takes."""
    newer: Counter[str] = Counter()
    lost = []
    for name in sorted({*gone, *new}, key=_parts, reverse=True):
        _, series = _parts(name)
        if name in new:
            newer[series] += 1
        elif newer[series]:
            newer[series] -= 1
        else:
            lost.append(name)
    return lost[::-1]


def _parts(image: str) -> tuple[str, str]:
    """Return the version and the series of an image."""
    name = ImageName.parse(image)
    return (name.number, name.series) if name else ("", image)


def remove_stale(mirror: Mirror, plan: Plan) -> tuple[str, ...]:
    """Remove files that nothing names, and what was known of them; return these files.

    In an order that gets out of a full disk: what no client sees goes first, and makes room for
    the metadata without the rest.
    """
    state = mirror.state
    for path in files.listed(state.anchors):
        if path.name not in plan.named:
            files.remove(path)
    for name in set(state.rdiffs.names()) - plan.named:
        state.rdiffs.remove(name)
    for pair in plan.pairs(DiffState.TOO_LARGE):
        record = state.rdiffs.get(pair.rdiff)
        if record is not None and record.identity is not None:
            state.rdiffs.put(replace(record, identity=None))
    documents = mirror.documents() if plan.stale else {}
    seen = {f"meta/{name}" for name in documents}
    seen |= {file.path for one in documents.values() for file in metadata.described_files(one)}
    removed = [path for path in plan.stale if path not in seen and _remove(mirror, path)]
    if not seen.isdisjoint(plan.stale):
        kept = {
            name: metadata.without(document, plan.stale)
            for name, document in documents.items()
            if f"meta/{name}" not in plan.stale
        }
        try:
            mirror.describe(kept.items())
        except StorageRefusedError as error:
            indexes = files.listed(state.anchors)
            cause = error.__cause__
            if not (indexes and isinstance(cause, OSError) and cause.errno in _FULL):
                raise
            # They can be made again.
            logger.warning("%s: the disk is full; the indexes make room", mirror.root)
            for path in indexes:
                files.remove(path)
            mirror.describe(kept.items())
    removed += [path for path in plan.stale if path in seen and _remove(mirror, path)]
    # An image without a record is not ours any more: the record goes last.
    for name in set(state.images.names()) - plan.named:
        state.images.remove(name)
    return tuple(sorted(removed))


def _remove(mirror: Mirror, path: str) -> bool:
    mirror.check()
    return files.remove(mirror.root / path)
