"""fingerprint: all that has to be known of an image, in one read of it.

Beside its checksums that is its index for the delta engine, and the ``puavo-conf`` definitions
inside it, which ``unsquashfs`` reads without root.
"""

import errno
import io
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, BinaryIO

from puavo_repository.delta import contained, librsync
from puavo_repository.delta.engine import check_at_rest, identity_of
from puavo_repository.delta.work import read_image
from puavo_repository.errors import (
    ImageError,
    SettingsError,
    StorageError,
    as_storage_error,
    storage_error,
)
from puavo_repository.formats import jsonfile, squashfs
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
_LONGEST_LIST = _MOST_FILES * 512  # bytes
# Kind, size and path in a line of the list; of a link, its goal follows.
_LISTED = re.compile(r"(.)\S{9} \S+/\S+ +(?:\d+, *)?(\d+) \S+ \S+ squashfs-root/(.*?)(?: -> .*)?")
# Where a file system has no such thing, or none for a file that is only read.
_NO_SYNC = {errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS}
# What ends a process from outside: it says nothing of what that was at.
_ENDED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
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
        _check_squashfs(path, image, identity.size)
        puavo_conf = _read_puavo_conf(path)
        work = read_image, path, identity, settings.delta_engine(), anchors
        digests = contained.call(path, "while it read this image", *work, progress=progress)
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


def _check_squashfs(path: Path, image: BinaryIO, size: int) -> None:
    problem = "this is not a squashfs image"
    expected, found = "a squashfs 4.0 image as mksquashfs makes it", f"{size} bytes"
    try:
        used = squashfs.bytes_used(os.pread(image.fileno(), squashfs.SUPERBLOCK_SIZE, 0))
        if size >= used:
            return
        problem = "this image is truncated, or still being copied"
        expected = f"at least {used} bytes, as its superblock says"
    except ValueError as error:
        found = str(error)
    raise ImageError(path, problem, expected=expected, found=found, remedy=_REPLACE)


def _read_puavo_conf(image: Path) -> dict[str, Any]:
    """Return the definitions inside an image, merged; nothing is unpacked to the disk."""
    # An image may hold any number of any size, so that both are bounded.
    too_many = f"there are more than {_MOST_FILES} files"
    lines = os.fsdecode(_unsquash(image, _LONGEST_LIST, too_many, "-ll", _FOLDER)).split("\n")
    if len(lines) > _MOST_FILES:
        raise _unusable(image, too_many)
    sizes = {}
    for kind, size, path in (found.groups() for found in map(_LISTED.fullmatch, lines) if found):
        folder, _, name = path.rpartition("/")
        if path == _FOLDER and kind != "d":
            raise _unusable(image, f"{_FOLDER} is not a plain folder")
        if folder == _FOLDER and name.endswith(".json") and not name.startswith("."):
            if kind != "-":
                raise _unusable(image, f"{name}: it is not a plain file")
            sizes[path] = int(size)
    too_large = f"its files are together larger than {_MOST_BYTES >> 20} MiB"
    merged: dict[str, Any] = {}
    owners: dict[str, str] = {}
    read = io.BytesIO(_unsquash(image, _MOST_BYTES, too_large, "-cat", *sorted(sizes)))
    for path in sorted(sizes):
        name = path.rpartition("/")[2]
        try:  # metadata goes around it
            values = jsonfile.loads(read.read(sizes[path]), jsonfile.DEEPEST // 2)
        except ValueError as error:
            raise _unusable(image, f"{name}: {error}") from error
        if not isinstance(values, dict):
            raise _unusable(image, f"{name}: its top level is not an object")
        for key in values:
            if owners.setdefault(key, name) != name:
                raise ImageError(
                    image,
                    f"the puavo-conf key {key!r} is defined twice inside it",
                    expected="each key in one file",
                    found=f"it in {owners[key]} and in {name}",
                    remedy="Build the image again with one of them removed",
                )
        merged |= values
    return merged


def _unsquash(image: Path, most: int, too_much: str, option: str, *paths: str) -> bytes:
    """Return what ``unsquashfs`` writes, which is refused where it is more than so many bytes."""
    command = ["prlimit", f"--fsize={most}", _unsquashfs(), "-strict-errors", "-no-wildcards"]
    command += ["-processors", "1", option, str(image.absolute()), *paths]
    with os.fdopen(os.memfd_create("unsquashfs"), "r+b") as written:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.PIPE,
                timeout=_TIMEOUT,
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            remedy = "Run again when its disk is less busy"
            problem = "unsquashfs did not come to an end on it"
            raise StorageError(image, problem, remedy=remedy) from None
        if done.returncode == -signal.SIGXFSZ:
            raise _unusable(image, too_much)
        if done.returncode in _ENDED:
            problem = f"unsquashfs was ended on it (signal {signal.Signals(-done.returncode).name})"
            remedy = "Run again; if nobody ended it, give the machine more memory"
            raise StorageError(image, problem, remedy=remedy)
        said, broken = done.stderr.decode(errors="replace"), os.strerror(errno.EIO)
        if done.returncode != 0 and broken in said:  # the disk, not the image
            raise storage_error(image, OSError(errno.EIO, broken))
        if done.returncode != 0:
            problem = "this image is damaged: unsquashfs cannot read it"
            found = " ".join(said.split())[-300:]
            raise ImageError(image, problem, found=found, remedy=_REPLACE)
        written.seek(0)
        return written.read()


def _unusable(image: Path, why: str) -> ImageError:
    return ImageError(
        image,
        f"the puavo-conf definitions inside it cannot be used: {why}",
        expected="plain files with a JSON object of definitions each",
        remedy="Build the image again with that corrected",
    )
