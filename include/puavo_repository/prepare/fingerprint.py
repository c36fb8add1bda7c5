"""fingerprint: all that has to be known of an image, in one read of it."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import BinaryIO

from puavo_repository.delta import contained
from puavo_repository.errors import ImageChangingError, ImageError, RepositoryError, storage_error
from puavo_repository.formats import squashfs
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import Failure, ImageRecord
from puavo_repository.prepare.definitions import read_puavo_conf, unsquashfs
from puavo_repository.progress import Progress, format_bytes, no_progress
from puavo_repository.settings import Settings

logger = logging.getLogger(__name__)


def check_tools() -> None:
    """Make sure that all is installed beside Python packages, before hours of work.

    Raises:
        SettingsError: Something is missing; the text names the Debian package.
    """
    from puavo_repository.delta import librsync  # slow to load, and only needed for work

    unsquashfs()
    librsync.library()


def fingerprint(settings: Settings, name: str, progress: Progress = no_progress) -> ImageRecord:
    """Make the record of an image, and its index for the delta engine; keep both.

    A record that still holds is returned as it is. A failure is kept as well, until the next
    time that this works.

    Args:
        settings: Where things are.
        name: File name of the image.
        progress: Told of the bytes read.

    Raises:
        ImageError: It is no whole squashfs image, or its ``puavo-conf`` is unusable.
        ImageChangingError: It changed meanwhile.
        StorageError, StorageRefusedError: It cannot be read, or the record not written.
    """
    mirror = Mirror(settings.mirror_dir)
    path = settings.image_dir / name
    try:
        known = mirror.state.images.get(name)
        if known is not None and known.identity == _identity(path):
            return known
        record = _read(settings, mirror, path, progress)
    except RepositoryError as error:
        mirror.state.failures.put(Failure.of(name, "fingerprint", error))
        raise
    mirror.state.images.put(record)
    mirror.state.failures.remove(name)
    return record


def _read(settings: Settings, mirror: Mirror, path: Path, progress: Progress) -> ImageRecord:
    from puavo_repository.delta.work import read_image  # compiled code, slow to load

    started = time.monotonic()
    try:
        with path.open("rb", buffering=0) as image:
            identity = Identity.of(os.fstat(image.fileno()))
            _check_squashfs(path, image, identity.size)
            puavo_conf = read_puavo_conf(path, mirror.state.scratch)
            index = settings.delta_engine(), mirror.state.anchors / path.name
            work = read_image, path, identity, *index
            digests = contained.call(path, "while it read this image", *work, progress=progress)
            _check_at_rest(path, image, identity, digests.size)
    except OSError as error:
        raise storage_error(path, error) from error
    seconds = time.monotonic() - started
    logger.info(
        "%s: %s fingerprinted in %.1f s, %s/s",
        path.name,
        format_bytes(digests.size),
        seconds,
        format_bytes(digests.size / seconds),
    )
    return ImageRecord(path.name, identity, digests, puavo_conf, read=time.time())


def _identity(path: Path) -> Identity:
    try:
        return Identity.of(path.stat())
    except OSError as error:
        raise storage_error(path, error) from error


def _check_squashfs(path: Path, image: BinaryIO, size: int) -> None:
    remedy = "Replace it by a whole image, or move it out of the image directory"
    try:
        used = squashfs.bytes_used(os.pread(image.fileno(), squashfs.SUPERBLOCK_SIZE, 0))
    except ValueError as error:
        raise ImageError(
            path,
            "this is not a squashfs image",
            expected="a squashfs 4.0 image as mksquashfs makes it",
            found=str(error),
            remedy=remedy,
        ) from None
    if size < used:
        raise ImageError(
            path,
            "this image is truncated, or still being copied",
            expected=f"at least {used} bytes, as its superblock says",
            found=f"{size} bytes",
            remedy=remedy,
        )


def _check_at_rest(path: Path, image: BinaryIO, before: Identity, size: int) -> None:
    after = Identity.of(os.fstat(image.fileno()))
    if before != after or size != before.size or _identity(path) != before:
        raise ImageChangingError(
            path,
            "this image changed while it was read",
            expected=f"{before.size} bytes at rest",
            found=f"{after.size} bytes now",
            remedy="Run again when it is copied completely; best copy it under another name "
            "and rename it then",
        )
