"""The ``puavo-conf`` definitions inside an image, read without root."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from threading import Timer
from typing import Any

from puavo_repository.errors import ImageError, SettingsError, StorageRefusedError, storage_error
from puavo_repository.formats import jsonfile
from puavo_repository.mirror import files

_FOLDER = "usr/share/puavo-conf/definitions"
_TIMEOUT = 600  # seconds for unsquashfs; it reads a few blocks, but the disk may be busy
_MOST_FILES = 4096
_MOST_BYTES = 16 << 20  # of all of them
_LISTED = re.compile(rb"-\S{9} \S+/\S+ +(\d+) ")  # a line of a plain file, and its size
_SYSTEM = {os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)}


def unsquashfs() -> str:
    """Return where the program lies that reads single files out of an image.

    Raises:
        SettingsError: It is missing.
    """
    found = shutil.which("unsquashfs", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
    if found is None:
        raise SettingsError(
            "unsquashfs",
            "this program is missing",
            remedy="Install the Debian package squashfs-tools",
        )
    return found


def read_puavo_conf(path: Path, scratch: Path) -> dict[str, Any]:
    """Return the ``puavo-conf`` definitions inside an image, merged; no root is needed.

    Args:
        path: The image.
        scratch: Folder for what is unpacked meanwhile; swept after a kill.

    Raises:
        ImageError: The image is damaged, or a definition file is unusable.
        StorageError, StorageRefusedError: The scratch folder cannot be written.
        SettingsError: ``unsquashfs`` is missing.
    """
    # An image says how large its files are; the disk shall not be filled by what it says.
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
    """Refuse an image whose definitions are too many or too large, before any is unpacked."""
    count = size = 0
    with subprocess.Popen(
        [unsquashfs(), "-ll", str(path.absolute()), _FOLDER],
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
        raise _too_large(path)
    if count > _MOST_FILES:
        raise _unusable(path, f"there are more than {_MOST_FILES} files")


def _unpack(path: Path, root: Path, scratch: Path) -> None:
    command = ["prlimit", f"--fsize={_MOST_BYTES}", unsquashfs(), "-quiet"]
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
        raise _too_large(path)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        for text, number in _SYSTEM.items():
            if text in said:  # of the machine, not of the image
                raise storage_error(scratch, OSError(number, text))
        raise ImageError(
            path,
            "this image is damaged: unsquashfs cannot read it",
            found=" ".join(said.split())[-300:],
            remedy="Replace it by a whole image, or move it out of the image directory",
        )


def _merge(image: Path, folder: Path) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for file in files.listed(folder, "[!.]*.json"):
        try:
            values = _read(file)
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


def _read(file: Path) -> dict[str, Any]:
    # A link would be followed on this machine, to a file that is not the image's.
    if file.is_symlink() or not file.is_file():
        raise ValueError("it is not a plain file")
    values = jsonfile.loads(file.read_bytes(), jsonfile.DEEPEST // 2)  # metadata goes around it
    if not isinstance(values, dict):
        raise ValueError("its top level is not an object")
    return values


def _too_large(image: Path) -> ImageError:
    return _unusable(image, f"its files are together larger than {_MOST_BYTES >> 20} MiB")


def _unusable(image: Path, why: str) -> ImageError:
    return ImageError(
        image,
        f"the puavo-conf definitions inside it cannot be used: {why}",
        expected="plain files with a JSON object of definitions each",
        remedy="Build the image again with that corrected",
    )
