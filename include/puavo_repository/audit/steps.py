"""What the checks of an audit have in common: the rules of metadata, turns, work side by side.

Of metadata the laptop client reads ``filename``, ``size`` and ``sha512`` and computes the names of
rdiffs by itself; the bootserver client needs ``sha256``, ``size`` and ``urls`` everywhere, and for
images ``id`` and a ``version`` that is unique in the series.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from puavo_repository.audit.report import Checked, Finding, error
from puavo_repository.errors import RepositoryError, storage_error
from puavo_repository.formats.metadata import DescribedFile, Document, described_files
from puavo_repository.formats.names import ImageName, image_name, rdiff_name, source_image
from puavo_repository.mirror.description import Description
from puavo_repository.mirror.files import Identity

T = TypeVar("T")
R = TypeVar("R")

DAY = 24 * 3600.0  # seconds
STRAY = "Remove it if nobody needs it"
FEW = 1 << 30  # bytes that are always looked at in full: it costs little
_DIGESTS = {"cksum": r"[0-9]{1,10}", "sha256": r"[0-9a-f]{64}", "sha512": r"[0-9a-f]{128}"}
_MOST = 20  # problems of one document that are told


def attempted(where: str, check: Callable[[], Checked]) -> Checked:
    """Make a check of a place; what keeps it from being made is a finding."""
    try:
        return check().named(where)
    except (RepositoryError, OSError) as caught:
        why = storage_error(where, caught) if isinstance(caught, OSError) else caught
        return Checked(where, findings=(Finding.of(where, why),))


def broken_rules(described: Description, remedy: str = "") -> Iterator[Finding]:
    """Yield what clients rely on in metadata, beyond what it takes to read it, and is not so."""
    for path, document in described.parsed.items():
        problems = [
            *islice(_problems(document), _MOST),
            *(
                f"{file.path} is described in two ways"
                for file in described_files(document)
                if described.files[file.path] != file
            ),
        ]
        for problem in problems:
            yield error(path, f"breaks what clients rely on: {problem}", remedy=remedy)


def _problems(document: Document) -> Iterator[str]:
    for series, content in document.items():
        if content.keys() != {"images"}:
            yield f"series {series} has keys beside images, which breaks every client"
        versions: set[str] = set()
        for image in content["images"]:
            yield from _image_problems(image)
            version = str(image.get("version"))
            if version in versions:
                yield f"{image['filename']}: its version is there twice in series {series}"
            versions.add(version)


def _image_problems(image: dict[str, Any]) -> Iterator[str]:
    name = image["filename"]
    parsed = ImageName.parse(name)
    if parsed is None:
        yield f"{name} is no image's name"
        return
    yield from _entry_problems(image, name, parsed.number)
    if image.get("id") != name.removesuffix(".img"):
        yield f"{name}: its id is not its name without .img"
    if not isinstance(image.get("puavo-conf"), dict):
        yield f"{name} has no puavo-conf"
    for diff in image.get("diffs", []):
        source = source_image(diff["filename"])
        if not source or rdiff_name(source, name) != diff["filename"]:
            yield f"{diff['filename']} is not how clients call an rdiff to {name}"
            continue
        yield from _entry_problems(diff, diff["filename"], image_name(source).number)


def _entry_problems(entry: dict[str, Any], name: str, version: str) -> Iterator[str]:
    if entry.get("version") != version:
        yield f"{name}: its version is not {version}"
    urls = entry.get("urls")
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
        yield f"{name} has no urls"
    for key, form in _DIGESTS.items():
        if not isinstance(entry.get(key), str) or not re.fullmatch(form, entry[key]):
            yield f"{name} has no usable {key}"


def is_local(root: Path, file: DescribedFile, local: Description) -> bool:
    """Say whether the local mirror describes a file in the same way, and has one of its size."""
    identity = Identity.at(root / file.path)
    return is_same(file, local) and identity is not None and identity.size == file.size


def is_same(file: DescribedFile, local: Description) -> bool:
    """Say whether the local mirror describes a file with the same sha256."""
    ours = local.files.get(file.path)
    return ours is not None and ours.sha256 == file.sha256


def due(files: Collection[DescribedFile], turn: int, share: float) -> set[str]:
    """Return the paths of the files whose turn it is to be read in full; of a small mirror, all."""
    if share > 0 and sum(file.size for file in files) <= FEW:
        share = 1
    return {file.path for file in files if is_due(file.path, turn, share)}


def is_due(path: str, turn: int, share: float) -> bool:
    """Say whether it is a file's turn in an audit that reads this share of all: 1 for every one.

    With ``rounds`` = 1/share, rounded up, any so many audits in a row read every file, whatever
    was added or removed between them: a file's turn depends on its own name alone.
    """
    if share <= 0:
        return False
    rounds = math.ceil(1 / share)
    place = int.from_bytes(hashlib.sha256(path.encode("utf-8", "replace")).digest()[:8], "big")
    return place % rounds == turn % rounds


def side_by_side(step: Callable[[T], R], work: Iterable[T], workers: int) -> list[R]:
    """Do a step for each item, several at a time; return the results in the order of the items.

    An error ends it: what has not begun by then is not done.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="audit")
    try:
        return list(pool.map(step, work))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
