"""diff: one rdiff, made, proven by applying it, and only then given its name."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from puavo_repository.delta import contained
from puavo_repository.delta.engine import Side
from puavo_repository.errors import (
    DeltaError,
    ImageChangingError,
    RepositoryError,
    printable,
    storage_error,
)
from puavo_repository.formats.metadata import Digests
from puavo_repository.mirror import files
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import ADOPTED, Failure, ImageRecord, RdiffRecord
from puavo_repository.prepare.fingerprint import fingerprint
from puavo_repository.prepare.plan import Pair, is_too_large
from puavo_repository.progress import Progress, format_bytes, no_progress
from puavo_repository.settings import Settings

logger = logging.getLogger(__name__)


def diff(settings: Settings, pair: Pair, progress: Progress = no_progress) -> RdiffRecord:
    """Have the mirror hold the rdiff of a pair.

    An image that was replaced since it was fingerprinted is fingerprinted again. An rdiff that
    is there and proven is left alone. One without a record, which the old system made, is proven
    and adopted. A larger one than the policy wants is recorded and not kept.

    Args:
        settings: Where things are.
        pair: Source and target.
        progress: Told of the bytes of the target that were dealt with, at most twice its
            size: once for making, once for proving.

    Raises:
        DeltaError, ProofError: The rdiff could not be made or proven.
        ImageError: An image cannot be used.
        ImageChangingError: An image changed meanwhile.
        StorageError, StorageRefusedError: Reading or writing failed.
    """
    mirror = Mirror(settings.mirror_dir)
    try:
        job = _Job.of(settings, mirror, pair)
        record = _known(settings, mirror, job)
        if record is None:
            record = _adopt(mirror, job, progress) or _make(settings, mirror, job, progress)
            mirror.state.rdiffs.put(record)
    except RepositoryError as error:
        mirror.state.failures.put(Failure.of(pair.rdiff, "diff", error))
        raise
    mirror.state.failures.remove(pair.rdiff)
    return record


@dataclass(frozen=True)
class _Job:
    """One rdiff to be had.

    Attributes:
        path: Where it belongs.
        source: The image that clients have.
        target: The image that they want.
        contents: sha512 of both images as they were fingerprinted.
        target_size: Size of the target in bytes.
    """

    path: Path
    source: Side
    target: Side
    contents: tuple[str, str]
    target_size: int

    @classmethod
    def of(cls, settings: Settings, mirror: Mirror, pair: Pair) -> _Job:
        source, target = (fingerprint(settings, name) for name in (pair.source, pair.target))
        job = cls(
            mirror.rdiff(pair.rdiff),
            _side(settings, mirror, source),
            _side(settings, mirror, target),
            (source.digests.sha512, target.digests.sha512),
            target.digests.size,
        )
        job.check_images()
        return job

    @property
    def name(self) -> str:
        return self.path.name

    def record(self, digests: Digests, engine: str, identity: Identity | None) -> RdiffRecord:
        return RdiffRecord(self.name, *self.contents, digests, identity, engine, time.time())

    def check_images(self) -> None:
        """Make sure that both images are still the files that were fingerprinted."""
        for side in (self.source, self.target):
            try:
                identity = Identity.of(side.path.stat())
            except OSError as error:
                raise storage_error(side.path, error) from error
            if str(identity) != side.identity:
                raise ImageChangingError(
                    side.path,
                    "this image changed after it was fingerprinted",
                    remedy="Run again when it is at rest",
                )


def _side(settings: Settings, mirror: Mirror, record: ImageRecord) -> Side:
    return Side(
        settings.image_dir / record.name,
        mirror.state.anchors / record.name,
        str(record.identity),
    )


def _known(settings: Settings, mirror: Mirror, job: _Job) -> RdiffRecord | None:
    record = mirror.state.rdiffs.get(job.name)
    if record is None or (record.source, record.target) != job.contents:
        return None
    if is_too_large(record.digests.size, job.target_size, settings.policy):
        return record
    present = record.identity is not None and record.identity == Identity.at(job.path)
    return record if present else None


def _adopt(mirror: Mirror, job: _Job, progress: Progress) -> RdiffRecord | None:
    """Prove an rdiff that another system made; None if there is none, or it is not sound."""
    from puavo_repository.delta.work import adopt_rdiff  # compiled code, slow to load

    if Identity.at(job.path) is None or mirror.state.rdiffs.get(job.name) is not None:
        return None
    images = job.source.path, job.target.path
    try:
        digests = contained.call(
            job.path,
            "while it proved this rdiff",
            adopt_rdiff,
            *images,
            job.path,
            progress=progress,
        )
    except DeltaError as error:
        logger.warning("%s is not sound and will be made anew: %s", job.name, error)
        return None
    except OSError as error:
        raise storage_error(job.path, error) from error
    job.check_images()
    return job.record(digests, ADOPTED, Identity.at(job.path))


def _make(settings: Settings, mirror: Mirror, job: _Job, progress: Progress) -> RdiffRecord:
    from puavo_repository.delta.work import write_rdiff

    started = time.monotonic()
    part = files.part_path(job.path)
    try:
        files.make_folder(job.path.parent)
        engine = settings.delta_engine()
        images = job.source, job.target
        digests = contained.call(
            job.path,
            "while it made this rdiff",
            write_rdiff,
            engine,
            *images,
            part,
            progress=progress,
        )
        if is_too_large(digests.size, job.target_size, settings.policy):
            job.check_images()
            return job.record(digests, engine.name, None)
        _prove(job, part, progress)
        if os.path.lexists(job.path):
            mirror.withdraw({f"rdiffs/{job.name}"})
            mirror.state.rdiffs.remove(job.name)
        part.rename(job.path)
        files.sync_folder(job.path.parent)
    except OSError as error:
        raise storage_error(job.path, error) from error
    finally:
        files.discard(part)
    logger.info(
        "%s: %s, %.2f %% of the image, made and proven in %.1f s",
        job.name,
        format_bytes(digests.size),
        100 * digests.size / max(1, job.target_size),
        time.monotonic() - started,
    )
    return job.record(digests, engine.name, Identity.at(job.path))


def _prove(job: _Job, part: Path, progress: Progress) -> None:
    from puavo_repository.delta.proof import prove

    paths = job.source.path, job.target.path, part
    try:
        contained.call(job.path, "while it proved this rdiff", prove, *paths, progress=progress)
    except DeltaError as error:
        job.check_images()  # one that changed is the cause, and that may pass
        error.subject = printable(job.path)  # not its part, which nobody finds
        raise
    job.check_images()
