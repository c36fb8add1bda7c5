"""Files in the image directory that look like images and are none: by their names alone.

Everything else that lies there is nobody's business. No file is opened.
"""

import os
import re
from collections.abc import Collection
from contextlib import suppress
from itertools import islice
from pathlib import Path

from puavo_repository.errors import printable
from puavo_repository.formats.names import ImageName, distribution_of
from puavo_repository.language import _

MOST = 20  # files that are named
_READ = 10_000  # names of a folder at most
_FORM = "<os>-os-<class>-<distribution>-<YYYY-MM-DD-HHMMSS>-<arch>.img"
# What browsers, copying programs and, before and behind the name, rsync call what is not whole yet.
_PART = re.compile(
    r"\.?.+\.img(\.(part|partial|filepart|tmp|temp|crdownload|download|aria2)|~)"
    r"|\..+\.img\.[A-Za-z0-9]{6}"
)
_PACKED = re.compile(r".+\.img\.(xz|gz|zst|bz2|lz4|zip|7z|tar)")


def ignored(folder: Path, offered: Collection[str]) -> list[tuple[str, str]]:
    """Return names that look like those of images, and why each is left alone.

    ``offered`` are the images that clients are told of: a configuration may name any.
    """
    found: list[tuple[str, str]] = []
    with suppress(OSError), os.scandir(folder) as entries:  # what cannot be read, prepare says
        for entry in islice(entries, _READ):
            why = reason(entry.name, listed=entry.name in offered)
            if not why and ImageName.parse(entry.name) and entry.is_dir(follow_symlinks=False):
                why = _("it is a folder")
            if why:
                found.append((printable(entry.name), why))
    return sorted(found)[:MOST]


def reason(name: str, *, listed: bool = False) -> str:
    """Return why a file that looks like an image is none; empty where it is one, or does not.

    ``listed`` says that a configuration names it.
    """
    if _PART.fullmatch(name):
        return _("its name says that it is not whole yet")
    if _PACKED.fullmatch(name):
        return _("it is packed: unpack it")
    if name.startswith(".") or not name.lower().endswith(".img"):
        return ""
    image = ImageName.parse(name)
    if image and (listed or distribution_of(image.series)):
        return ""
    return _("its name is not of the form %(form)s", form=_FORM)
