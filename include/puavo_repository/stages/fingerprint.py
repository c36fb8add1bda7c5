"""fingerprint: all that has to be known of an image, in one read of it."""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

from puavo_repository import tools
from puavo_repository.delta import contained
from puavo_repository.delta.engine import Progress, no_progress
from puavo_repository.errors import (
    ImageChangingError,
    ImageError,
    RepositoryError,
    storage_error,
)
from puavo_repository.formats import jsonfile
from puavo_repository.formats.squashfs import SUPERBLOCK_SIZE, Superblock
from puavo_repository.settings import Settings
from puavo_repository.storage import files
from puavo_repository.storage.files import Identity
from puavo_repository.storage.mirror import Mirror
from puavo_repository.storage.state import Failure, ImageRecord

logger = logging.getLogger(__name__)

_DEFINITIONS = "usr/share/puavo-conf/definitions"
_UNSQUASHFS_TIMEOUT = 600  # seconds; it reads a few blocks, but the disk may be busy
_DEFINITIONS_LIMIT = 16 << 20  # bytes of one file


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
            digests = contained.call(
                path,
                "while it read this image",
                read_image,
                path,
                identity,
                *index,
                progress=progress,
            )
            _check_at_rest(path, image, identity, digests.size)
    except OSError as error:
        raise storage_error(path, error) from error
    seconds = time.monotonic() - started
    logger.info(
        "%s: %.0f MB fingerprinted in %.1f s, %.0f MB/s",
        path.name,
        digests.size / 1e6,
        seconds,
        digests.size / 1e6 / seconds,
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
        superblock = Superblock.parse(os.pread(image.fileno(), SUPERBLOCK_SIZE, 0))
    except ValueError as error:
        raise ImageError(
            path,
            "this is not a squashfs image",
            expected="a squashfs 4.0 image as mksquashfs makes it",
            found=str(error),
            remedy=remedy,
        ) from None
    if size < superblock.bytes_used:
        raise ImageError(
            path,
            "this image is truncated, or still being copied",
            expected=f"at least {superblock.bytes_used} bytes, as its superblock says",
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


def read_puavo_conf(path: Path, scratch: Path) -> dict[str, Any]:
    """Return the ``puavo-conf`` definitions inside an image, merged; no root is needed.

    Args:
        path: The image.
        scratch: Folder for what is unpacked meanwhile; swept after a kill.

    Raises:
        ImageError: The image is damaged, or a definition file is unusable.
        SettingsError: ``unsquashfs`` is missing.
    """
    unsquashfs = tools.unsquashfs()
    files.make_folder(scratch)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        root = Path(folder) / "root"
        # An image says how large its files are; the disk shall not be filled by what it says.
        command = ["prlimit", f"--fsize={_DEFINITIONS_LIMIT}", unsquashfs, "-quiet"]
        command += ["-no-progress", "-no-xattrs", "-strict-errors", "-processors", "1"]
        command += ["-dest", str(root), str(path.absolute()), _DEFINITIONS]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_UNSQUASHFS_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ImageError(path, "unsquashfs did not come to an end on it") from None
        if done.returncode == -signal.SIGXFSZ:
            raise _unusable(path, f"one file is larger than {_DEFINITIONS_LIMIT >> 20} MiB")
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise ImageError(
                path,
                "this image is damaged: unsquashfs cannot read it",
                found=" ".join(said.split())[-300:],
                remedy="Replace it by a whole image, or move it out of the image directory",
            )
        definitions = root.resolve() / _DEFINITIONS
        # A link in its place would have files of this machine published.
        if definitions.resolve() != definitions:
            raise _unusable(path, f"{_DEFINITIONS} is not a plain folder")
        return _merge_definitions(path, definitions)


def _merge_definitions(image: Path, folder: Path) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for file in sorted(folder.glob("[!.]*.json")) if folder.is_dir() else []:
        for key, value in _definitions(image, file).items():
            if key in merged:
                raise ImageError(
                    image,
                    f"the puavo-conf key {key!r} is defined twice inside it",
                    expected="each key in one file",
                    found=f"it in {owners[key]} and in {file.name}",
                    remedy="Build the image again with one of them removed",
                )
            merged[key] = value
            owners[key] = file.name
    return merged


def _definitions(image: Path, file: Path) -> dict[str, Any]:
    try:
        return _read_definitions(file)
    except (OSError, ValueError) as error:
        raise _unusable(image, f"{file.name}: {error}") from error


def _unusable(image: Path, why: str) -> ImageError:
    return ImageError(
        image,
        f"the puavo-conf definitions inside it cannot be used: {why}",
        expected="plain files with a JSON object of definitions each",
        remedy="Build the image again with that mended",
    )


def _read_definitions(file: Path) -> dict[str, Any]:
    # A link would be followed on this machine, to a file that is not the image's.
    if not stat.S_ISREG(file.lstat().st_mode):
        raise ValueError("it is not a plain file")
    values = jsonfile.loads(file.read_bytes(), jsonfile.DEEPEST // 2)  # metadata goes around it
    if not isinstance(values, dict):
        raise ValueError("its top level is not an object")
    return values
