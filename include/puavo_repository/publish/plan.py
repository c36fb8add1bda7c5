"""What publishing would do: facts in, a plan out that can be printed. Nothing is touched here."""

from __future__ import annotations

import enum
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from puavo_repository.formats.metadata import DescribedFile
from puavo_repository.mirror.description import Recipes
from puavo_repository.progress import format_bytes


class Presence(enum.Enum):
    """What the remote has under a file's name."""

    PRESENT = "present"  # proven to be this file
    MISSING = "missing"
    WRONG = "wrong"  # another content, or no plain file


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
        size = format_bytes(self.size)
        if self.how is How.ASSEMBLED:
            return f"{self.path}: {size} assembled on the server from {self.base}"
        return f"{self.path}: {size} uploaded"


_PART = re.compile(r"\..+\.[0-9a-f]{16}(\.[0-9a-f]{8})?\.part")  # without the token: an older one


def is_part(path: str) -> bool:
    """Say whether this is the hidden name of a part of ours; see ``Transfer.part``."""
    return _PART.fullmatch(path.rpartition("/")[2]) is not None


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
    problems: Mapping[str, str] | None = None

    @property
    def upload_bytes(self) -> int:
        """Bytes of file content that will travel."""
        return sum(item.size for item in self.transfers if item.how is How.UPLOADED)

    @property
    def assembled_bytes(self) -> int:
        """Bytes that the server copies."""
        return sum(item.size for item in self.transfers if item.how is How.ASSEMBLED)

    @property
    def is_empty(self) -> bool:
        """Whether the remote is as it should be."""
        return not (self.transfers or self.documents or self.dropped or self.prune)

    def lines(self) -> list[str]:
        """Return the plan as lines for people."""
        sums = (
            f"{format_bytes(self.upload_bytes)} uploaded, "
            f"{format_bytes(self.assembled_bytes)} assembled on the server, "
            f"{self.present} files ({format_bytes(self.present_bytes)}) present, "
            f"{self.foreign} not ours"
        )
        return [
            *(str(item) for item in self.transfers),
            *(f"{path}: {problem}" for path, problem in (self.problems or {}).items()),
            *(f"{path}: written" for path in self.documents),
            *(f"{path}: removed, its series is gone" for path in self.dropped),
            *(f"{path}: no longer named, removed after its grace" for path in self.prune),
            sums,
        ]


def plan_transfers(
    wanted: Iterable[DescribedFile],
    recipes: Recipes,
    presence: Mapping[str, Presence],
    named: Iterable[str],
    *,
    can_copy: bool,
) -> tuple[Transfer, ...]:
    """Decide what travels, how, and in which order; in a time that grows with the files.

    An image is assembled from the cheapest pair of an rdiff and an image that the remote has
    or will have by then; one that must itself be assembled first is the last choice. Rdiffs are
    published for the clients anyway, so they cost nothing here, and the smallest makes the
    cheapest assembly. Where no image of a series is there yet, the one from which most others
    can be made travels.

    Args:
        wanted: Every file that the local metadata describes.
        recipes: What images can be made from.
        presence: What the remote has, by path.
        named: Paths that the remote's metadata names now.
        can_copy: Whether the server can assemble at all.
    """
    every = {file.path: file for file in wanted}
    named = set(named)
    missing = {p: file for p, file in every.items() if presence[p] is not Presence.PRESENT}
    images = {path: file for path, file in missing.items() if path in recipes}

    def transfer(file: DescribedFile, how: How, rdiff: str = "", base: str = "") -> Transfer:
        wrong = presence[file.path] is Presence.WRONG
        replaces = wrong and file.path in named
        return Transfer(file.path, file.size, file.sha256, how, rdiff, base, wrong, replaces)

    plan = [transfer(f, How.UPLOADED) for path, f in missing.items() if path not in images]
    # An rdiff or image that waits under its part name is no help to others yet.
    usable = every.keys() - missing.keys() | {item.path for item in plan if not item.replaces}
    ways = {path: recipes.get(path, set()) for path in images}
    choices = _Choices(ways if can_copy else {}, every, usable)
    uploads = _Uploads(images, ways)
    while images:
        choice = choices.cheapest(images)
        path, rdiff, base = choice or (uploads.most_helpful(images), "", "")
        how = How.ASSEMBLED if choice else How.UPLOADED
        plan.append(transfer(images.pop(path), how, rdiff, base))
        uploads.planned(path)
        if not plan[-1].replaces:
            choices.add_base(path, assembled=how is How.ASSEMBLED)
    return tuple(plan)


class _Choices:
    """The assemblies that are possible by now, cheapest first.

    Args:
        recipes: Of the images that are missing.
        every: Every wanted file by path.
        usable: Rdiffs and images that are there, or will be before any image is.
    """

    def __init__(
        self, recipes: Recipes, every: Mapping[str, DescribedFile], usable: set[str]
    ) -> None:
        self._heap: list[tuple[bool, int, str, str, str]] = []
        self._from: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
        for path, ways in recipes.items():
            for rdiff, base in ways:
                if rdiff in usable and rdiff in every:
                    self._from[base].append((every[rdiff].size, path, rdiff))
        for base in self._from.keys() & usable:
            self.add_base(base, assembled=False)

    def add_base(self, base: str, *, assembled: bool) -> None:
        """Note that an image will be there: others can be made from it."""
        for size, path, rdiff in self._from.get(base, ()):
            heappush(self._heap, (assembled, size, path, rdiff, base))

    def cheapest(self, images: Mapping[str, DescribedFile]) -> tuple[str, str, str] | None:
        """Return (path, rdiff, base) of the cheapest assembly of an image still to be planned."""
        while self._heap:
            *_, path, rdiff, base = heappop(self._heap)
            if path in images:
                return path, rdiff, base
        return None


class _Uploads:
    """The images in the order in which they are worth their bytes: what most can be made from.

    Args:
        images: Those that are missing.
        recipes: Of these.
    """

    def __init__(self, images: Mapping[str, DescribedFile], recipes: Recipes) -> None:
        self._sizes = {path: file.size for path, file in images.items()}
        self._recipes = recipes
        self._helps = dict.fromkeys(images, 0)
        for path in images:
            for base in self._bases(path):
                self._helps[base] += 1
        self._heap = [self._entry(path) for path in images]
        heapify(self._heap)

    def most_helpful(self, images: Mapping[str, DescribedFile]) -> str:
        """Return the image from which most others can be made that are still to be planned."""
        while True:
            entry = heappop(self._heap)
            path = entry[2].path
            if path in images and entry == self._entry(path):
                return path

    def planned(self, path: str) -> None:
        """Note that an image is planned: it needs no help any more."""
        for base in self._bases(path):
            self._helps[base] -= 1
            heappush(self._heap, self._entry(base))

    def _bases(self, path: str) -> set[str]:
        return {base for _, base in self._recipes[path] if base in self._sizes}

    def _entry(self, path: str) -> tuple[int, int, _Last]:
        return -self._helps[path], self._sizes[path], _Last(path)


@dataclass(frozen=True)
class _Last:
    """A path that comes first where it is the last in order: the newest image."""

    path: str

    def __lt__(self, other: _Last) -> bool:
        return self.path > other.path
