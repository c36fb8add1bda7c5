"""diff: one rdiff, made, proven by applying it, and only then given its name."""

import logging
import time
from pathlib import Path

from puavo_repository.delta import contained
from puavo_repository.delta.engine import (
    Between,
    DeltaEngine,
    Side,
    check_at_rest,
    identity_of,
)
from puavo_repository.delta.work import prove_rdiff, write_rdiff
from puavo_repository.errors import DeltaError, StorageError, as_storage_error, printable
from puavo_repository.formats.metadata import Digests
from puavo_repository.formats.names import rdiff_name
from puavo_repository.mirror import files
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.files import Identity, Seen
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import ADOPTED, ImageRecord, RdiffRecord
from puavo_repository.prepare.fingerprint import fingerprint
from puavo_repository.prepare.plan import DiffState, state_of
from puavo_repository.prepare.policy import Pair
from puavo_repository.progress import Progress, format_bytes, no_progress
from puavo_repository.settings import Settings

logger = logging.getLogger(__name__)


def diff(settings: Settings, pair: Pair, progress: Progress = no_progress) -> RdiffRecord:
    """Have the mirror hold the rdiff of a pair.

    An image that was replaced since it was fingerprinted is fingerprinted again. An rdiff that
    is there and proven is left alone. One without a record, which the old system made, is proven
    and adopted. A larger one than the policy wants is recorded and not kept. ``progress`` is told
    of at most twice the bytes of the target: once for making, once for proving.
    """
    state = Mirror(settings.mirror_dir).state
    with state.attempt(pair.rdiff, "diff"):
        job = _Job(settings, pair, progress)
        record = job.known() or job.adopt() or job.make()
        state.rdiffs.put(record)
    return record


class _Job:
    """One rdiff to be had, between two images as they were fingerprinted."""

    def __init__(self, settings: Settings, pair: Pair, progress: Progress) -> None:
        self._settings, self._progress, self._pair = settings, progress, pair
        self._mirror = Mirror(settings.mirror_dir)
        self._path = self._mirror.rdiffs / pair.rdiff
        self._images = [settings.image_dir / name for name in (pair.source, pair.target)]
        self._source, self._target = (fingerprint(settings, path.name) for path in self._images)
        self._check_images()

    def known(self) -> RdiffRecord | None:
        """Return the record of it that still holds."""
        record = self._mirror.state.rdiffs.get(self._path.name)
        state = state_of(record, self._source, self._target, self._settings)
        lost = state is DiffState.PRESENT and record and not self._mirror.has(record)
        return None if lost or state is DiffState.MISSING else record

    def adopt(self) -> RdiffRecord | None:
        """Prove it where another system made it; None if there is none, or it is not sound."""
        name = self._path.name
        if Identity.at(self._path) is None or self._mirror.state.rdiffs.get(name) is not None:
            return None
        try:
            with as_storage_error(self._path):
                digests = self._prove(self._path)
        except DeltaError as error:
            logger.warning("%s is not sound and will be made anew: %s", name, error)
            return None
        self._check_images()
        return self._record(digests, ADOPTED, Identity.at(self._path))

    def make(self) -> RdiffRecord:
        """Make it and, unless it is too large, prove it and give it its name."""
        engine = self._settings.delta_engine()
        between = self._between(engine)
        if between is not None:
            try:
                return self._made(engine, between)
            except DeltaError as error:
                self._check_images()
                logger.warning(
                    "%s: over %s it failed: %s", self._path.name, self._pair.before, error
                )
        return self._made(engine, None)

    def _made(self, engine: DeltaEngine, between: Between | None) -> RdiffRecord:
        started, path = time.monotonic(), self._path
        before = files.seen(path)
        sides = [self._side(record) for record in (self._source, self._target)]
        with files.part_of(path) as part:
            doing, given = "while it made this rdiff", (engine, *sides, part, between)
            size = contained.call(path, doing, write_rdiff, *given, progress=self._progress)
            record = self._record(Digests(size, "", "", ""), engine.mark, None)
            if state_of(record, self._source, self._target, self._settings) is DiffState.TOO_LARGE:
                self._check_images()
                return record
            try:
                digests = self._prove(part)
            except DeltaError as error:
                self._check_images()  # one that changed is the cause, and that may pass
                error.subject = printable(path)  # not its part, which is gone
                raise
            self._check_images()
            self._give_name(part, before, digests)
        share = 100 * digests.size / max(1, self._target.digests.size)
        took = f"{share:.2f}% of the image, made and proven in {time.monotonic() - started:.1f} s"
        logger.info("%s: %s, %s", path.name, format_bytes(digests.size), took)
        return self._record(digests, engine.mark, Identity.at(path))

    def _side(self, record: ImageRecord) -> Side:
        image = self._settings.image_dir / record.name
        return Side(image, self._mirror.state.anchors / record.name, str(record.identity))

    def _between(self, engine: DeltaEngine) -> Between | None:
        """Return what is known of the image before the target, if there are rdiffs over it."""
        state, name = self._mirror.state, self._pair.before
        image = state.images.get(name) if name and name != self._pair.source else None
        if image is None:
            return None
        first = state.rdiffs.get(rdiff_name(self._pair.source, name))
        second = state.rdiffs.get(rdiff_name(name, self._pair.target))
        if not (first and first.engine == engine.mark and first.leads(self._source, image)):
            return None
        if not (second and second.leads(image, self._target)):
            return None
        if not all(one.identity and self._mirror.has(one) for one in (first, second)):
            return None
        rdiffs = (self._mirror.rdiffs / record.name for record in (first, second))
        return Between(self._side(image), image.digests.size, *rdiffs)

    def _give_name(self, part: Path, before: Seen | None, digests: Digests) -> None:
        """Give it its name; where another machine made the very same meanwhile, that one stays."""
        path = self._path
        try:
            files.check_same(path, before)
            files.sync(part)
            if before is not None:
                self._mirror.remove_from_metadata({f"rdiffs/{path.name}"})
                self._mirror.state.rdiffs.remove(path.name)
            files.claim(part, path, before)
        except (OSError, StorageError):
            if files.seen(path) in {before, None} or digest_file(path, no_progress) != digests:
                raise
            files.sync(path.parent)

    def _prove(self, rdiff: Path) -> Digests:
        doing, given = "while it proved this rdiff", (*self._images, rdiff)
        return contained.call(self._path, doing, prove_rdiff, *given, progress=self._progress)

    def _check_images(self) -> None:
        for path, record in zip(self._images, (self._source, self._target), strict=True):
            check_at_rest(path, record.identity, identity_of(path), "after it was fingerprinted")

    def _record(self, digests: Digests, engine: str, identity: Identity | None) -> RdiffRecord:
        contents = self._source.digests.sha512, self._target.digests.sha512
        return RdiffRecord(self._path.name, *contents, digests, identity, engine, time.time())
