"""report: what a run did, for people and for programs."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from puavo_repository.errors import PermanentError
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import ADOPTED, Failure
from puavo_repository.prepare.configure import configure
from puavo_repository.prepare.discover import discover
from puavo_repository.progress import count, format_bytes
from puavo_repository.settings import Settings


class OfferedRdiff(NamedTuple):
    """An rdiff that clients are offered; there are thousands."""

    series: str
    name: str
    source: str  # a version, as is the target
    target: str
    size: int  # bytes
    target_size: int  # bytes

    @property
    def share(self) -> float:
        """Its size, by that of its image."""
        return round(self.size / max(1, self.target_size), 6)


@dataclass(frozen=True)
class Report:
    """What a run did and what the mirror offers after it."""

    mirror: Path
    series: tuple[dict[str, Any], ...]  # every one on offer, a ``_series_line``
    rdiffs: tuple[OfferedRdiff, ...]  # every one on offer
    images_read: int  # in this run
    rdiffs_made: int  # in this run, and kept
    rdiffs_adopted: int  # made by another system, now proven and kept as they are
    bytes_read: int  # of images that were fingerprinted
    removed: tuple[str, ...]  # files of the mirror
    notes: tuple[str, ...]  # what the operator should know
    failures: tuple[Failure, ...]  # what was asked for and is not there
    seconds: float  # how long it took

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there."""
        return not self.failures

    def checked(self) -> None:
        """Raise a ``PermanentError`` if something failed, which was tried until here."""
        if not self.ok:
            raise PermanentError(
                self.mirror,
                f"failed: {len(self.failures)} of the images and rdiffs; everything else is done",
                found="; ".join(failure.message for failure in self.failures[:20]),
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for ``--json`` and the page."""
        rdiffs = [{**one._asdict(), "share": one.share} for one in self.rdiffs]
        failures, seconds = [asdict(one) for one in self.failures], round(self.seconds, 3)
        more = {"mirror": str(self.mirror), "rdiffs": rdiffs, "failures": failures}
        return {**vars(self), **more, "seconds": seconds, "ok": self.ok}

    def series_lines(self) -> list[str]:
        """Return what is on offer, a line for people each series."""
        whole = "the whole image"
        return [
            f"{one['name']}: {count(one['images'], 'image')}, newest {one['newest']} "
            f"({format_bytes(one['newest_size'])}), {count(one['rdiffs'], 'rdiff')}; update: "
            f"{whole if one['update'] is None else format_bytes(one['update'])}, "
            f"a client saves {one['saving']:.1%}"
            for one in self.series
        ]

    def lines(self) -> list[str]:
        """Return the report as lines for people; the last one sums up."""
        images = sum(one["images"] for one in self.series)
        size = sum(one.size for one in self.rdiffs)
        adopted = f" and {self.rdiffs_adopted} adopted" if self.rdiffs_adopted else ""
        failed = f", {len(self.failures)} FAILED" if self.failures else ""
        rdiffs = self.rdiffs if self.images_read or self.rdiffs_made or self.rdiffs_adopted else ()
        shares = ((one.name, format_bytes(one.size), one.share) for one in rdiffs)
        sums = (
            f"{self.mirror}: {count(images, 'image')} in {len(self.series)} series, "
            f"{count(len(self.rdiffs), 'rdiff')} ({format_bytes(size)}), "
            f"{count(self.images_read, 'image')} read ({format_bytes(self.bytes_read)}), "
            f"{count(self.rdiffs_made, 'rdiff')} made{adopted}, {self.seconds:.1f} s{failed}"
        )
        return [
            *self.series_lines(),
            *(f"{name}: {size}, {share:.2%} of its image" for name, size, share in shares),
            *(f"note: {note}" for note in self.notes),
            *(f"removed: {path}" for path in self.removed),
            sums,
        ]


def report(
    settings: Settings, begun: float, *, removed: Sequence[str] = (), notes: Sequence[str] = ()
) -> Report:
    """Sum up a run from what lies in the mirror after it, and what its steps said.

    What was read or made since it had ``begun``, in seconds since 1970, is its work.
    """
    mirror = Mirror(settings.mirror_dir)
    series: list[dict[str, Any]] = []
    rdiffs: list[OfferedRdiff] = []
    for _, document in mirror.each_document():
        for name, images in ((name, one["images"]) for name, one in document.items()):
            series += [_series_line(name, images)] if images else []
            rdiffs += (
                OfferedRdiff(
                    name,
                    diff["filename"],
                    diff["version"],
                    image["version"],
                    diff["size"],
                    image["size"],
                )
                for image in images
                for diff in image["diffs"]
            )
    read = [record for record in mirror.state.images if record.read >= begun]
    made = [record for record in mirror.state.rdiffs if record.made >= begun]
    kept = [record.engine == ADOPTED for record in made if record.identity is not None]
    copies = sum(record.copy is not None for record in read)
    return Report(
        mirror=settings.mirror_dir,
        series=tuple(series),
        rdiffs=tuple(rdiffs),
        images_read=len(read),
        rdiffs_made=kept.count(False),
        rdiffs_adopted=kept.count(True),
        bytes_read=sum(record.digests.size for record in read),
        removed=tuple(removed),
        notes=tuple(dict.fromkeys([*notes, *_notes(settings, copies, len(made) - len(kept))])),
        failures=tuple(mirror.state.failures),
        seconds=time.time() - begun,
    )


def _series_line(name: str, images: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up a series; ``update`` is the bytes to its newest image, None for the whole of it."""
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
        # The share of the whole image.
        "saving": round(1 - update / max(1, newest["size"]), 6) if update is not None else 0.0,
    }


def _notes(settings: Settings, copies: int, too_large: int) -> Iterator[str]:
    """Yield what is to be known of the image directory, the configuration and the mirror."""
    inventory, folder, mirror = discover(settings), settings.image_dir, settings.mirror_dir
    catalogue = configure(settings, inventory, dry_run=True)
    yield from catalogue.notes
    if not inventory.names:
        yield f"{folder} holds no image: the mirror is empty"
    if inventory.others:
        yield f"{count(inventory.others, 'other file')} in {folder} left alone"
    unlisted = sorted(inventory.images.keys() - {n for one in catalogue.series for n in one.images})
    if unlisted:
        names = ", ".join(unlisted[:3]) + ("…" if len(unlisted) > 3 else "")
        yield f"{count(len(unlisted), 'image')} in no configured series: {names}"
    if copies:
        links = f"hard links from {folder} to {mirror} are not possible"
        yield f"{count(copies, 'image')} copied: {links}"
    if too_large:
        larger = f"larger than {settings.max_share:.0%} of the image"
        yield f"{count(too_large, 'rdiff')} made and not kept: {larger}"
