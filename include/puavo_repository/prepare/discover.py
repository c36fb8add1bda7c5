"""discover: which images lie in the image directory. Names and sizes only; nothing is read."""

import errno
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from puavo_repository.errors import ImageError, storage_error
from puavo_repository.formats.names import LONGEST_IMAGE, ImageName, distribution_of, image_name
from puavo_repository.mirror import files
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.records import Failure
from puavo_repository.settings import Settings

_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES}  # where a bad link leads


@dataclass(frozen=True)
class Inventory:
    """What the image directory holds.

    Images that cannot be looked at, such as links to a disk that is not mounted, are not gone:
    what the mirror has of them stays.
    """

    images: Mapping[str, Identity]  # every file that is named like an image
    others: int = 0  # further files and folders, which were left alone
    failures: tuple[Failure, ...] = ()  # files that look like images and cannot be used
    unreachable: frozenset[str] = frozenset()  # images that cannot be looked at

    @cached_property
    def names(self) -> frozenset[str]:
        """Every image that is there, whether it can be looked at or not."""
        return self.unreachable.union(self.images)

    @property
    def series(self) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Images by distribution and series, oldest first, where their names tell both."""
        found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for image in sorted(map(image_name, self.names), key=lambda one: (one.version, str(one))):
            distribution = distribution_of(image.series)
            if distribution is not None:
                found[distribution][image.series].append(str(image))
        return found


def discover(settings: Settings) -> Inventory:
    """Look into the image directory."""
    images: dict[str, Identity] = {}
    failures, unreachable, others = [], set(), 0
    folder, ours = settings.image_dir, (settings.mirror_dir, settings.puavo_os)
    skipped = {path.name for path in ours if path.parent == folder}
    for name in files.names(folder):
        if name in skipped:
            continue
        try:
            identity = _look(folder, name)
        except ImageError as error:
            failures.append(Failure.of(name, "discover", error))
            if ImageName.parse(name) and len(name) <= LONGEST_IMAGE:
                unreachable.add(name)
            continue
        if identity is None:
            others += 1
        else:
            images[name] = identity
    return Inventory(images, others, tuple(failures), frozenset(unreachable))


def _look(folder: Path, name: str) -> Identity | None:
    """Return an image's identity; None where it is none, refused where it was meant to be one."""
    is_image = ImageName.parse(name) is not None
    if is_image and len(name) > LONGEST_IMAGE:
        raise ImageError(
            folder / name,
            "its name is too long: its rdiffs could not be published",
            expected=f"at most {LONGEST_IMAGE} bytes",
            found=f"{len(name)}",
            remedy="Give it a shorter name",
        )
    # Python keeps bytes that are no text as lone surrogates.
    if name.endswith(".img") and any("\udc80" <= letter <= "\udcff" for letter in set(name)):
        raise ImageError(
            folder / name,
            "its name is not UTF-8 text",
            expected="<os>-os-<class>-<distribution>-<YYYY-MM-DD-HHMMSS>-<arch>.img",
            remedy="Rename it, or move it out of the image directory",
        )
    try:
        # A Path for each of thousands takes longer than to look at it.
        return Identity.of_file(os.stat(f"{folder}/{name}")) if is_image else None  # noqa: PTH116
    except OSError as error:
        path = folder / name
        if error.errno not in _NOWHERE:
            # Taken for gone, it would be taken from the clients as well.
            raise storage_error(path, error) from error
        raise ImageError(
            path,
            f"it cannot be looked at: {error.strerror or error}",
            remedy="Mount the disk that it lies on, or replace or remove this link. Until then "
            "clients keep what they have of it",
        ) from error
