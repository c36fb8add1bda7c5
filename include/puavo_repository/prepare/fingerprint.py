"""fingerprint: all that has to be known of an image, in one read of it.

Beside its checksums that is its index for the delta engine, and the ``puavo-conf`` definitions
inside it.
"""

import errno
import logging
import os
import time
from pathlib import Path
from typing import BinaryIO

from puavo_repository.delta import contained
from puavo_repository.delta.engine import check_at_rest, identity_of
from puavo_repository.delta.work import read_image
from puavo_repository.errors import as_storage_error
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import ImageRecord
from puavo_repository.progress import Progress, format_bytes, no_progress
from puavo_repository.settings import Settings

logger = logging.getLogger(__name__)

# Where a file system has no such thing, or none for a file that is only read.
_NO_SYNC = {errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS}


def fingerprint(settings: Settings, name: str, progress: Progress = no_progress) -> ImageRecord:
    """Return the record of an image; where none holds, it and the delta engine's index are made."""
    state = Mirror(settings.mirror_dir).state
    path = settings.image_dir / name
    with state.attempt(name, "fingerprint"):
        known = state.images.get(name)
        if known is not None and known.identity == identity_of(path):
            return known
        record = _read(settings, state.anchors / name, path, progress)
        state.images.put(record)
    return record


def _read(settings: Settings, anchors: Path, path: Path, progress: Progress) -> ImageRecord:
    started = time.monotonic()
    with as_storage_error(path), path.open("rb", buffering=0) as image:
        identity = Identity.of(os.fstat(image.fileno()))
        work = read_image, path, identity, settings.delta_engine(), anchors
        doing = "while it read this image"
        digests, puavo_conf = contained.call(path, doing, *work, progress=progress)
        _make_durable(image)
        check_at_rest(path, identity, identity_of(path), "while it was read")
    seconds = time.monotonic() - started
    size, rate = format_bytes(digests.size), format_bytes(digests.size / seconds)
    logger.info("%s: %s fingerprinted in %.1f s, %s/s", path.name, size, seconds, rate)
    return ImageRecord(path.name, identity, digests, puavo_conf, read=time.time())


def _make_durable(image: BinaryIO) -> None:
    """Have the disk hold what was read: the image may have been copied there a moment ago.

    Its record outlives a power cut, and so does the hard link to it in the mirror.
    """
    try:
        os.fsync(image.fileno())
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
