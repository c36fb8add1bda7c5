"""The generations of a remote as they were: the way that a rollback goes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import DescribedFile, Document
from puavo_repository.mirror.description import Description
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.survey import Facts, listing
from puavo_repository.remote import generations, journal
from puavo_repository.remote.journal import Journal
from puavo_repository.remote.tree import Kind, RemoteTree, read_whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One generation that was published.

    Attributes:
        number: Which.
        at: When it was published, in seconds since the epoch; None where that is not kept.
        newest: Version of the newest image of each series then.
        missing: How many of the files that it names are not there any more.
        lost: How many of its metadata files are not known any more: it cannot be gone back to.
    """

    number: int
    at: int | None
    newest: Mapping[str, str]
    missing: int
    lost: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Past:
    """One generation as it was.

    Attributes:
        number: Which.
        at: When it was published, in seconds since the epoch; None where that is not kept.
        documents: Its metadata by path.
    """

    number: int
    at: int | None
    documents: dict[str, bytes]


def steps(publisher: Publisher) -> list[Step]:
    """Return the generations that are kept, the current one first."""
    with publisher.pool.tree() as tree:
        facts = look(tree, journal.load(tree))
        return [_step(tree, facts, past) for past in history(tree, facts.journal)]


def _step(tree: RemoteTree, facts: Facts, past: Past) -> Step:
    parsed = parse(tree, past.documents)
    described = Description.of(past.documents)
    described.check_digests()
    missing = sum(in_place(facts, file) is False for file in described.files.values())
    lost = sum(not is_sound(content) for content in past.documents.values())
    return Step(past.number, past.at, _newest(parsed), missing, lost)


def look(tree: RemoteTree, record: Journal) -> Facts:
    """Return what lies on a remote, beside its journal."""
    return Facts(record, listing(tree, record.files))


def history(tree: RemoteTree, record: Journal) -> Iterator[Past]:
    """Yield the current generation and those before it, as far as there are records of them."""
    ours = record.files
    names = sorted(path for path in ours if path.startswith("meta/"))
    read = ((path, read_whole(tree, path)) for path in names)
    documents = {path: content for path, content in read if content is not None}
    for number in range(record.generation, -1, -1):
        made = generations.load(tree, number)
        yield Past(number, made.at if made else None, dict(documents))
        if made is None:
            return
        for path, text in made.replaced.items():
            documents.pop(path, None)
            if text is not None:
                documents[path] = text.encode()
        if not documents:
            return


def is_sound(content: bytes) -> bool:
    """Say whether this is metadata that can be read."""
    try:
        metadata.parse(content)
    except ValueError:
        return False
    return True


def parse(tree: RemoteTree, documents: Mapping[str, bytes]) -> dict[str, Document]:
    """Parse documents by path; a damaged one counts as empty."""
    parsed: dict[str, Document] = {}
    for path, content in documents.items():
        try:
            parsed[path] = metadata.parse(content)
        except ValueError as error:
            logger.warning("%s/%s is damaged: %s", tree.name, path, error)
            parsed[path] = {}
    return parsed


def in_place(facts: Facts, file: DescribedFile) -> bool | None:
    """Say whether a file is there as it was published; None where only its bytes can tell."""
    found, entry = facts.listing.get(file.path), facts.journal.files.get(file.path)
    if found is None or found.kind is not Kind.FILE or found.size != file.size:
        return False
    if entry is not None and entry.agrees(found):
        return entry.sha256 == file.sha256
    return None


def _newest(parsed: Mapping[str, Document]) -> dict[str, str]:
    return {
        name: str(content["images"][-1].get("version", ""))
        for document in parsed.values()
        for name, content in document.items()
        if content["images"]
    }
