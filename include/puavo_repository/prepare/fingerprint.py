"""fingerprint: all that has to be known of an image, in one read of it.

Beside its checksums that is its index for the delta engine, and the ``puavo-conf`` definitions
inside it, which ``unsquashfs`` reads without root.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO

from puavo_repository.delta import contained, librsync
from puavo_repository.delta.engine import check_at_rest, identity_of
from puavo_repository.errors import (
    ImageError,
    SettingsError,
    StorageRefusedError,
    storage_error,
)
from puavo_repository.formats import jsonfile, squashfs
from puavo_repository.mirror import files
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import ImageRecord
from puavo_repository.progress import Progress, format_bytes, no_progress
from puavo_repository.settings import Settings

logger = logging.getLogger(__name__)

_FOLDER = "usr/share/puavo-conf/definitions"
_TIMEOUT = 600  # seconds for unsquashfs; it reads a few blocks, but the disk may be busy
_MOST_FILES = 4096
_MOST_BYTES = 16 << 20  # of all of them
_TOO_LARGE = f"its files are together larger than {_MOST_BYTES >> 20} MiB"
_LISTED = re.compile(rb"-\S{9} \S+/\S+ +(\d+) ")  # a line of a plain file, and its size
_SYSTEM = {os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)}
_REPLACE = "Replace it by a whole image, or move it out of the image directory"


def check_tools() -> None:
    """Make sure, before hours of work, that all is installed beside Python packages."""
    _unsquashfs()
    librsync.library()


def _unsquashfs() -> str:
    found = shutil.which("unsquashfs", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
    if found is None:
        remedy = "Install the Debian package squashfs-tools"
        raise SettingsError("unsquashfs", "this program is missing", remedy=remedy)
    return found


def fingerprint(settings: Settings, name: str, progress: Progress = no_progress) -> ImageRecord:
    """Make the record of an image, and its index for the delta engine; keep both.

    A record that still holds is returned as it is.

    Raises:
        RepositoryError: It is no whole image, changes, or cannot be read. This is kept as a
            failure, until the next time that this works.
    """
    mirror = Mirror(settings.mirror_dir)
    path = settings.image_dir / name
    with mirror.state.failures_kept(name, "fingerprint"):
        known = mirror.state.images.get(name)
        if known is not None and known.identity == identity_of(path):
            return known
        record = _read(settings, mirror, path, progress)
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
            puavo_conf = _read_puavo_conf(path, mirror.state.scratch)
            index = settings.delta_engine(), mirror.state.anchors / path.name
            work = read_image, path, identity, *index
            digests = contained.call(path, "while it read this image", *work, progress=progress)
            check_at_rest(path, identity, identity_of(path), "while it was read")
    except OSError as error:
        raise storage_error(path, error) from error
    seconds = time.monotonic() - started
    size, rate = format_bytes(digests.size), format_bytes(digests.size / seconds)
    logger.info("%s: %s fingerprinted in %.1f s, %s/s", path.name, size, seconds, rate)
    return ImageRecord(path.name, identity, digests, puavo_conf, read=time.time())


def _check_squashfs(path: Path, image: BinaryIO, size: int) -> None:
    try:
        used = squashfs.bytes_used(os.pread(image.fileno(), squashfs.SUPERBLOCK_SIZE, 0))
    except ValueError as error:
        raise ImageError(
            path,
            "this is not a squashfs image",
            expected="a squashfs 4.0 image as mksquashfs makes it",
            found=str(error),
            remedy=_REPLACE,
        ) from None
    if size < used:
        raise ImageError(
            path,
            "this image is truncated, or still being copied",
            expected=f"at least {used} bytes, as its superblock says",
            found=f"{size} bytes",
            remedy=_REPLACE,
        )


def _read_puavo_conf(path: Path, scratch: Path) -> dict[str, Any]:
    """Return the definitions inside an image, merged; ``scratch`` is swept after a kill."""
    _check_size(path)
    files.make_folder(scratch)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        root = Path(folder).resolve() / "root"
        _unpack(path, root, scratch)
        definitions = root / _FOLDER
        try:
            there = files.exists(definitions)
            # A link in its place would have files of this machine published.
            if definitions.resolve() != definitions or (there and not definitions.is_dir()):
                raise _unusable(path, f"{_FOLDER} is not a plain folder")
            return _merge(path, definitions)
        except StorageRefusedError as error:
            raise _unusable(path, f"{_FOLDER}: {error.problem}") from error


def _check_size(path: Path) -> None:
    """Refuse an image whose definitions are too many or too large, before any is unpacked.

    An image says how large its files are; the disk shall not be filled by what it says.
    """
    count = size = 0
    with subprocess.Popen(
        [_unsquashfs(), "-ll", str(path.absolute()), _FOLDER],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a damaged image is said when it is unpacked
    ) as process:
        timer = Timer(_TIMEOUT, process.kill)
        timer.start()
        try:
            for line in process.stdout or ():
                found = _LISTED.match(line)
                count += 1
                size += int(found[1]) if found else 0
                if count > _MOST_FILES or size > _MOST_BYTES:
                    break
        finally:
            timer.cancel()
            process.kill()
    if size > _MOST_BYTES:
        raise _unusable(path, _TOO_LARGE)
    if count > _MOST_FILES:
        raise _unusable(path, f"there are more than {_MOST_FILES} files")


def _unpack(path: Path, root: Path, scratch: Path) -> None:
    command = ["prlimit", f"--fsize={_MOST_BYTES}", _unsquashfs(), "-quiet"]
    command += ["-no-progress", "-no-xattrs", "-strict-errors", "-processors", "1"]
    command += ["-dest", str(root), str(path.absolute()), _FOLDER]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ImageError(path, "unsquashfs did not come to an end on it") from None
    if done.returncode == -signal.SIGXFSZ:
        raise _unusable(path, _TOO_LARGE)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        for text, number in _SYSTEM.items():
            if text in said:  # of the machine, not of the image
                raise storage_error(scratch, OSError(number, text))
        problem, found = "this image is damaged: unsquashfs cannot read it", " ".join(said.split())
        raise ImageError(path, problem, found=found[-300:], remedy=_REPLACE)


def _merge(image: Path, folder: Path) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for file in files.listed(folder, "[!.]*.json"):
        try:
            values = _definitions(file)
        except (PermissionError, ValueError) as error:
            raise _unusable(image, f"{file.name}: {error}") from error
        for key in values:
            owner = owners.setdefault(key, file.name)
            if owner != file.name:
                raise ImageError(
                    image,
                    f"the puavo-conf key {key!r} is defined twice inside it",
                    expected="each key in one file",
                    found=f"it in {owner} and in {file.name}",
                    remedy="Build the image again with one of them removed",
                )
        merged |= values
    return merged


def _definitions(file: Path) -> dict[str, Any]:
    # A link would be followed on this machine, to a file that is not the image's.
    if file.is_symlink() or not file.is_file():
        raise ValueError("it is not a plain file")
    values = jsonfile.loads(file.read_bytes(), jsonfile.DEEPEST // 2)  # metadata goes around it
    if not isinstance(values, dict):
        raise ValueError("its top level is not an object")
    return values


def _unusable(image: Path, why: str) -> ImageError:
    return ImageError(
        image,
        f"the puavo-conf definitions inside it cannot be used: {why}",
        expected="plain files with a JSON object of definitions each",
        remedy="Build the image again with that corrected",
    )
