"""What the checks of an audit share: the rules of metadata, turns, work side by side, repairs.

Of metadata the laptop client reads ``filename``, ``size`` and ``sha512`` and computes the names of
rdiffs by itself; the bootserver client needs ``sha256``, ``size`` and ``urls`` everywhere, and for
images ``id`` and a ``version`` that is unique in the series.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

from puavo_repository.audit.report import Checked, Finding
from puavo_repository.errors import RepositoryError, as_storage_error
from puavo_repository.formats.metadata import DescribedFile, Document, described_files
from puavo_repository.formats.names import ImageName, image_name, rdiff_name, source_image
from puavo_repository.mirror.description import Description
from puavo_repository.mirror.files import PART, Identity

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
        with as_storage_error(where):
            return check()
    except RepositoryError as error:
        return Checked(where, findings=(Finding.of(where, error),))


def repaired(found: Checked, repair: Callable[[set[str], list[str]], set[str]]) -> Checked:
    """Repair what can be, and tell what is right again from what is not.

    ``repair`` repairs some files, makes notes, and returns those that are still wrong.
    """
    mended, notes = [one for one in found.findings if one.repairable], list(found.notes)
    paths = {one.file for one in mended}
    try:
        wrong = repair(paths, notes) if paths else set()
    except RepositoryError as error:
        wrong = paths
        notes.append(f"not repaired: {error}")
    mended = [one for one in mended if one.file not in wrong]
    return replace(
        found,
        findings=tuple(one for one in found.findings if one not in mended),
        repaired=tuple(replace(one, remedy="") for one in mended),
        notes=tuple(notes),
    )


def broken_rules(described: Description) -> Iterator[tuple[str, str]]:
    """Yield what clients rely on in metadata, beyond what it takes to read it, and is not so.

    Pairs of a document's path and a problem.
    """
    for path, document in described.parsed.items():
        several = [f for f in described_files(document) if described.files[f.path] != f]
        problems = list(islice(_problems(document), _MOST))
        problems += [f"{file.path} is described in two ways" for file in several]
        for problem in problems:
            yield path, f"breaks what clients rely on: {problem}"


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
    yield from _entry_problems(image, parsed.number)
    if image.get("id") != name.removesuffix(".img"):
        yield f"{name}: its id is not its name without .img"
    if not isinstance(image.get("puavo-conf"), dict):
        yield f"{name} has no puavo-conf"
    for diff in image.get("diffs", []):
        source = source_image(diff["filename"])
        if source and rdiff_name(source, name) == diff["filename"]:
            yield from _entry_problems(diff, image_name(source).number)
        else:
            yield f"{diff['filename']} is not how clients call an rdiff to {name}"


def _entry_problems(entry: dict[str, Any], version: str) -> Iterator[str]:
    name, urls = entry["filename"], entry.get("urls")
    if entry.get("version") != version:
        yield f"{name}: its version is not {version}"
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
        yield f"{name} has no urls"
    for key, form in _DIGESTS.items():
        if not isinstance(entry.get(key), str) or not re.fullmatch(form, entry[key]):
            yield f"{name} has no usable {key}"


def is_same(file: DescribedFile, local: Description) -> bool:
    """Say whether the local mirror describes a file with the same sha256."""
    ours = local.files.get(file.path)
    return ours is not None and ours.sha256 == file.sha256


def is_local(file: DescribedFile, local: Description) -> bool:
    """Say whether the local mirror describes a file in the same way, and has one of its size."""
    identity = Identity.at(local.root / file.path) if is_same(file, local) else None
    return identity is not None and identity.size == file.size


def is_being_made(name: str, mtime: float) -> bool:
    """Say whether this is a part that somebody works on, by its name and time (in seconds)."""
    return name.startswith(".") and name.endswith(PART) and time.time() - mtime < DAY


def due(files: Collection[DescribedFile], turn: int, share: float) -> set[str]:
    """Return the paths of the files whose turn it is to be read in full; of a small mirror, all.

    ``share`` is how much of all an audit reads. With ``rounds`` = 1/share, rounded up, any so many
    audits in a row read every file, whatever was added or removed between them: a file's turn
    depends on its own name alone.
    """
    if share <= 0:
        return set()
    rounds = 1 if sum(file.size for file in files) <= FEW else math.ceil(1 / share)
    names = {f.path: hashlib.sha256(f.path.encode("utf-8", "replace")).digest() for f in files}
    return {
        p for p, name in names.items() if (int.from_bytes(name[:8], "big") - turn) % rounds == 0
    }


def side_by_side(step: Callable[[T], R], work: Iterable[T], workers: int) -> list[R]:
    """Do a step for each item, several at a time; return the results in the order of the items.

    An error ends it: what has not begun by then is not done.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="audit")
    try:
        return list(pool.map(step, work))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
