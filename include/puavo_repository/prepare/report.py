"""report: what a run did, for people and for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from puavo_repository.errors import PermanentError
from puavo_repository.mirror import files
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import ADOPTED, Failure
from puavo_repository.prepare.configure import Catalogue, configure
from puavo_repository.prepare.discover import Inventory, discover
from puavo_repository.progress import format_bytes
from puavo_repository.settings import Settings

_OLD_SIGNATURES = ".signatures"


@dataclass(frozen=True)
class RdiffLine:
    """One rdiff on offer; sizes in bytes."""

    series: str
    source: str
    target: str
    name: str
    size: int
    target_size: int

    @property
    def share(self) -> float:
        """Its size as a share of the image that a client would fetch without it."""
        return self.size / self.target_size if self.target_size else 0.0


@dataclass(frozen=True)
class SeriesLine:
    """One series on offer.

    Attributes:
        name: Of the series.
        images: How many it has.
        newest: File name of its last image, and its size in bytes.
        newest_size: Size of that image in bytes.
        rdiffs: How many rdiffs there are to its images.
        update: Bytes that a client with the image before the newest fetches; None where it
            has to fetch the whole image.
    """

    name: str
    images: int
    newest: str
    newest_size: int
    rdiffs: int
    update: int | None

    @property
    def saving(self) -> float:
        """What that client saves, as a share of the image."""
        return 1 - self.update / self.newest_size if self.update is not None else 0.0


@dataclass(frozen=True)
class Report:
    """What a run did and what the mirror offers after it.

    Attributes:
        mirror: The mirror's folder.
        series: Every series on offer.
        rdiffs: Every rdiff on offer.
        images_read: How many images were read in this run.
        rdiffs_made: How many rdiffs were made in this run and kept.
        rdiffs_adopted: How many that another system made were proven and kept as they are.
        bytes_read: Bytes of images that were fingerprinted.
        removed: Files that were removed from the mirror.
        notes: What the operator should know.
        failures: What was asked for and is not there.
        seconds: How long it took.
    """

    mirror: Path
    series: tuple[SeriesLine, ...]
    rdiffs: tuple[RdiffLine, ...]
    images_read: int
    rdiffs_made: int
    rdiffs_adopted: int
    bytes_read: int
    removed: tuple[str, ...]
    notes: tuple[str, ...]
    failures: tuple[Failure, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there."""
        return not self.failures

    def checked(self) -> Report:
        """Return the report itself if all went well.

        Raises:
            PermanentError: Something failed; each failure was a task of its own, whose
                retries are used up.
        """
        if self.ok:
            return self
        raise PermanentError(
            self.mirror,
            f"{len(self.failures)} images or rdiffs failed, everything else is done",
            found="; ".join(failure.message for failure in self.failures[:20]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for ``--json`` and the page."""
        return {
            **asdict(self),
            "mirror": str(self.mirror),
            "series": [{**asdict(one), "saving": round(one.saving, 6)} for one in self.series],
            "rdiffs": [{**asdict(one), "share": round(one.share, 6)} for one in self.rdiffs],
            "removed": list(self.removed),
            "notes": list(self.notes),
            "failures": [asdict(one) for one in self.failures],
            "seconds": round(self.seconds, 3),
            "ok": self.ok,
        }


def report(
    settings: Settings,
    begun: float,
    *,
    removed: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Report:
    """Sum up a run, from what lies in the mirror after it.

    Args:
        settings: Of the run.
        begun: When it began, in seconds since 1970. What was read or made since then counts.
        removed: Files that it removed.
        notes: What its steps want the operator to know.
    """
    mirror = Mirror(settings.mirror_dir)
    inventory = discover(settings)
    catalogue = configure(settings, inventory, dry_run=True)
    offered = {
        name: content["images"]
        for document in mirror.documents().values()
        for name, content in document.items()
    }
    read = [record for record in mirror.state.images if record.read >= begun]
    made = [record for record in mirror.state.rdiffs if record.made >= begun]
    kept = [record.engine == ADOPTED for record in made if record.identity is not None]
    notes = [*notes, *catalogue.notes, *_notes(settings, inventory, catalogue)]
    if len(made) > len(kept):
        notes.append(
            f"{len(made) - len(kept)} rdiffs were made and not kept: they are larger than "
            f"{settings.policy.max_share:.0%} of their image"
        )
    copies = sum(record.copy is not None for record in read)
    if copies:
        notes.append(
            f"{copies} images were copied: hard links from {settings.image_dir} to "
            f"{settings.mirror_dir} are not possible"
        )
    return Report(
        mirror=settings.mirror_dir,
        series=tuple(_series_line(name, entries) for name, entries in offered.items() if entries),
        rdiffs=tuple(
            line for name, entries in offered.items() for line in _rdiff_lines(name, entries)
        ),
        images_read=len(read),
        rdiffs_made=kept.count(False),
        rdiffs_adopted=kept.count(True),
        bytes_read=sum(record.digests.size for record in read),
        removed=tuple(removed),
        notes=tuple(dict.fromkeys(notes)),
        failures=tuple(mirror.state.failures),
        seconds=time.time() - begun,
    )


def _series_line(name: str, images: list[dict[str, Any]]) -> SeriesLine:
    newest = images[-1]
    before = images[-2]["version"] if len(images) > 1 else None
    update = next((d["size"] for d in newest["diffs"] if d["version"] == before), None)
    rdiffs = sum(len(image["diffs"]) for image in images)
    return SeriesLine(name, len(images), newest["filename"], newest["size"], rdiffs, update)


def _rdiff_lines(series: str, images: list[dict[str, Any]]) -> Iterator[RdiffLine]:
    for image in images:
        for diff in image["diffs"]:
            versions = diff["version"], image["version"]
            yield RdiffLine(series, *versions, diff["filename"], diff["size"], image["size"])


def _notes(settings: Settings, inventory: Inventory, catalogue: Catalogue) -> list[str]:
    notes = []
    if not inventory.names:
        notes.append(f"{settings.image_dir} holds no image: the mirror is empty")
    if inventory.others:
        notes.append(f"{inventory.others} other files in {settings.image_dir} were left alone")
    listed = {name for one in catalogue.series for name in one.images}
    unlisted = sorted(inventory.images.keys() - listed)
    if unlisted:
        names = ", ".join(unlisted[:3]) + ("…" if len(unlisted) > 3 else "")
        notes.append(f"{len(unlisted)} images are in no configured series: {names}")
    signatures = settings.mirror_dir / _OLD_SIGNATURES
    old = [files.Identity.at(path) for path in files.listed(signatures, "*")]
    if files.is_folder(signatures):
        size = sum(found.size for found in old if found is not None)
        notes.append(
            f"{signatures} of the old system ({format_bytes(size)}) is not needed any more"
        )
    return notes
