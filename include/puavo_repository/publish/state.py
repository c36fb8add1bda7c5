"""What a remote has beside what the local mirror wants there: a table with one row a path."""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import DescribedFile, Document
from puavo_repository.mirror.description import Description
from puavo_repository.remote.journal import Entry, Journal
from puavo_repository.remote.tree import RemoteStat

CKSUMS = "CKSUMS"
_PART = re.compile(r"\..+\.[0-9a-f]{16}(\.[0-9a-f]{8})?\.part")  # without the token: an older one


class FileState(enum.Enum):
    """How what lies under a name compares with what is wanted there."""

    PRESENT = "present"  # proven to be what is wanted
    MISSING = "missing"
    WRONG = "wrong"  # another content, or no plain file
    REJECTED = "rejected"  # a rollback took it from clients: it waits
    UNWANTED = "unwanted"  # the local mirror does not describe it


@dataclass(eq=False)
class Row:
    """One path of a remote."""

    path: str  # such as ``rdiffs/x.rdiff``
    journal: Journal  # where it is entered if we put it there; see ``entry``
    size: int = 0  # bytes of what the local mirror has under this name; 0 where it has nothing
    sha256: str = ""  # of the same; empty where it has nothing
    found: RemoteStat | None = None  # what the server shows there
    state: FileState = FileState.UNWANTED  # how the two compare
    problem: str = ""  # why it cannot be published as it stands
    document: Document | None = None  # what metadata there says; nothing where it is damaged

    @property
    def entry(self) -> Entry | None:
        """What the journal knows of it at this moment."""
        return self.journal.files.get(self.path)

    @property
    def is_ours(self) -> bool:
        """Whether we put it there."""
        return self.entry is not None and self.entry.ours

    @property
    def is_as_left(self) -> bool:
        """Whether the server shows it as it was when it was entered."""
        return self.entry is not None and self.entry.agrees(self.found)

    @property
    def is_entered_as_wanted(self) -> bool:
        """Whether it lies there as it was entered, and was entered as it is wanted."""
        wanted = self.size, self.sha256
        return self.entry is not None and self.entry[:2] == wanted and self.is_as_left

    @property
    def names(self) -> list[DescribedFile]:
        """The files that this metadata names there now."""
        return list(metadata.described_files(self.document or {}))


@dataclass
class RemoteState:
    """One remote at the moment of its survey; a step brings it up to date as it acts."""

    local: Description  # what the local mirror offers
    journal: Journal  # what we put there
    rows: dict[str, Row] = field(default_factory=dict)  # whatever is found, wanted or entered
    journal_changed: bool = False  # whether the journal learned something that is worth saving

    def row(self, path: str) -> Row:
        """Return the row of a path; a new one where there is none."""
        return self.rows.get(path) or self.rows.setdefault(path, Row(path, self.journal))

    def wanted_files(self) -> Iterator[Row]:
        """Iterate over the images and rdiffs that the local mirror describes."""
        return (self.rows[path] for path in self.local.files)

    def documents(self) -> list[Row]:
        """Return the metadata that lies there."""
        return [row for row in self.rows.values() if row.document is not None]

    def published(self) -> dict[str, str]:
        """Return what the metadata there names: sha256 by path."""
        return {file.path: file.sha256 for row in self.documents() for file in row.names}

    def kept(self) -> set[str]:
        """Return what the mirror describes, or will again once its problem is solved."""
        waiting = (row.names for row in self.documents() if row.problem)
        return {file.path for names in waiting for file in names}.union(self.local.files)

    def cksums(self) -> bytes:
        """Return the CKSUMS that goes with the metadata that lies there."""
        there = self.documents()
        current = sum(row.state is FileState.PRESENT for row in there)
        if current == len(there) == len(self.local.documents) and self.local.cksums is not None:
            return self.local.cksums
        return metadata.render_cksums(row.document or {} for row in there)

    def has_cksums(self) -> bool:
        """Say whether that CKSUMS lies there."""
        row = self.row(CKSUMS)
        if row.entry is None or not (row.is_as_left and self.journal.verified):
            return False
        return row.entry.sha256 == sha256(self.cksums())

    def note_found(self, row: Row) -> None:
        """Enter a file that lies there as it is wanted, and was read."""
        mtime = row.found.mtime if row.found else 0
        self.journal.found(row.path, row.size, row.sha256, mtime)
        row.state, self.journal_changed = FileState.PRESENT, True


def is_meta(path: str) -> bool:
    """Say whether this lies where metadata does."""
    return path.startswith("meta/")


def is_document(path: str) -> bool:
    """Say whether this is where metadata of a series lies."""
    return is_meta(path) and path.endswith(".json") and "/." not in path


def is_part(path: str) -> bool:
    """Say whether this is the hidden name of a part of ours; see ``Transfer.part``."""
    return _PART.fullmatch(path.rpartition("/")[2]) is not None


def sha256(content: bytes) -> str:
    """Return the sha256 of a small document."""
    return hashlib.sha256(content).hexdigest()
