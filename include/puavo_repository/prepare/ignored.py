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
    r"\.?(?P<name>.+\.img)(\.(part|partial|filepart|tmp|temp|crdownload|download|aria2)|~)"
    r"|\.(?P<hidden>.+\.img)\.[A-Za-z0-9]{6}"
)
_PACKED = re.compile(r"(?P<name>.+\.img)\.(xz|gz|zst|bz2|lz4|zip|7z|tar)")
_DATE = re.compile(r"(?<![0-9])(19|20)[0-9]{2}[-_.]?[01][0-9][-_.]?[0-3][0-9](?![0-9]{3})")
_LONG_DATE = re.compile(r"(?<![0-9])20[0-9]{12}(?![0-9])")
_EXACT_DATE = re.compile(r"(^|-)[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{6}(?=-|\.|$)")
_ODD = re.compile(r"[^A-Za-z0-9._+~-]")


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
    if part := _PART.fullmatch(name):
        like = _is_like_image(part["name"] or part["hidden"])
        return _("its name says that it is not whole yet") if like else ""
    if packed := _PACKED.fullmatch(name):
        return _("it is packed: unpack it") if _is_like_image(packed["name"]) else ""
    if image := ImageName.parse(name):
        if listed or distribution_of(image.series):
            return ""
        return _("its name tells no series: %(form)s", form=_FORM)
    if name.startswith(".") or not name.lower().endswith(".img"):
        return ""
    return _wrong(name)


def _is_like_image(name: str) -> bool:
    return ImageName.parse(name) is not None or _DATE.search(name) is not None


def _wrong(name: str) -> str:
    """Return what is wrong with a name that ends like that of an image."""
    if odd := _ODD.search(name):
        return _("its name has %(letter)s in it", letter=repr(printable(odd[0])))
    if not name.endswith(".img"):
        return _("its name does not end in .img in small letters")
    if dated := _EXACT_DATE.search(name):
        if dated.end() == len(name) - len(".img"):
            return _("its name has no architecture after the date: %(form)s", form=_FORM)
        return _("its name is not of the form %(form)s", form=_FORM)
    if _DATE.search(name) or _LONG_DATE.search(name):
        return _("the date in its name is not written as YYYY-MM-DD-HHMMSS")
    return _("its name has no date: %(form)s", form=_FORM)
