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
from puavo_repository.progress import format_bytes
from puavo_repository.retry import with_retries

Wrong = tuple[str, str, str]
"""What is wrong, expected and found."""

_LARGEST = 2  # sizes of its image; no rdiff that is worth a fetch is larger


@dataclass(frozen=True)
class Update:
    """What a laptop of a series does after the last night.

    Attributes:
        series: Its series.
        old: The entry of the image that it has.
        new: The entry of the image that it wants.
        diff: The entry of the rdiff between them.
    """

    series: str
    old: dict[str, Any]
    new: dict[str, Any]
    diff: dict[str, Any]

    @property
    def path(self) -> str:
        """Where the rdiff lies, by the name that the client computes."""
        return f"rdiffs/{rdiff_name(self.old['filename'], self.new['filename'])}"


def canary(
    root: Path, https: Https, served: Description, local: Description, turn: int
) -> tuple[str, Finding | None]:
    """Make one update of the series whose turn it is.

    Args:
        root: The local mirror, which has the old image.
        https: The server.
        served: What it serves as metadata.
        local: What the local mirror describes.
        turn: Counts the audits.

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
        wrong = _try(root, https, update)
    except (OSError, StorageError, StorageRefusedError) as why:
        if not (root / old).is_file():
            return f"canary: {old} was taken away by a night, so no update could be made", None
        failed = "the update of a client could not be tried"
        return f"canary: {failed}", warning(https.urlbase, update.path, failed, found=str(why))
    if wrong is None:
        size = format_bytes(update.diff["size"])
        return f"canary: {old} became {new} by an rdiff of {size}, as on a laptop", None
    if not _is_sound(root, update.old):
        return f"canary: {old} is wrong in the local mirror, so no update can start from it", None
    problem, expected, found = wrong
    finding = error(
        https.urlbase,
        update.path,
        f"the update from {old} to {new} fails: {problem}",
        expected,
        found,
        "Audit the remote that is served here; see what lies between it and the clients",
    )
    return f"canary: the update from {old} to {new} FAILED", finding


def _updates(served: Description) -> Iterator[Update]:
    for document in served.parsed.values():
        for series, content in document.items():
            for old, new in [content["images"][-2:]] if len(content["images"]) > 1 else []:
                if not (ImageName.parse(old["filename"]) and ImageName.parse(new["filename"])):
                    continue
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
        found = digest_file(root / old["filename"], lambda _done: None)
    except OSError:
        return False
    return bool(found.sha512 == old["sha512"])


def _try(root: Path, https: Https, update: Update) -> Wrong | None:
    """Make the update; return what is wrong with it."""
    size, most = update.diff["size"], _LARGEST * (root / update.old["filename"]).stat().st_size
    if size > max(most, 1 << 20):
        return "its rdiff is larger than any that is of use", f"at most {most} bytes", str(size)
    # A file without a name: nothing is left behind, whatever happens.
    with tempfile.TemporaryFile(dir=Mirror(root).state.folder) as file:
        try:
            problem = with_retries(lambda: _fetch(https, update, file))
        except ConnectionLostError as why:
            return f"its rdiff cannot be fetched: {why.problem}", "", why.found
        return problem or _apply(root, update, Path(f"/proc/self/fd/{file.fileno()}"))


def _fetch(https: Https, update: Update, file: IO[bytes]) -> Wrong | None:
    """Fetch the rdiff into a file, from its beginning."""
    size, wanted, digest = update.diff["size"], str(update.diff.get("sha512")), hashlib.sha512()
    file.seek(0)
    file.truncate()

    def keep(block: bytes) -> None:
        digest.update(block)
        file.write(block)

    answer = https.fetch(f"{https.urlbase}/{update.path}", size, keep)
    if answer.status != 200 or answer.leads:
        return "its rdiff is not served", "status 200", str(answer)
    file.flush()
    if answer.more or file.tell() != size:
        found = f"more than {size}" if answer.more else str(file.tell())
        return "its rdiff has the wrong size", str(size), found
    if digest.hexdigest() != wanted:
        return "its rdiff is damaged: the sha512 differs", wanted, digest.hexdigest()
    return None


def _apply(root: Path, update: Update, rdiff: Path) -> Wrong | None:
    from puavo_repository.delta.librsync import patch  # compiled code, slow to load

    wanted, size = str(update.new.get("sha512")), update.new["size"]
    digest, count = hashlib.sha512(), 0

    def take(block: memoryview) -> None:
        nonlocal count
        count += len(block)
        if count > size:
            raise DeltaError(rdiff, "it gives more than the image has")
        digest.update(block)

    try:
        patch(root / update.old["filename"], rdiff, take)
    except DeltaError as why:
        return f"its rdiff cannot be applied: {why.problem}", "", why.found
    if digest.hexdigest() != wanted:
        found = digest.hexdigest()
        return "what its rdiff gives is not the image: the sha512 differs", wanted, found
    return None
