"""One remote: the table of what it has beside what the local mirror wants there, and the plan.

The table has a row a path. A survey fills it, and each step brings it up to date as it acts.
"""

import enum
import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import DescribedFile, Document
from puavo_repository.mirror.description import Description, Recipes
from puavo_repository.progress import count, format_bytes
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


@dataclass(eq=False, slots=True)
class Row:
    """One path of a remote."""

    path: str  # such as ``rdiffs/x.rdiff``
    journal: Journal  # where it is entered if we put it there; see ``entry``
    size: int = 0  # bytes of what the local mirror has under this name; 0 where it has nothing
    sha256: str = ""  # of the same; empty where it has nothing
    found: RemoteStat | None = None  # what the server shows there
    state: FileState = FileState.UNWANTED  # how the two compare
    problem: str = ""  # why it cannot be published as it stands
    content: bytes | None = None  # of the metadata that lies there, None where there is none
    names: Sequence[DescribedFile] = ()  # the files that it names there now

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
    def document(self) -> Document:
        """What the metadata there says; nothing where it is damaged, or names no file."""
        return metadata.parse(self.content) if self.content and self.names else {}


@dataclass
class RemoteState:
    """One remote at the moment of its survey; a step brings it up to date as it acts."""

    local: Description  # what the local mirror offers
    journal: Journal  # what we put there
    rows: dict[str, Row] = field(default_factory=dict)  # whatever is found, wanted or entered
    journal_changed: bool = False  # whether the journal learned something that is worth saving
    free: int | None = None  # bytes that the server's disk has left, where it was asked and tells

    def row(self, path: str) -> Row:
        """Return the row of a path; a new one where there is none."""
        return self.rows.get(path) or self.rows.setdefault(path, Row(path, self.journal))

    def wanted_files(self) -> Iterator[Row]:
        """Iterate over the images and rdiffs that the local mirror describes."""
        return (self.rows[path] for path in self.local.files)

    def documents(self) -> list[Row]:
        """Return the metadata that lies there."""
        return [row for row in self.rows.values() if row.content is not None]

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
        return metadata.render_cksums(row.document for row in there)

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


@dataclass(frozen=True)
class Transfer:
    """One file to bring to the remote: its bytes travel, or the server makes it from others."""

    path: str
    size: int  # bytes
    sha256: str
    rdiff: str = ""  # for an assembly on the server, the rdiff's path; else its bytes travel
    base: str = ""  # for an assembly, the path of the image it starts from
    wrong: bool = False  # whether another file has this name now
    # Whether clients are told of that file. Then this one stays under its part name until the
    # description is withdrawn.
    replaces: bool = False

    def part(self, token: str) -> str:
        """Return its hidden name until it is proven: of its content and the step's token."""
        folder, slash, name = self.path.rpartition("/")
        return f"{folder}{slash}.{name}.{self.sha256[:16]}.{token[:8]}.part"

    def __str__(self) -> str:
        how = f"assemble on the server from {self.base}" if self.rdiff else "upload"
        return f"{self.path}: {format_bytes(self.size)} to {how}"


@dataclass(frozen=True)
class Plan:
    """What one remote mirror needs."""

    transfers: tuple[Transfer, ...] = ()  # what an assembly needs comes first
    present: int = 0  # files that the remote has already
    present_bytes: int = 0
    documents: tuple[str, ...] = ()  # metadata files to write, and CKSUMS where it is wrong already
    dropped: tuple[str, ...] = ()  # metadata files to remove: their series is gone
    prune: tuple[str, ...] = ()  # files of ours that no metadata names; they go after their grace
    foreign: int = 0  # how many files there are not ours and are left alone
    # What stands in the way, by file: it is left out, and its series stays as it is.
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether the remote is as it should be."""
        return not (self.transfers or self.documents or self.dropped or self.prune)

    def lines(self) -> list[str]:
        """Return the plan as lines for people; the last one sums up."""
        made = sum(item.size for item in self.transfers if item.rdiff)
        sent = sum(item.size for item in self.transfers) - made
        travel = f"{format_bytes(sent)} to upload, {format_bytes(made)} to assemble on the server"
        sums = (
            f"in all: {travel if self.transfers else 'nothing left to send'}, "
            f"{count(self.present, 'file')} ({format_bytes(self.present_bytes)}) present, "
            f"{self.foreign} not ours"
        )
        return [
            *map(str, self.transfers),
            *(f"{path}: {problem}" for path, problem in self.problems.items()),
            *(f"{path}: to write" for path in self.documents),
            *(f"{path}: to remove, its series is gone" for path in self.dropped),
            *(f"{path}: no longer named, to remove after its grace" for path in self.prune),
            sums,
        ]


def make_plan(state: RemoteState, *, can_copy: bool, only: Collection[str] | None = None) -> Plan:
    """Plan from the table; nothing is touched.

    ``can_copy`` says whether images may be made there, ``only`` which files are wanted now,
    metadata and CKSUMS among them; None for all.
    """
    local, kept = state.local, state.kept()
    wanted = [r for r in state.wanted_files() if not (r.problem or r.state is FileState.REJECTED)]
    present = [row.size for row in wanted if row.state is FileState.PRESENT]
    recipes = local.recipes if len(present) < len(wanted) else {}  # they take much memory
    transfers = plan_transfers(wanted, recipes, state.published(), can_copy=can_copy)
    # One with a problem is no work: it stays as it is, and so does what it names.
    ours = [row for path in local.documents if not (row := state.rows[path]).problem]
    documents = [row.path for row in ours if row.state is not FileState.PRESENT]
    if not state.has_cksums():
        documents.append(CKSUMS)
    gone = [row.path for row in state.documents() if row.is_ours]
    shown = (row for row in state.rows.values() if row.found and "/." not in f"/{row.path}")
    # Images and rdiffs, and what lies where these do.
    data = [r for r in shown if not (is_meta(r.path) or r.path in {"meta", "rdiffs", CKSUMS})]
    unnamed = sorted(row.path for row in data if row.is_ours and row.path not in kept)
    if only is not None:
        transfers = tuple(item for item in transfers if item.path in only)
        documents = [path for path in documents if path in only or path == CKSUMS]
        gone = unnamed = []
    return Plan(
        transfers=transfers,
        present=len(present),
        present_bytes=sum(present),
        documents=tuple(documents),
        dropped=tuple(path for path in gone if path not in local.documents),
        prune=tuple(unnamed),
        foreign=sum(not row.is_ours and row.path not in local.files for row in data),
        problems={row.path: row.problem for row in state.rows.values() if row.problem},
    )


def plan_transfers(
    wanted: Sequence[Row], recipes: Recipes, named: Collection[str], *, can_copy: bool
) -> tuple[Transfer, ...]:
    """Decide what travels, how, and in which order; in a time that grows with the files.

    An image is assembled from the cheapest pair of an rdiff and an image that the remote has
    or will have by then; one that must itself be assembled first is the last choice. Rdiffs are
    published for the clients anyway, so they cost nothing here, and the smallest makes the
    cheapest assembly. Where no image can be assembled, one travels: first those that nothing
    makes, so that they can serve, then the smallest, then the newest.
    ``named`` are the paths that the remote's metadata names now.
    """
    sizes = {row.path: row.size for row in wanted}
    missing = {row.path: row for row in wanted if row.state is not FileState.PRESENT}
    images = sorted(missing.keys() & recipes.keys(), reverse=True)  # the newest first
    plan = [_transfer(row, named) for path, row in missing.items() if path not in recipes]
    # An rdiff or image that waits under its part name is no help to others yet.
    usable = (sizes.keys() - missing.keys()) | {item.path for item in plan if not item.replaces}
    from_base: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for path in images:
        for rdiff, base in recipes[path]:
            if can_copy and rdiff in usable:
                from_base[base].append((sizes[rdiff], path, rdiff))
    there = from_base.keys() & usable
    assemblies = [(False, *way, base) for base in there for way in from_base[base]]
    made = {path for ways in from_base.values() for _, path, _ in ways}
    uploads = iter(sorted(images, key=lambda path: (path in made, sizes[path])))
    heapify(assemblies)
    left = set(images)  # both keep those that are planned already until they are met
    while left:
        if assemblies:
            *_, path, rdiff, base = heappop(assemblies)
        else:
            path, rdiff, base = next(uploads), "", ""
        if path in left:
            left.remove(path)
            plan.append(_transfer(missing[path], named, rdiff, base))
            for way in () if plan[-1].replaces else from_base[path]:
                heappush(assemblies, (bool(rdiff), *way, path))
    return tuple(plan)


def _transfer(row: Row, named: Collection[str], rdiff: str = "", base: str = "") -> Transfer:
    wrong = row.state is FileState.WRONG
    replaces = wrong and row.path in named
    return Transfer(row.path, row.size, row.sha256, rdiff, base, wrong, replaces)
