"""diff: one rdiff, made, proven by applying it, and only then given its name."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from puavo_repository.delta import contained
from puavo_repository.delta.engine import Side
from puavo_repository.errors import (
    DeltaError,
    ImageChangingError,
    RepositoryError,
    as_storage_error,
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

T = TypeVar("T")


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
        source: The image that clients have, as it was fingerprinted.
        target: The image that they want.
        sides: Both as the delta engine takes them.
    """

    path: Path
    source: ImageRecord
    target: ImageRecord
    sides: tuple[Side, Side]

    @classmethod
    def of(cls, settings: Settings, mirror: Mirror, pair: Pair) -> _Job:
        source, target = (fingerprint(settings, name) for name in (pair.source, pair.target))
        sides = tuple(
            Side(settings.image_dir / one.name, mirror.state.anchors / one.name, str(one.identity))
            for one in (source, target)
        )
        job = cls(mirror.rdiff(pair.rdiff), source, target, (sides[0], sides[1]))
        job.check_images()
        return job

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def images(self) -> tuple[Path, Path]:
        return self.sides[0].path, self.sides[1].path

    def record(self, digests: Digests, engine: str, identity: Identity | None) -> RdiffRecord:
        contents = self.source.digests.sha512, self.target.digests.sha512
        return RdiffRecord(self.name, *contents, digests, identity, engine, time.time())

    def check_images(self) -> None:
        """Make sure that both images are still the files that were fingerprinted."""
        for path, image in zip(self.images, (self.source, self.target), strict=True):
            with as_storage_error(path):
                identity = Identity.of(path.stat())
            if identity != image.identity:
                raise ImageChangingError(
                    path,
                    "this image changed after it was fingerprinted",
                    remedy="Run again when it is at rest",
                )


def _known(settings: Settings, mirror: Mirror, job: _Job) -> RdiffRecord | None:
    record = mirror.state.rdiffs.get(job.name)
    if record is None or not record.leads(job.source, job.target):
        return None
    if is_too_large(record.digests.size, job.target.digests.size, settings.policy):
        return record
    present = record.identity is not None and record.identity == Identity.at(job.path)
    return record if present else None


def _adopt(mirror: Mirror, job: _Job, progress: Progress) -> RdiffRecord | None:
    """Prove an rdiff that another system made; None if there is none, or it is not sound."""
    from puavo_repository.delta.work import adopt_rdiff  # compiled code, slow to load

    if Identity.at(job.path) is None or mirror.state.rdiffs.get(job.name) is not None:
        return None
    try:
        digests = _proof(job, adopt_rdiff, job.path, progress)
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
        work = write_rdiff, engine, *job.sides, part
        digests = contained.call(job.path, "while it made this rdiff", *work, progress=progress)
        if is_too_large(digests.size, job.target.digests.size, settings.policy):
            job.check_images()
            return job.record(digests, engine.name, None)
        _prove(job, part, progress)
        if os.path.lexists(job.path):
            mirror.remove_from_metadata({f"rdiffs/{job.name}"})
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
        100 * digests.size / max(1, job.target.digests.size),
        time.monotonic() - started,
    )
    return job.record(digests, engine.name, Identity.at(job.path))


def _prove(job: _Job, part: Path, progress: Progress) -> None:
    from puavo_repository.delta.proof import prove

    try:
        _proof(job, prove, part, progress)
    except DeltaError as error:
        job.check_images()  # one that changed is the cause, and that may pass
        error.subject = printable(job.path)  # not its part, which is gone
        raise
    job.check_images()


def _proof(job: _Job, work: Callable[..., T], rdiff: Path, progress: Progress) -> T:
    doing = "while it proved this rdiff"
    return contained.call(job.path, doing, work, *job.images, rdiff, progress=progress)
