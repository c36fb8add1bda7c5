"""The ``puavo-conf`` definitions inside an image, merged as metadata has them.

An image is foreign bytes: how many files there are, and how large they are together, has a limit.
"""

from pathlib import Path
from typing import Any

from puavo_repository.errors import ImageError
from puavo_repository.formats import jsonfile
from puavo_repository.formats.squashfs_files import IS_DIRECTORY, IS_FILE, Squashfs, opened

_PARENT, _NAME = "usr/share/puavo-conf", "definitions"
_MOST_FILES = 4096
_MOST_BYTES = 16 << 20  # of all of them


def read(image: Path) -> dict[str, Any]:
    """Return the definitions of an image; one without that folder has none.

    Raises:
        ImageError: The image is damaged, or they cannot be used.
        StorageError, StorageRefusedError: It cannot be read.
    """
    merged: dict[str, Any] = {}
    owners: dict[str, str] = {}
    with opened(image) as squashfs:
        for name, content in _contents(image, squashfs).items():
            try:  # metadata goes around it
                values = jsonfile.loads(content, jsonfile.DEEPEST // 2)
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


def _contents(image: Path, squashfs: Squashfs) -> dict[str, bytes]:
    """Return what each file holds, sorted by name."""
    for name, kind, _ in squashfs.folder(_PARENT):
        if name == _NAME and kind != IS_DIRECTORY:
            raise _unusable(image, f"{_PARENT}/{_NAME} is not a plain folder")
    found, size = {}, 0
    for name, kind, at in squashfs.folder(f"{_PARENT}/{_NAME}"):
        if not name.endswith(".json") or name.startswith("."):
            continue
        if kind != IS_FILE:
            raise _unusable(image, f"{name}: it is not a plain file")
        found[name] = squashfs.file(at)
        size += found[name].size
        if len(found) > _MOST_FILES:
            raise _unusable(image, f"there are more than {_MOST_FILES} files")
        if size > _MOST_BYTES:
            text = f"its files are together larger than {_MOST_BYTES >> 20} MiB"
            raise _unusable(image, text)
    return {name: b"".join(squashfs.content(found[name])) for name in sorted(found)}


def _unusable(image: Path, why: str) -> ImageError:
    return ImageError(
        image,
        f"the puavo-conf definitions inside it cannot be used: {why}",
        expected="plain files with a JSON object of definitions each",
        remedy="Build the image again with that corrected",
    )
