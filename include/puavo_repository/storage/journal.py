"""The journal of a remote mirror: what we put there, and which generation it is.

It lies on the remote itself, so that it survives the loss of the machine that publishes::

    .puavo-publish/
        journal.json            this
        publisher.lock          held by the run that publishes (``publisher_lock``)
        generations/<n>.json    what generation n replaced: the way back (``generations``)

A file is entered *before* it is sent: whatever happens, what we put there is known to be ours,
and nothing else is ever removed. A journal that is damaged is worked out again from the metadata
there, of now and of the generations before.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from puavo_repository.formats import metadata, sealed
from puavo_repository.storage import generations
from puavo_repository.storage.generations import (
    FOLDER,
    NO_TIME,
    Generation,
    own_path,
    texts,
    whole,
)
from puavo_repository.storage.remote import Kind, RemoteStat, RemoteTree, read_whole, write_whole

logger = logging.getLogger(__name__)

PATH = f"{FOLDER}/journal.json"


@dataclass(frozen=True)
class Moment:
    """One moment on two clocks, because either may be far off.

    Attributes:
        server: Seconds on the server's clock.
        local: Seconds on this machine's.
    """

    server: int
    local: int

    def age(self, now: Moment) -> int:
        """Return the seconds passed until ``now``: the fewer that the two clocks tell."""
        return min(now.server - self.server, now.local - self.local)


@dataclass(frozen=True)
class Entry:
    """One file that we put on the remote.

    Attributes:
        size: Bytes.
        sha256: Of its content.
        mtime: What the server said after it was proven in place; None before.
        unnamed: Since when no metadata names it; None while some does.
    """

    size: int
    sha256: str
    mtime: int | None = None
    unnamed: Moment | None = None

    def agrees(self, found: RemoteStat | None) -> bool:
        """Say whether what the server shows is the file as we left it."""
        return (
            found is not None
            and found.kind is Kind.FILE
            and (found.size, found.mtime) == (self.size, self.mtime)
        )

    def to_list(self) -> list[Any]:
        """Return it as JSON carries it."""
        since = [self.unnamed.server, self.unnamed.local] if self.unnamed else None
        return [self.size, self.sha256, self.mtime, since]

    @classmethod
    def from_list(cls, values: list[Any]) -> Entry:
        """Read what ``to_list`` returned."""
        size, sha256, mtime, since = values
        unnamed = Moment(*map(whole, since)) if since else None
        return cls(whole(size, 0), str(sha256), None if mtime is None else whole(mtime), unnamed)


@dataclass
class Journal:
    """What we put on one remote mirror.

    Attributes:
        generation: Counts the changes of what clients see.
        verified: Whether that generation was found complete after it was made.
        files: Entries by path.
        rejected: Files that a step back took from clients, sha256 by path: they are not
            published again by themselves.
    """

    generation: int = 0
    verified: bool = False
    files: dict[str, Entry] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)

    def intend(self, path: str, size: int, sha256: str) -> None:
        """Enter a file that is about to be sent, unless it is known with this content."""
        known = self.files.get(path)
        if known is None or (known.size, known.sha256) != (size, sha256):
            self.files[path] = Entry(size, sha256)

    def placed(self, path: str, size: int, sha256: str, mtime: int) -> None:
        """Enter a file that is proven to be in place."""
        known = self.files.get(path)
        same = known is not None and (known.size, known.sha256) == (size, sha256)
        self.files[path] = Entry(size, sha256, mtime, known.unnamed if known and same else None)

    def distrust(self, path: str, size: int, sha256: str) -> None:
        """Have the next survey compare a file of ours byte for byte, whatever its time says.

        An entry with a time that the server does not show counts as touched by somebody: data is
        compared whole, a document is read, CKSUMS is written again.
        """
        known = self.files.get(path)
        same = known is not None and (known.size, known.sha256) == (size, sha256)
        self.files[path] = Entry(size, sha256, NO_TIME, known.unnamed if known and same else None)
        self.verified = False  # a run that finds nothing new must not end before it looked

    def name(self, path: str, since: Moment | None) -> None:
        """Note that metadata names a file (None), or since when none does."""
        entry = self.files.get(path)
        if entry is not None:
            self.files[path] = replace(entry, unnamed=since)

    def render(self) -> bytes:
        """Return the document."""
        return sealed.dumps(
            {
                "version": 1,
                "generation": self.generation,
                "verified": self.verified,
                "rejected": self.rejected,
                "files": {path: self.files[path].to_list() for path in sorted(self.files)},
            }
        )

    @classmethod
    def parse(cls, content: bytes) -> Journal:
        """Read a document.

        Raises:
            ValueError: It is not one of ours.
        """
        try:
            found = sealed.loads(content)
            entries = {own_path(p): Entry.from_list(values) for p, values in found["files"].items()}
            generation, verified = whole(found["generation"], 0), bool(found["verified"])
            return cls(generation, verified, entries, texts(found["rejected"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a journal: {error!r}") from error


def load(tree: RemoteTree) -> Journal:
    """Read the journal of a remote; a remote without one is new to us."""
    content = read_whole(tree, PATH)
    try:
        if content is not None:
            return Journal.parse(content)
        problem = "is missing"
    except ValueError as error:
        problem = f"is damaged ({error})"
    kept = generations.kept(tree)
    if content is None and not kept:
        return Journal()
    logger.warning("%s/%s %s: it is worked out again", tree.name, PATH, problem)
    return _worked_out(tree, kept)


def save(tree: RemoteTree, journal: Journal) -> None:
    """Replace the journal on the remote."""
    write_whole(tree, PATH, journal.render())


def _worked_out(tree: RemoteTree, kept: list[int]) -> Journal:
    """Make a journal anew: what metadata names there, or named a while ago, is ours.

    Nothing counts as proven: the next survey compares the files with the mirror's.
    """
    records = [record for n in kept if (record := generations.load(tree, n)) is not None]
    journal = Journal(generation=kept[-1] if kept else 0)
    if records:
        journal.rejected = dict(records[-1].rejected)
    for path, content in _documents(tree, records):
        journal.files[path] = Entry(len(content), hashlib.sha256(content).hexdigest())
        try:
            for file in metadata.described_files(metadata.parse(content)):
                journal.files[file.path] = Entry(file.size, file.digests.get("sha256", ""))
        except ValueError as error:
            logger.warning("%s/%s is damaged: %s", tree.name, path, error)
    return journal


def _documents(tree: RemoteTree, records: list[Generation]) -> Iterator[tuple[str, bytes]]:
    """Yield metadata documents, those that clients see now as the last ones."""
    for record in records:
        for path, content in record.replaced.items():
            if content is not None:
                yield path, content.encode()
    for name, found in tree.list("meta").items():
        if found.kind is Kind.FILE and name.endswith(".json") and not name.startswith("."):
            yield f"meta/{name}", read_whole(tree, f"meta/{name}") or b""
