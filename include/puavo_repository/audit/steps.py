"""What the checks of an audit share: the rules of metadata, turns, work side by side.

Of metadata the laptop client reads ``filename``, ``size`` and ``sha512`` and computes the names of
rdiffs by itself; the bootserver client needs ``sha256``, ``size`` and ``urls`` everywhere, and for
images ``id`` and a ``version`` that is unique in the series.
"""

import hashlib
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from puavo_repository.audit.report import Checked, Finding, warning
from puavo_repository.errors import RepositoryError, as_storage_error
from puavo_repository.formats.metadata import DescribedFile, Document, described_files
from puavo_repository.formats.names import ImageName, image_name, rdiff_name, source_image
from puavo_repository.mirror.description import Description
from puavo_repository.mirror.files import PART, Identity
from puavo_repository.remote.tree import Kind, RemoteStat

T = TypeVar("T")
R = TypeVar("R")

DAY = 24 * 3600.0  # seconds
FEW = 1 << 30  # bytes that are always looked at in full: it costs little
KINDS = {
    Kind.FILE: "a file",
    Kind.FOLDER: "a folder",
    Kind.LINK: "a link",
    Kind.OTHER: "a pipe or device",
}
_DIGESTS = {"cksum": r"[0-9]{1,10}", "sha256": r"[0-9a-f]{64}", "sha512": r"[0-9a-f]{128}"}
_LOOKS = 4  # times that findings are looked at while somebody is at work
_MOST = 20  # problems of one document that are told


def attempted(where: str, check: Callable[[], Checked]) -> Checked:
    """Make a check of a place; what keeps it from being made is a finding."""
    try:
        with as_storage_error(where):
            return check()
    except RepositoryError as error:
        return Checked(where, findings=(Finding.of(where, error),), whole=False)


def broken_rules(described: Description) -> Iterator[tuple[str, str]]:
    """Yield what clients rely on in metadata, beyond what it takes to read it, and is not so.

    Pairs of a document's path and a problem.
    """
    for path, document in described.parsed.items():
        several = [f for f in described_files(document) if described.files[f.path] != f]
        problems = list(islice(_problems(document), _MOST))
        problems += [f"{file.path} is described in two ways" for file in several]
        yield from ((path, f"breaks what clients rely on: {problem}") for problem in problems)


def _problems(document: Document) -> Iterator[str]:
    for series, content in document.items():
        if content.keys() != {"images"}:
            yield f"series {series} has keys beside images, which breaks every client"
        versions: set[str] = set()
        for image in content["images"]:
            name, version = image["filename"], str(image.get("version"))
            if version in versions:
                yield f"{name}: its version is there twice in series {series}"
            versions.add(version)
            parsed = ImageName.parse(name)
            if parsed is None:
                yield f"{name} is no image's name"
                continue
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


def strays(
    listing: Mapping[str, RemoteStat], known: Collection[str], records: str
) -> Iterator[Finding]:
    """Yield what lies in a mirror and neither metadata nor its ``records`` know; to be named only.

    ``known`` are the paths that they know. A part that somebody works on is none.
    """
    for path, found in sorted(listing.items()):
        name = path.rpartition("/")[2]
        is_part = name.startswith(".") and name.endswith(PART) and found.kind is Kind.FILE
        if path in known or (is_part and time.time() - found.mtime < DAY):
            continue
        nobody = f"neither metadata nor {records} knows it"
        what = f"is {KINDS[found.kind]} that is not part of the mirror: {nobody}"
        what = "was left by work that nobody continued" if is_part else what
        yield warning(path, what, "", f"{found.size} bytes", "Remove it if nobody needs it")


def due(
    files: Collection[DescribedFile], turn: int, again: Collection[str], share: float
) -> set[str]:
    """Return the paths of the files whose turn it is to be read in full; of a small mirror, all.

    Those of ``again`` always are: something was wrong with them.

    ``share`` is how much of all an audit reads. With ``rounds`` = 1/share, rounded up, any so many
    audits in a row read every file, whatever was added or removed between them: a file's turn
    depends on its own name alone.
    """
    known = {file.path for file in files}.intersection(again)
    if share <= 0:
        return known
    rounds = 1 if sum(file.size for file in files) <= FEW else math.ceil(1 / share)
    names = {f.path: hashlib.sha256(f.path.encode("utf-8", "replace")).digest() for f in files}
    return known | {
        p for p, name in names.items() if (int.from_bytes(name[:8], "big") - turn) % rounds == 0
    }


def settled(
    look: Callable[[Collection[str] | None], tuple[Mapping[str, bytes], list[Finding]]],
    only: Collection[str] | None = None,
) -> list[Finding]:
    """Look at a place until what is found counts: no lock is taken, so somebody may be at work.

    ``look`` looks at everything (None) or at some files alone. It returns the metadata that it read
    first, and what is wrong. That is looked at again, with the metadata of then, until the metadata
    is the same as before; only what is found each time counts.
    """
    documents, findings = look(only)
    for _ in range(_LOOKS - 1):
        if not findings:
            break
        before = documents
        documents, findings = look({finding.file for finding in findings})
        if documents == before:
            break
    return findings


def side_by_side(step: Callable[[T], R], work: Iterable[T], workers: int) -> list[R]:
    """Do a step for each item, several at a time; return the results in the order of the items.

    An error ends it: what has not begun by then is not done.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="audit")
    try:
        return list(pool.map(step, work))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
