"""The generations of a remote as they were: the way that a rollback goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from puavo_repository.formats.metadata import DescribedFile
from puavo_repository.mirror.description import Description
from puavo_repository.progress import count
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.state import RemoteState, Row, is_meta
from puavo_repository.publish.survey import listed
from puavo_repository.remote import journal
from puavo_repository.remote.journal import Journal
from puavo_repository.remote.tree import RemoteTree, read_whole


@dataclass(frozen=True)
class Step:
    """One generation that was published."""

    number: int
    at: int | None  # when, in seconds since the epoch; None where that is not kept
    newest: Mapping[str, str]  # version of the newest image of each series then
    missing: int  # how many of the files that it names are not there any more
    lost: int = 0  # how many of its metadata files are lost: it cannot be gone back to

    def __str__(self) -> str:
        at = f"{datetime.fromtimestamp(self.at, UTC):%Y-%m-%d %H:%M} UTC" if self.at else "unknown"
        newest = ", ".join(f"{name} {version}" for name, version in self.newest.items())
        missing = f"; {count(self.missing, 'file')} of it missing" if self.missing else ""
        lost = "; its metadata is lost, so it cannot be rolled back to" if self.lost else ""
        return f"generation {self.number}, published {at}: {newest}{missing}{lost}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Past:
    """One generation as it was."""

    number: int
    at: int | None  # as of ``Step``
    described: Description  # what it offered

    @property
    def documents(self) -> Mapping[str, bytes]:
        """Its metadata by path."""
        return self.described.documents


def steps(publisher: Publisher) -> list[Step]:
    """Return the generations that are kept, the current one first."""
    with publisher.pool.tree() as tree:
        record = journal.load(tree)
        state = listed(tree, Description({}), record)
        return [_step(state, past) for past in history(tree, record)]


def _step(state: RemoteState, past: Past) -> Step:
    past.described.check_digests()
    files = past.described.files.values()
    missing = sum(is_in_place(state.row(file.path), file) is False for file in files)
    return Step(past.number, past.at, _newest(past), missing, len(past.described.damaged))


def history(tree: RemoteTree, record: Journal) -> Iterator[Past]:
    """Yield the current generation and those before it, as far as there are records of them."""
    read = ((path, read_whole(tree, path)) for path in sorted(record.files) if is_meta(path))
    documents = {path: content for path, content in read if content is not None}
    for number in range(record.generation, -1, -1):
        made = journal.load_generation(tree, number)
        yield Past(number, made.at if made else None, Description.of(dict(documents)))
        if made is None:
            return
        for path, text in made.replaced.items():
            documents.pop(path, None)
            if text is not None:
                documents[path] = text.encode()
        if not documents:
            return


def is_in_place(row: Row, file: DescribedFile) -> bool | None:
    """Say whether a file is there as it was published; None where only its bytes can tell."""
    if row.found is None or not row.found.is_file(file.size):
        return False
    if row.entry is None or not row.is_as_left:
        return None
    return row.entry.sha256 == file.sha256


def _newest(past: Past) -> dict[str, str]:
    return {
        name: str(content["images"][-1].get("version", ""))
        for document in past.described.parsed.values()
        for name, content in document.items()
        if content["images"]
    }
