"""discover: which images lie in the image directory. Names and sizes only; nothing is read."""

from __future__ import annotations

import errno
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from puavo_repository.errors import ImageError, storage_error
from puavo_repository.formats.names import LONGEST_IMAGE, ImageName, image_name
from puavo_repository.mirror import files
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.records import Failure
from puavo_repository.settings import Settings

_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES}  # where a bad link leads


@dataclass(frozen=True)
class Inventory:
    """What the image directory holds.

    Attributes:
        images: Every file that is named like an image, to what identifies it.
        others: How many further files and folders were left alone.
        failures: Files that look like images and cannot be used.
        unreachable: Images that are there and cannot be looked at, such as links to a disk
            that is not mounted. They are not gone: what the mirror has of them stays.
    """

    images: Mapping[str, Identity]
    others: int = 0
    failures: tuple[Failure, ...] = ()
    unreachable: frozenset[str] = frozenset()

    @property
    def names(self) -> set[str]:
        """Every image that is there, whether it can be looked at or not."""
        return {*self.images, *self.unreachable}

    @property
    def series(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Images by distribution and series, oldest first.

        Without those that only a manual configuration can place.
        """
        found: dict[str, dict[str, list[str]]] = {}
        for image in sorted(map(image_name, self.names), key=lambda one: (one.version, str(one))):
            if image.distribution is not None:
                series = found.setdefault(image.distribution, {})
                series.setdefault(image.series, []).append(str(image))
        return {
            distribution: {name: tuple(images) for name, images in series.items()}
            for distribution, series in found.items()
        }


def discover(settings: Settings) -> Inventory:
    """Look into the image directory.

    Raises:
        StorageError, StorageRefusedError: It cannot be listed.
    """
    ours = {settings.mirror_dir, settings.puavo_os}
    images: dict[str, Identity] = {}
    failures, unreachable = [], set()
    others = 0
    for name in files.names_in(settings.image_dir):
        path = settings.image_dir / name
        if path in ours or name.startswith("."):
            continue
        try:
            identity = _image_at(path)
        except ImageError as error:
            failures.append(Failure.of(name, "discover", error))
            if _is_image(name):
                unreachable.add(name)
            continue
        if identity is None:
            others += 1
        else:
            images[name] = identity
    return Inventory(images, others, tuple(failures), frozenset(unreachable))


def _image_at(path: Path) -> Identity | None:
    """Return an image's identity, None for anything that is not one.

    Raises:
        ImageError: It cannot be looked at, or not be offered under its name.
    """
    if not _is_image(path.name):
        _check_name(path)
        return None
    try:
        found = path.stat()
    except OSError as error:
        if error.errno not in _NOWHERE:
            # Taken for gone, it would be taken from the clients as well.
            raise storage_error(path, error) from error
        raise ImageError(
            path,
            f"it cannot be looked at: {error.strerror or error}",
            remedy="Mount the disk that it lies on, or replace or remove this link. Until then "
            "clients keep what they have of it",
        ) from error
    return Identity.of(found) if stat.S_ISREG(found.st_mode) else None


def _is_image(name: str) -> bool:
    return len(name) <= LONGEST_IMAGE and ImageName.parse(name) is not None


def _check_name(path: Path) -> None:
    if ImageName.parse(path.name) is not None:
        raise ImageError(
            path,
            "its name is too long: its rdiffs could not be published",
            expected=f"at most {LONGEST_IMAGE} bytes",
            found=f"{len(path.name)}",
            remedy="Give it a shorter name",
        )
    if path.name.endswith(".img") and not _is_utf8(path.name):
        raise ImageError(
            path,
            "its name is not UTF-8 text",
            expected="<os>-os-<class>-<distribution>-<YYYY-MM-DD-HHMMSS>-<arch>.img",
            remedy="Rename it, or move it out of the image directory",
        )


def _is_utf8(name: str) -> bool:
    """Tell whether a name is text; Python keeps other bytes as lone surrogates."""
    return not any("\udc80" <= character <= "\udcff" for character in name)
