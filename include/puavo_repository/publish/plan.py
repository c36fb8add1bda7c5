"""What publishing would do: the table in, a plan out that can be printed. Nothing is touched."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from puavo_repository.mirror.description import Recipes
from puavo_repository.progress import count, format_bytes
from puavo_repository.publish.state import CKSUMS, FileState, RemoteState, Row


class How(enum.Enum):
    """How a file gets to the remote."""

    UPLOADED = "uploaded"  # its bytes travel
    ASSEMBLED = "assembled"  # the server copies them from an image and an rdiff that it has


@dataclass(frozen=True)
class Transfer:
    """One file to bring to the remote.

    Attributes:
        path: Where it goes.
        size: Bytes.
        sha256: Of its content.
        how: Which way.
        rdiff: For an assembly, the rdiff's path.
        base: For an assembly, the path of the image it starts from.
        wrong: Whether another file has this name now.
        replaces: Whether clients are told of that file. Then this one stays under its part
            name until the description is withdrawn.
    """

    path: str
    size: int
    sha256: str
    how: How
    rdiff: str = ""
    base: str = ""
    wrong: bool = False
    replaces: bool = False

    def part(self, token: str) -> str:
        """Return the hidden name it has until it is proven: tied to its content and to who sends.

        Args:
            token: Of the step that sends it: two of them never write the same file.
        """
        folder, slash, name = self.path.rpartition("/")
        return f"{folder}{slash}.{name}.{self.sha256[:16]}.{token[:8]}.part"

    def __str__(self) -> str:
        if self.how is How.ASSEMBLED:
            return (
                f"{self.path}: {format_bytes(self.size)} assembled on the server from {self.base}"
            )
        return f"{self.path}: {format_bytes(self.size)} uploaded"


@dataclass(frozen=True)
class Plan:
    """What one remote mirror needs.

    Attributes:
        transfers: In an order that can be followed one by one: what an assembly needs, first.
        present: How many files the remote has already.
        present_bytes: Their bytes.
        documents: Metadata files to write, and CKSUMS where it is wrong already.
        dropped: Metadata files to remove: their series is gone.
        prune: Files of ours that no metadata names, and that would go when their grace is over.
        foreign: How many files there are not ours and are left alone.
        problems: What stands in the way, by file: it is left out, and its series as it is.
    """

    transfers: tuple[Transfer, ...] = ()
    present: int = 0
    present_bytes: int = 0
    documents: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    prune: tuple[str, ...] = ()
    foreign: int = 0
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether the remote is as it should be."""
        return not (self.transfers or self.documents or self.dropped or self.prune)

    def bytes_of(self, how: How) -> int:
        """Return how many bytes come in one way."""
        return sum(item.size for item in self.transfers if item.how is how)

    def lines(self) -> list[str]:
        """Return the plan as lines for people; the last one sums up."""
        travel = (
            f"{format_bytes(self.bytes_of(How.UPLOADED))} uploaded, "
            f"{format_bytes(self.bytes_of(How.ASSEMBLED))} assembled on the server"
        )
        sums = (
            f"in all: {travel if self.transfers else 'nothing to send'}, "
            f"{count(self.present, 'file')} ({format_bytes(self.present_bytes)}) present, "
            f"{self.foreign} not ours"
        )
        return [
            *(str(item) for item in self.transfers),
            *(f"{path}: {problem}" for path, problem in self.problems.items()),
            *(f"{path}: written" for path in self.documents),
            *(f"{path}: removed, its series is gone" for path in self.dropped),
            *(f"{path}: no longer named, removed after its grace" for path in self.prune),
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
    ways = {path: recipes[path] for path in missing if path in images}
    assemblies = _Assemblies(ways if can_copy else {}, sizes, usable)
    uploads = _Uploads(ways, sizes)
    while images:
        path, rdiff, base = assemblies.cheapest(images) or (uploads.most_helpful(images), "", "")
        images.remove(path)
        plan.append(_transfer(missing[path], named, rdiff, base))
        uploads.planned(path)
        if not plan[-1].replaces:
            assemblies.add_base(path, assembled=bool(rdiff))
    return tuple(plan)


def _transfer(row: Row, named: Collection[str], rdiff: str = "", base: str = "") -> Transfer:
    wrong, how = row.state is FileState.WRONG, How.ASSEMBLED if rdiff else How.UPLOADED
    replaces = wrong and row.path in named
    return Transfer(row.path, row.size, row.sha256, how, rdiff, base, wrong, replaces)


class _Assemblies:
    """The assemblies that are possible by now, cheapest first.

    ``usable`` are rdiffs and images that are there, or will be before any image is.
    """

    def __init__(self, recipes: Recipes, sizes: Mapping[str, int], usable: set[str]) -> None:
        self._heap: list[tuple[bool, int, str, str, str]] = []
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
            heappush(self._heap, (assembled, size, path, rdiff, base))

    def cheapest(self, images: Collection[str]) -> tuple[str, str, str] | None:
        """Return (path, rdiff, base) of the cheapest assembly of an image still to be planned."""
        while self._heap:
            *_, path, rdiff, base = heappop(self._heap)
            if path in images:
                return path, rdiff, base
        return None


class _Uploads:
    """The missing images in the order in which they are worth their bytes.

    First the one from which most others can be made; of several the smallest, then the newest.
    """

    def __init__(self, recipes: Recipes, sizes: Mapping[str, int]) -> None:
        self._bases = {
            p: {base for _, base in ways if base in recipes} for p, ways in recipes.items()
        }
        newest_first = sorted(recipes, reverse=True)
        self._rank = {path: (sizes[path], place) for place, path in enumerate(newest_first)}
        self._helps = dict.fromkeys(recipes, 0)
        for bases in self._bases.values():
            for base in bases:
                self._helps[base] += 1
        self._heap = [self._entry(path) for path in recipes]
        heapify(self._heap)

    def most_helpful(self, images: Collection[str]) -> str:
        """Return the image from which most others can be made that are still to be planned."""
        while True:
            entry = heappop(self._heap)
            path = entry[-1]
            if path in images and entry == self._entry(path):
                return path

    def planned(self, path: str) -> None:
        """Note that an image is planned: it needs no help any more."""
        for base in self._bases[path]:
            self._helps[base] -= 1
            heappush(self._heap, self._entry(base))

    def _entry(self, path: str) -> tuple[int, tuple[int, int], str]:
        return -self._helps[path], self._rank[path], path
