"""Names of images, series and rdiffs: the only key that clients and files have in common.

A name that comes from a file (a configuration, metadata) is checked here before it ever becomes
part of a path: it is one plain file name, so it cannot leave its folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_WORD = r"[A-Za-z0-9][A-Za-z0-9._+~]*"
_VERSION = r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{6}"
_ARCHITECTURE = "amd64|i386|arm64"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
_IMAGE = re.compile(
    rf"(?P<prefix>[A-Za-z0-9][A-Za-z0-9._+~-]*?)-(?P<version>{_VERSION})-(?P<arch>{_WORD})\.img"
)
_SERIES = re.compile(rf"{_WORD}-os-{_WORD}-(?P<distribution>{_WORD})-(?:{_ARCHITECTURE})")
# A remote makes a file under ``.<name>.<16 hex digits>.<8 hex digits>.part``: 32 bytes more, of
# the 255 that a file system allows. An rdiff's name has 21 more than its source's, and the
# metadata file of a series 5 more than the series'.
LONGEST = 220  # bytes, of any file in a mirror
LONGEST_IMAGE = LONGEST - 21
LONGEST_SERIES = LONGEST - 5
_RDIFF = re.compile(rf"{_PLAIN.pattern}-{_VERSION}--{_VERSION}-{_WORD}\.rdiff")


@dataclass(frozen=True, order=True, slots=True)
class ImageName:
    """The parts of ``<prefix>-<YYYY-MM-DD-HHMMSS>-<arch>.img``."""

    prefix: str  # such as puavo-os-amxa-buster
    version: str  # as the file name writes it, 2022-01-17-120001
    arch: str  # such as amd64

    @classmethod
    def parse(cls, name: str) -> ImageName | None:
        """Return the parts of an image's file name, or None if it is not one."""
        match = _IMAGE.fullmatch(name)
        return cls(match["prefix"], match["version"], match["arch"]) if match else None

    def __str__(self) -> str:
        return f"{self.prefix}-{self.version}-{self.arch}.img"

    @property
    def series(self) -> str:
        """The series that discovery puts it in: the name without its version."""
        return f"{self.prefix}-{self.arch}"

    @property
    def number(self) -> str:
        """The version as metadata writes it: the digits alone."""
        return self.version.replace("-", "")


@lru_cache(1 << 16)  # a night asks for the parts of each name dozens of times
def image_name(name: str) -> ImageName:
    """Return the parts of an image's file name that was checked where it entered the program."""
    parsed = ImageName.parse(name)
    if parsed is None:
        raise ValueError(f"not an image name: {name!r}")
    return parsed


def distribution_of(series: str) -> str | None:
    """Return the distribution, such as ``buster``; None if only a manual configuration names it."""
    match = _SERIES.fullmatch(series)
    return match["distribution"] if match else None


def rdiff_name(source: str, target: str) -> str:
    """Return the name of the rdiff between two images; the laptop client computes the same."""
    basis, goal = image_name(source), image_name(target)
    return f"{basis.prefix}-{basis.version}--{goal.version}-{basis.arch}.rdiff"


def source_image(rdiff: str) -> str:
    """Return the image that an rdiff starts from, by its name; empty if the name tells none."""
    left, _, right = rdiff.rpartition("/")[2].removesuffix(".rdiff").rpartition("--")
    name = f"{left}-{right[len('YYYY-MM-DD-HHMMSS') + 1 :]}.img"
    return name if ImageName.parse(name) else ""


def is_rdiff_name(name: str) -> bool:
    """Tell whether this is the name of an rdiff, old or new."""
    return _RDIFF.fullmatch(name) is not None


def is_plain_name(name: str) -> bool:
    """Tell whether this is one harmless file name: no folder, not hidden, printable ASCII."""
    return _PLAIN.fullmatch(name) is not None and len(name) <= LONGEST
