"""What publishing would do, from the table of what is there; and the report on what it did."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any

from puavo_repository.errors import PublishError, StorageError
from puavo_repository.mirror.description import Recipes
from puavo_repository.progress import count, format_bytes
from puavo_repository.publish.state import CKSUMS, FileState, RemoteState, Row, is_meta

logger = logging.getLogger(__name__)
_NAMED = 10  # failures in an error at most


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
    present: int = 0  # how many files the remote has already
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
            f"in all: {travel if self.transfers else 'nothing to send'}, "
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
    wanted = [r for r in state.wanted_files() if r.state is not FileState.REJECTED]
    wanted = [row for row in wanted if not row.problem]
    present = [row.size for row in wanted if row.state is FileState.PRESENT]
    transfers = plan_transfers(wanted, local.recipes, state.published(), can_copy=can_copy)
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
    cheapest assembly. Where no image can be assembled, the one from which most others can be
    made that are still missing travels; of several the smallest, then the newest.
    ``named`` are the paths that the remote's metadata names now.
    """
    sizes = {row.path: row.size for row in wanted}
    missing = {row.path: row for row in wanted if row.state is not FileState.PRESENT}
    images = sorted(missing.keys() & recipes.keys(), reverse=True)  # the newest first
    plan = [_transfer(row, named) for path, row in missing.items() if path not in recipes]
    # An rdiff or image that waits under its part name is no help to others yet.
    usable = (sizes.keys() - missing.keys()) | {item.path for item in plan if not item.replaces}
    bases = {path: {base for _, base in recipes[path]} for path in images}  # of those to plan yet
    helps = Counter(base for some in bases.values() for base in some)
    from_base: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for path in images:
        for rdiff, base in recipes[path]:
            if can_copy and rdiff in usable:
                from_base[base].append((sizes[rdiff], path, rdiff))
    there = from_base.keys() & usable
    assemblies = [(False, *way, base) for base in there for way in from_base[base]]
    uploads = [(-helps[path], sizes[path], place, path) for place, path in enumerate(images)]
    # Both keep entries that are out of date until they are met.
    heapify(assemblies)
    heapify(uploads)
    while bases:
        if assemblies:
            *_, path, rdiff, base = heappop(assemblies)
        else:
            helped, size, place, path = heappop(uploads)
            rdiff = base = ""
            if path in bases and helps[path] != -helped:  # it helps fewer by now
                heappush(uploads, (-helps[path], size, place, path))
                continue
        if path in bases:
            helps.subtract(bases.pop(path))
            plan.append(_transfer(missing[path], named, rdiff, base))
            for way in () if plan[-1].replaces else from_base[path]:
                heappush(assemblies, (bool(rdiff), *way, path))
    return tuple(plan)


def _transfer(row: Row, named: Collection[str], rdiff: str = "", base: str = "") -> Transfer:
    wrong = row.state is FileState.WRONG
    replaces = wrong and row.path in named
    return Transfer(row.path, row.size, row.sha256, rdiff, base, wrong, replaces)


@dataclass
class PublishReport:
    """What publishing to one remote did, or would do; the steps fill it."""

    target: str  # the remote's URL
    dry_run: bool = False
    plan: list[str] = field(default_factory=list)  # lines for people; the last one sums up
    generation: int = 0  # the one that clients see now
    uploaded: dict[str, int] = field(default_factory=dict)  # bytes of the files that travelled
    assembled: dict[str, int] = field(default_factory=dict)  # of those made there from others
    present: int = 0  # files that were there already
    switched: list[str] = field(default_factory=list)  # metadata files written or removed
    withdrawn: list[str] = field(default_factory=list)  # not described while they were replaced
    waiting_for: dict[str, list[str]] = field(default_factory=dict)  # files, by metadata file
    pruned: dict[str, int] = field(default_factory=dict)  # bytes of the files that were removed
    waiting: list[str] = field(default_factory=list)  # unnamed files whose grace is not over
    foreign: int = 0  # files there that are not ours
    failed: dict[str, str] = field(default_factory=dict)  # why, by file or step
    files: Mapping[str, str] | None = None  # sha256 of what clients see; None: nobody could look
    bytes_sent: int = 0  # given to the connections
    seconds: float = 0.0
    transient: bool = False  # whether trying again later may help some file that failed

    def saw(self, state: RemoteState, plan: Plan | None = None) -> None:
        """Take note of what clients are told, as it was found just now, and what is to be done."""
        self.generation, self.files = state.journal.generation, state.published()
        if plan:
            self.plan, self.present, self.foreign = plan.lines(), plan.present, plan.foreign

    def left(self, state: RemoteState, plan: Plan) -> None:
        """Take note of what is still to be done, as it was found just now."""
        self.saw(state, plan)
        if not self.dry_run:
            missing = {item.path: "is not on the remote" for item in plan.transfers}
            missing |= dict.fromkeys(plan.documents, "is not published")
            self.failed = {**missing, **plan.problems, **self.failed}

    def checked(self, problem: str = "not everything is published") -> None:
        """Raise if something failed; the rest is done. The first failures are named, all logged.

        It is a ``StorageError`` where trying again later may help some of it.
        """
        failed = [f"{subject}: {why}" for subject, why in self.failed.items()]
        if not self.ok:
            logger.error("%s: %s: %s", self.target, problem, "; ".join(failed))
            kind = StorageError if self.transient else PublishError
            raise kind(self.target, problem, found="; ".join(failed[:_NAMED]))

    @property
    def ok(self) -> bool:
        """Whether everything asked for is done."""
        return not (self.failed or self.waiting_for)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without what clients are told of: that is in the metadata."""
        hidden = {"files", "transient"}
        return {name: value for name, value in asdict(self).items() if name not in hidden}

    def lines(self) -> list[str]:
        """Return the report as lines for people."""
        up, made = sum(self.uploaded.values()), sum(self.assembled.values())
        done = (
            f"generation {self.generation}, {len(self.uploaded)} uploaded ({format_bytes(up)}), "
            f"{len(self.assembled)} assembled there ({format_bytes(made)}), {self.present} present"
            f", {len(self.pruned)} removed; {format_bytes(self.bytes_sent)} sent in "
            f"{self.seconds:.0f} s"
        )
        return [
            f"{self.target}: {'nothing could be published' if self.files is None else done}",
            *(f"{subject}: {problem}" for subject, problem in self.failed.items()),
            *(f"{path} {waits}" for path, waits in self.waits().items()),
        ]

    def waits(self) -> dict[str, str]:
        """Return what each metadata file that stays as it is waits for, in words."""
        waits = self.waiting_for.items()
        return {path: f"waits for {', '.join(files[:3])}" for path, files in waits}
