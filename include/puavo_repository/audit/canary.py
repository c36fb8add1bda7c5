"""One update as a laptop does it: metadata, the rdiff by its name, applied, and compared."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from puavo_repository.audit.https import Answer, Https
from puavo_repository.audit.report import Finding, error, warning
from puavo_repository.delta.librsync import patch
from puavo_repository.errors import (
    ConnectionLostError,
    DeltaError,
    StorageError,
    StorageRefusedError,
)
from puavo_repository.formats.names import ImageName, rdiff_name
from puavo_repository.mirror.description import Description
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.records import FOLDER
from puavo_repository.progress import format_bytes, no_progress
from puavo_repository.retry import with_retries

_LARGEST = 2  # sizes of its image; no rdiff that is worth a fetch is larger


class _Update(NamedTuple):
    """What a laptop of a series does after the last night, by entries of metadata."""

    series: str
    old: dict[str, Any]  # the image that it has
    new: dict[str, Any]  # the image that it wants
    diff: dict[str, Any]  # the rdiff between them, by the name that the client computes


def canary(
    https: Https, served: Description, local: Description, turn: int
) -> tuple[str, Finding | None]:
    """Make one update of the series whose turn it is: of each of them, as audits are counted.

    Returns:
        How it went, as a line for people, and what is wrong if something is.
    """
    offered = sorted(_updates(served), key=lambda update: update.series)
    if not offered:
        return "canary: no series has an rdiff to its newest image from the one before", None
    possible = [update for update in offered if _has(local, update.old)]
    if not possible:
        return "canary: the local mirror has none of the images that an update starts from", None
    update = possible[turn % len(possible)]
    old, new, rdiff = (one["filename"] for one in update[1:])
    basis, path = local.root / old, f"rdiffs/{rdiff}"
    try:
        _make(https, update, basis, path)
    except (OSError, StorageError, StorageRefusedError) as why:
        if not basis.is_file():
            return f"canary: {old} was taken away by a night, so no update could be made", None
        failed = "the update of a client could not be tried"
        return f"canary: {failed}", warning(path, failed, found=str(why))
    except DeltaError as why:
        if not _is_sound(basis, update.old):
            line = f"canary: {old} is wrong in the local mirror, so no update can start from it"
            return line, None
        problem = f"the update from {old} to {new} fails: {why.problem}"
        remedy = "Audit the remote that is served here; see what lies between it and the clients"
        finding = error(path, problem, why.expected, why.found, remedy)
        return f"canary: the update from {old} to {new} FAILED", finding
    size = format_bytes(update.diff["size"])
    return f"canary: {old} became {new} by an rdiff of {size}, as on a laptop", None


def _updates(served: Description) -> Iterator[_Update]:
    for document in served.parsed.values():
        for series, content in document.items():
            last = content["images"][-2:]
            if len(last) < 2 or not all(ImageName.parse(image["filename"]) for image in last):
                continue
            old, new = last
            name = rdiff_name(old["filename"], new["filename"])
            diffs = (diff for diff in new.get("diffs", []) if diff["filename"] == name)
            yield from (_Update(series, old, new, diff) for diff in diffs)


def _has(local: Description, old: dict[str, Any]) -> bool:
    file = local.files.get(old["filename"])
    same = file is not None and file.digests.get("sha512") == old.get("sha512")
    return same and (local.root / old["filename"]).is_file()


def _is_sound(basis: Path, old: dict[str, Any]) -> bool:
    try:
        return bool(digest_file(basis, no_progress).sha512 == old["sha512"])
    except OSError:
        return False


def _make(https: Https, update: _Update, basis: Path, path: str) -> None:
    """Make the update; a ``DeltaError`` says what is wrong with it."""

    def check(what: str, wanted: Any, digest: Any) -> None:
        if digest.hexdigest() != wanted:
            problem = f"{what}: the sha512 differs"
            raise DeltaError(path, problem, expected=str(wanted), found=digest.hexdigest())

    size, most = update.diff["size"], _LARGEST * basis.stat().st_size
    if size > max(most, 1 << 20):
        problem, limit = "its rdiff is larger than any that is of use", f"at most {most} bytes"
        raise DeltaError(path, problem, expected=limit, found=str(size))
    # A file without a name: nothing is left behind, whatever happens.
    with tempfile.TemporaryFile(dir=basis.parent / FOLDER) as file:

        def fetch() -> Answer:
            file.seek(0)
            file.truncate()
            return https.fetch(f"{https.urlbase}/{path}", size, file.write)

        try:
            answer = with_retries(fetch)
        except ConnectionLostError as why:
            problem = f"its rdiff cannot be fetched: {why.problem}"
            raise DeltaError(path, problem, found=why.found) from why
        if answer.status != 200:
            problem = "its rdiff is not served"
            raise DeltaError(path, problem, expected="status 200", found=str(answer))
        if answer.more or file.tell() != size:
            found = f"more than {size}" if answer.more else str(file.tell())
            problem = "its rdiff has the wrong size"
            raise DeltaError(path, problem, expected=str(size), found=found)
        file.seek(0)
        check(
            "its rdiff is damaged", update.diff.get("sha512"), hashlib.file_digest(file, "sha512")
        )
        made, count = hashlib.sha512(), 0

        def take(block: memoryview) -> None:
            nonlocal count
            count += len(block)
            if count > update.new["size"]:
                raise DeltaError(path, "it gives more than the image has")
            made.update(block)

        try:
            patch(basis, Path(f"/proc/self/fd/{file.fileno()}"), take)
        except DeltaError as why:
            problem = f"its rdiff cannot be applied: {why.problem}"
            raise DeltaError(path, problem, found=why.found) from why
    check("what its rdiff gives is not the image", update.new.get("sha512"), made)
