"""An image comes into the mirror: a hard link where that is possible, else a copy."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from dataclasses import replace
from pathlib import Path

from puavo_repository.errors import ImageChangingError, storage_error
from puavo_repository.mirror import files
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import ImageRecord

_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}


def place(mirror: Mirror, image: Path, record: ImageRecord) -> None:
    """Give an image its name in the mirror.

    A hard link where that is possible, else a reflink, else a copy whose content is
    compared with the record on the way.

    Args:
        mirror: Where it goes.
        image: The file in the image directory.
        record: What was found when it was read.

    Raises:
        ImageChangingError: The image is not the one that was fingerprinted any more.
        StorageError, StorageRefusedError: The system refused.
    """
    if mirror.has(record):
        return
    goal = mirror.root / record.name
    if Identity.at(goal) is not None:
        mirror.remove_from_metadata({record.name})
    part = files.part_path(goal)
    try:
        files.make_folder(mirror.root)
        linked = _link(image, part, record)
        if not linked:
            _copy(image, part, record)
        copy = None if linked else Identity.at(part)
        part.replace(goal)
        files.sync_folder(mirror.root)
    except OSError as error:
        raise storage_error(goal, error) from error
    finally:
        files.discard(part)
    if copy is not None:
        mirror.state.images.put(replace(record, copy=copy))


def _link(image: Path, part: Path, record: ImageRecord) -> bool:
    """Make a hard link to an image; return whether that is possible."""
    try:
        os.link(image.resolve(), part)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    _check_same(image, Identity.at(part), record)
    return True


def _copy(image: Path, part: Path, record: ImageRecord) -> None:
    with image.open("rb") as source, files.create(part) as copy:
        _check_same(image, Identity.of(os.fstat(source.fileno())), record)
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
        except OSError:
            digest = hashlib.sha512()
            while block := source.read(8 << 20):
                digest.update(block)
                copy.write(block)
            if digest.hexdigest() != record.digests.sha512:
                raise _changed(image) from None
        copy.flush()
        os.fsync(copy.fileno())
        _check_same(image, Identity.of(os.fstat(source.fileno())), record)


def _check_same(image: Path, found: Identity | None, record: ImageRecord) -> None:
    if found != record.identity:
        raise _changed(image)


def _changed(image: Path) -> ImageChangingError:
    return ImageChangingError(
        image, "it changed while it was being published", remedy="Run again when it is at rest"
    )
