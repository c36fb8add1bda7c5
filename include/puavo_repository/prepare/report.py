"""report: what a run did, for people and for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from puavo_repository.errors import PermanentError
from puavo_repository.mirror import files
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import ADOPTED, Failure, ImageRecord
from puavo_repository.prepare.configure import Catalogue, configure
from puavo_repository.prepare.discover import Inventory, discover
from puavo_repository.progress import format_bytes
from puavo_repository.settings import Settings


@dataclass(frozen=True)
class Report:
    """What a run did and what the mirror offers after it.

    Attributes:
        mirror: The mirror's folder.
        series: Every series on offer: its ``name``, the number of its ``images`` and ``rdiffs``,
            the file name and size of the ``newest`` image, the bytes of the ``update`` to it from
            the one before (None where that is the whole image), and the share ``saving``.
        rdiffs: Every rdiff on offer: ``series``, ``name``, versions of ``source`` and ``target``,
            ``size``, ``target_size``, and the first as a ``share`` of the other.
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
    series: tuple[dict[str, Any], ...]
    rdiffs: tuple[dict[str, Any], ...]
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
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        seconds = round(self.seconds, 3)
        return {**values, "mirror": str(self.mirror), "seconds": seconds, "ok": self.ok}


def report(
    settings: Settings, begun: float, *, removed: Sequence[str] = (), notes: Sequence[str] = ()
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
    documents = mirror.documents().values()
    offered = [(name, one["images"]) for document in documents for name, one in document.items()]
    read = [record for record in mirror.state.images if record.read >= begun]
    made = [record for record in mirror.state.rdiffs if record.made >= begun]
    kept = [record.engine == ADOPTED for record in made if record.identity is not None]
    every_note = [
        *notes,
        *catalogue.notes,
        *_notes(settings, inventory, catalogue),
        *_notes_of_run(settings, read, len(made) - len(kept)),
    ]
    return Report(
        mirror=settings.mirror_dir,
        series=tuple(_series_line(name, images) for name, images in offered if images),
        rdiffs=tuple(line for name, images in offered for line in _rdiff_lines(name, images)),
        images_read=len(read),
        rdiffs_made=kept.count(False),
        rdiffs_adopted=kept.count(True),
        bytes_read=sum(record.digests.size for record in read),
        removed=tuple(removed),
        notes=tuple(dict.fromkeys(every_note)),
        failures=tuple(mirror.state.failures),
        seconds=time.time() - begun,
    )


def _notes_of_run(settings: Settings, read: list[ImageRecord], too_large: int) -> Iterator[str]:
    copies = sum(record.copy is not None for record in read)
    if copies:
        yield (
            f"{copies} images were copied: hard links from {settings.image_dir} to "
            f"{settings.mirror_dir} are not possible"
        )
    if too_large:
        yield (
            f"{too_large} rdiffs were made and not kept: they are larger than "
            f"{settings.policy.max_share:.0%} of their image"
        )


def _series_line(name: str, images: list[dict[str, Any]]) -> dict[str, Any]:
    newest = images[-1]
    before = images[-2]["version"] if len(images) > 1 else None
    update = next((d["size"] for d in newest["diffs"] if d["version"] == before), None)
    return {
        "name": name,
        "images": len(images),
        "newest": newest["filename"],
        "newest_size": newest["size"],
        "rdiffs": sum(len(image["diffs"]) for image in images),
        "update": update,
        "saving": round(1 - update / max(1, newest["size"]), 6) if update is not None else 0.0,
    }


def _rdiff_lines(series: str, images: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for image in images:
        for diff in image["diffs"]:
            yield {
                "series": series,
                "name": diff["filename"],
                "source": diff["version"],
                "target": image["version"],
                "size": diff["size"],
                "target_size": image["size"],
                "share": round(diff["size"] / max(1, image["size"]), 6),
            }


def _notes(settings: Settings, inventory: Inventory, catalogue: Catalogue) -> Iterator[str]:
    if not inventory.names:
        yield f"{settings.image_dir} holds no image: the mirror is empty"
    if inventory.others:
        yield f"{inventory.others} other files in {settings.image_dir} were left alone"
    listed = {name for one in catalogue.series for name in one.images}
    unlisted = sorted(inventory.images.keys() - listed)
    if unlisted:
        names = ", ".join(unlisted[:3]) + ("…" if len(unlisted) > 3 else "")
        yield f"{len(unlisted)} images are in no configured series: {names}"
    signatures = settings.mirror_dir / ".signatures"
    if files.is_folder(signatures):
        found = [Identity.at(path) for path in files.listed(signatures, "*")]
        size = format_bytes(sum(one.size for one in found if one is not None))
        yield f"{signatures} of the old system ({size}) is not needed any more"
