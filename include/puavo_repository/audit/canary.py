"""One update as a laptop does it: metadata, the rdiff by its name, applied, and compared."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from puavo_repository.audit.https import Https
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
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.progress import format_bytes, no_progress
from puavo_repository.retry import with_retries

_LARGEST = 2  # sizes of its image; no rdiff that is worth a fetch is larger


@dataclass(frozen=True)
class Update:
    """What a laptop of a series does after the last night, by entries of metadata."""

    series: str
    old: dict[str, Any]  # the image that it has
    new: dict[str, Any]  # the image that it wants
    diff: dict[str, Any]  # the rdiff between them, by the name that the client computes

    @property
    def path(self) -> str:
        """Where the rdiff lies."""
        return f"rdiffs/{self.diff['filename']}"

    def failed(self, problem: str, expected: str = "", found: str = "") -> DeltaError:
        """Return the error that says what is wrong with it."""
        return DeltaError(self.path, problem, expected=expected, found=found)


def canary(
    root: Path, https: Https, served: Description, local: Description, turn: int
) -> tuple[str, Finding | None]:
    """Make one update of the series whose turn it is: of each of them, as audits are counted.

    Returns:
        How it went, as a line for people, and what is wrong if something is.
    """
    offered = sorted(_updates(served), key=lambda update: update.series)
    if not offered:
        return "canary: no series has an rdiff to its newest image from the one before", None
    possible = [update for update in offered if _has(root, local, update.old)]
    if not possible:
        return "canary: the local mirror has none of the images that an update starts from", None
    update = possible[turn % len(possible)]
    old, new = update.old["filename"], update.new["filename"]
    try:
        _make(root, https, update)
    except (OSError, StorageError, StorageRefusedError) as why:
        if not (root / old).is_file():
            return f"canary: {old} was taken away by a night, so no update could be made", None
        failed = "the update of a client could not be tried"
        return f"canary: {failed}", warning(update.path, failed, found=str(why))
    except DeltaError as why:
        if not _is_sound(root, update.old):
            return (
                f"canary: {old} is wrong in the local mirror, so no update can start from it",
                None,
            )
        problem = f"the update from {old} to {new} fails: {why.problem}"
        remedy = "Audit the remote that is served here; see what lies between it and the clients"
        finding = error(update.path, problem, why.expected, why.found, remedy)
        return f"canary: the update from {old} to {new} FAILED", finding
    size = format_bytes(update.diff["size"])
    return f"canary: {old} became {new} by an rdiff of {size}, as on a laptop", None


def _updates(served: Description) -> Iterator[Update]:
    for document in served.parsed.values():
        for series, content in document.items():
            last = content["images"][-2:]
            if len(last) < 2 or not all(ImageName.parse(image["filename"]) for image in last):
                continue
            old, new = last
            name = rdiff_name(old["filename"], new["filename"])
            for diff in new.get("diffs", []):
                if diff["filename"] == name:
                    yield Update(series, old, new, diff)


def _has(root: Path, local: Description, old: dict[str, Any]) -> bool:
    file = local.files.get(old["filename"])
    same = file is not None and file.digests.get("sha512") == old.get("sha512")
    return same and (root / old["filename"]).is_file()


def _is_sound(root: Path, old: dict[str, Any]) -> bool:
    try:
        return bool(digest_file(root / old["filename"], no_progress).sha512 == old["sha512"])
    except OSError:
        return False


def _make(root: Path, https: Https, update: Update) -> None:
    """Make the update; a ``DeltaError`` says what is wrong with it."""
    size, most = update.diff["size"], _LARGEST * (root / update.old["filename"]).stat().st_size
    if size > max(most, 1 << 20):
        problem = "its rdiff is larger than any that is of use"
        raise update.failed(problem, f"at most {most} bytes", str(size))
    # A file without a name: nothing is left behind, whatever happens.
    with tempfile.TemporaryFile(dir=Mirror(root).state.folder) as file:
        try:
            with_retries(lambda: _fetch(https, update, file))
        except ConnectionLostError as why:
            problem = f"its rdiff cannot be fetched: {why.problem}"
            raise update.failed(problem, found=why.found) from why
        _apply(root, update, Path(f"/proc/self/fd/{file.fileno()}"))


def _fetch(https: Https, update: Update, file: IO[bytes]) -> None:
    """Fetch the rdiff into a file, from its beginning."""
    size, wanted, digest = update.diff["size"], str(update.diff.get("sha512")), hashlib.sha512()
    file.seek(0)
    file.truncate()

    def keep(block: bytes) -> None:
        digest.update(block)
        file.write(block)

    answer = https.fetch(f"{https.urlbase}/{update.path}", size, keep)
    if answer.status != 200:
        raise update.failed("its rdiff is not served", "status 200", str(answer))
    file.flush()
    if answer.more or file.tell() != size:
        found = f"more than {size}" if answer.more else str(file.tell())
        raise update.failed("its rdiff has the wrong size", str(size), found)
    if digest.hexdigest() != wanted:
        problem = "its rdiff is damaged: the sha512 differs"
        raise update.failed(problem, wanted, digest.hexdigest())


def _apply(root: Path, update: Update, rdiff: Path) -> None:
    wanted, size = str(update.new.get("sha512")), update.new["size"]
    digest, count = hashlib.sha512(), 0

    def take(block: memoryview) -> None:
        nonlocal count
        count += len(block)
        if count > size:
            raise update.failed("it gives more than the image has")
        digest.update(block)

    try:
        patch(root / update.old["filename"], rdiff, take)
    except DeltaError as why:
        problem = f"its rdiff cannot be applied: {why.problem}"
        raise update.failed(problem, found=why.found) from why
    if digest.hexdigest() != wanted:
        problem = "what its rdiff gives is not the image: the sha512 differs"
        raise update.failed(problem, wanted, digest.hexdigest())
