"""discover: which images lie in the image directory. Names and sizes only; nothing is read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puavo_repository.errors import ImageError, storage_error
from puavo_repository.formats.names import ImageName, image_name
from puavo_repository.settings import Settings
from puavo_repository.storage.files import Identity
from puavo_repository.storage.state import Failure

_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES}  # where a bad link leads


@dataclass(frozen=True)
class Inventory:
    """What the image directory holds.

    Attributes:
        images: Every file that is named like an image, to what identifies it.
        others: How many further files and folders were left alone.
        failures: Files that look like images and cannot be used.
    """

    images: Mapping[str, Identity]
    others: int = 0
    failures: tuple[Failure, ...] = field(default=())

    @property
    def series(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Images by distribution and series, oldest first.

        Without those that only a manual configuration can place.
        """
        found: dict[str, dict[str, list[ImageName]]] = {}
        for name in map(image_name, self.images):
            if name.distribution is not None:
                found.setdefault(name.distribution, {}).setdefault(name.series, []).append(name)
        return {
            distribution: {
                name: tuple(str(image) for image in sorted(images, key=lambda i: i.version))
                for name, images in series.items()
            }
            for distribution, series in found.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a task's result."""
        return {
            "images": {name: found.to_list() for name, found in self.images.items()},
            "others": self.others,
            "failures": [{"name": f.name, **f.to_dict()} for f in self.failures],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Inventory:
        """Read what ``to_dict`` returned."""
        return cls(
            {name: Identity.from_list(found) for name, found in values["images"].items()},
            values["others"],
            tuple(Failure.from_dict(f["name"], f) for f in values["failures"]),
        )


def discover(settings: Settings) -> Inventory:
    """Look into the image directory.

    Raises:
        StorageError, StorageRefusedError: It cannot be listed.
    """
    ours = {settings.mirror_dir, settings.puavo_os}
    images: dict[str, Identity] = {}
    failures = []
    others = 0
    try:
        entries = sorted(settings.image_dir.iterdir())
    except OSError as error:
        raise storage_error(settings.image_dir, error) from error
    for path in entries:
        if path in ours or path.name.startswith("."):
            continue
        try:
            identity = _image_at(path)
        except ImageError as error:
            failures.append(Failure.of(path.name, "discover", error))
            continue
        if identity is None:
            others += 1
        else:
            images[path.name] = identity
    return Inventory(images, others, tuple(failures))


def _image_at(path: Path) -> Identity | None:
    """Return an image's identity, None for anything that is not named like one."""
    name = os.fsencode(path.name)
    if ImageName.parse(path.name) is None:
        if name.endswith(b".img") and not _is_utf8(name):
            raise ImageError(
                path,
                "its name is not UTF-8 text",
                expected="<os>-os-<class>-<distribution>-<YYYY-MM-DD-HHMMSS>-<arch>.img",
                remedy="Rename it, or move it out of the image directory",
            )
        return None
    try:
        found = path.stat()
    except OSError as error:
        if error.errno not in _NOWHERE:
            # Taken for gone, it would be taken from the clients as well.
            raise storage_error(path, error) from error
        raise ImageError(
            path, error.strerror or str(error), remedy="Replace or remove this link"
        ) from error
    return Identity.of(found) if stat.S_ISREG(found.st_mode) else None


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
