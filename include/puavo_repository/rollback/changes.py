"""What a rollback would change for clients, series by series. Pure."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.mirror.description import Description


@dataclass(frozen=True)
class Change:
    """What clients of one series would be offered instead of what they are offered now."""

    series: str
    now: str  # version of the newest image; empty where there is none
    then: str
    images: int  # that are not offered any more
    rdiffs: int
    images_again: int  # that are offered again
    rdiffs_again: int


def changes(now: Description, then: Description, series: Collection[str] = ()) -> Iterator[Change]:
    """Yield what differs between two generations; of some series, or of all."""
    for path in sorted({*now.documents, *then.documents}):
        if now.documents.get(path) == then.documents.get(path):
            continue
        before, after = (one.parsed.get(path, {}) for one in (now, then))
        for name in sorted({*before, *after}):
            if not series or name in series:
                yield _change(name, before, after)


def _change(series: str, now: Document, then: Document) -> Change:
    before, after = ({series: one[series]} if series in one else {} for one in (now, then))
    gone, again = _files(before) - _files(after), _files(after) - _files(before)
    rdiffs = [sum(path.startswith("rdiffs/") for path, _ in some) for some in (gone, again)]
    return Change(
        series,
        newest(before).get(series, ""),
        newest(after).get(series, ""),
        len(gone) - rdiffs[0],
        rdiffs[0],
        len(again) - rdiffs[1],
        rdiffs[1],
    )


def _files(document: Document) -> set[tuple[str, str]]:
    return {(file.path, file.sha256) for file in metadata.described_files(document)}


def newest(document: Document) -> dict[str, str]:
    """Return the version of the newest image of each series that has one."""
    images = ((series, content["images"]) for series, content in document.items())
    return {series: str(some[-1].get("version", "")) for series, some in images if some}
