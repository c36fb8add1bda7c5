"""What publishing would do: the table in, a plan out that can be printed. Nothing is touched."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from puavo_repository.mirror.description import Recipes
from puavo_repository.progress import count, format_bytes
from puavo_repository.publish.state import CKSUMS, FileState, RemoteState, Row


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
        """Return the hidden name it has until it is proven: tied to its content and to who sends.

        Args:
            token: Of the step that sends it: two of them never write the same file.
        """
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
            *(str(item) for item in self.transfers),
            *(f"{path}: {problem}" for path, problem in self.problems.items()),
            *(f"{path}: to write" for path in self.documents),
            *(f"{path}: to remove, its series is gone" for path in self.dropped),
            *(f"{path}: no longer named, to remove after its grace" for path in self.prune),
            sums,
        ]


def make_plan(state: RemoteState, *, can_copy: bool, only: Collection[str] | None = None) -> Plan:
    """Plan from the table.

    Args:
        state: What the remote has.
        can_copy: Whether images may be made there; otherwise the bytes of every file travel.
        only: The files, metadata and CKSUMS among them, that are wanted now; None for all.
    """
    local, rows = state.local, state.rows.values()
    wanted = [
        row
        for row in state.wanted_files()
        if row.state is not FileState.REJECTED and not row.problem
    ]
    transfers = plan_transfers(wanted, local.recipes, state.published(), can_copy=can_copy)
    ours = (state.rows[path] for path in local.documents)
    # One with a problem is no work: it stays as it is, and so does what it names.
    changed = (row for row in ours if row.state is not FileState.PRESENT and not row.problem)
    documents = [row.path for row in changed]
    if not state.has_cksums():
        documents.append(CKSUMS)
    dropped, prune, kept = [], [], state.kept()
    if only is None:
        gone = (row for row in state.documents() if row.path not in local.documents)
        dropped = [row.path for row in gone if row.is_ours]
        ours = (row for row in rows if row.is_ours and row.found and row.is_data)
        prune = sorted(row.path for row in ours if row.path not in kept)
    else:
        transfers = tuple(item for item in transfers if item.path in only)
        documents = [path for path in documents if path in only or path == CKSUMS]
    present = [row.size for row in wanted if row.state is FileState.PRESENT]
    foreign = (row for row in rows if row.found and row.is_data and not row.is_ours)
    return Plan(
        transfers=transfers,
        present=len(present),
        present_bytes=sum(present),
        documents=tuple(documents),
        dropped=tuple(dropped),
        prune=tuple(prune),
        foreign=sum(row.path not in local.files for row in foreign),
        problems=state.problems(),
    )


def plan_transfers(
    wanted: Sequence[Row], recipes: Recipes, named: Collection[str], *, can_copy: bool
) -> tuple[Transfer, ...]:
    """Decide what travels, how, and in which order; in a time that grows with the files.

    An image is assembled from the cheapest pair of an rdiff and an image that the remote has
    or will have by then; one that must itself be assembled first is the last choice. Rdiffs are
    published for the clients anyway, so they cost nothing here, and the smallest makes the
    cheapest assembly. Where no image of a series is there yet, the one from which most others
    can be made travels.

    Args:
        wanted: The files that the local mirror describes.
        recipes: What images can be made from.
        named: Paths that the remote's metadata names now.
        can_copy: Whether the server can assemble at all.
    """
    sizes = {row.path: row.size for row in wanted}
    missing = {row.path: row for row in wanted if row.state is not FileState.PRESENT}
    images = {path for path in missing if path in recipes}
    plan = [_transfer(row, named) for path, row in missing.items() if path not in images]
    # An rdiff or image that waits under its part name is no help to others yet.
    usable = (sizes.keys() - missing.keys()) | {item.path for item in plan if not item.replaces}
    queue = _Queue({path: recipes[path] for path in images}, sizes, usable if can_copy else set())
    for _ in images:
        path, rdiff, base = queue.take()
        plan.append(_transfer(missing[path], named, rdiff, base))
        if not plan[-1].replaces:
            queue.add_base(path, assembled=bool(rdiff))
    return tuple(plan)


def _transfer(row: Row, named: Collection[str], rdiff: str = "", base: str = "") -> Transfer:
    wrong = row.state is FileState.WRONG
    replaces = wrong and row.path in named
    return Transfer(row.path, row.size, row.sha256, rdiff, base, wrong, replaces)


class _Queue:
    """The missing images: first what can be assembled by now, the cheapest first.

    Where none can, the one from which most others can be made that are still missing; of several
    the smallest, then the newest. Both heaps keep entries that are out of date until they are met.

    Args:
        recipes: What each missing image can be made from.
        sizes: Bytes by path.
        usable: Rdiffs and images that are there, or will be before any image is.
    """

    def __init__(self, recipes: Recipes, sizes: Mapping[str, int], usable: set[str]) -> None:
        self._bases = {path: {base for _, base in ways} for path, ways in recipes.items()}
        self._helps = Counter(base for bases in self._bases.values() for base in bases)
        newest_first = enumerate(sorted(recipes, reverse=True))
        self._uploads = [(-self._helps[p], sizes[p], place, p) for place, p in newest_first]
        heapify(self._uploads)
        self._assemblies: list[tuple[bool, int, str, str, str]] = []
        self._from: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
        for path, ways in recipes.items():
            for rdiff, base in ways:
                if rdiff in usable:
                    self._from[base].append((sizes[rdiff], path, rdiff))
        for base in self._from.keys() & usable:
            self.add_base(base, assembled=False)

    def add_base(self, base: str, *, assembled: bool) -> None:
        """Note that an image will be there: others can be made from it."""
        for size, path, rdiff in self._from.get(base, ()):
            heappush(self._assemblies, (assembled, size, path, rdiff, base))

    def take(self) -> tuple[str, str, str]:
        """Return (path, rdiff, base) of the next image; without an rdiff its bytes travel."""
        while self._assemblies:
            *_, path, rdiff, base = heappop(self._assemblies)
            if path in self._bases:
                return self._taken(path), rdiff, base
        while True:
            helps, size, place, path = heappop(self._uploads)
            if path in self._bases and -helps == self._helps[path]:
                return self._taken(path), "", ""
            if path in self._bases:  # it helps fewer by now
                heappush(self._uploads, (-self._helps[path], size, place, path))

    def _taken(self, path: str) -> str:
        """Note that an image is planned: it needs no help any more."""
        self._helps.subtract(self._bases.pop(path))
        return path
