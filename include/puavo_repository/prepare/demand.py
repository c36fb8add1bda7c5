"""Which rdiffs are worth making, by the steps that clients are expected to make. Pure.

The room ``fleet`` learns from the servers' logs how many clients of an image a series makes step
between two of them, by how new the target is and how far the source lies from it; and Puavo may
tell how many have one image and are to get another. Both are kept as ``Expected``, as data for the
plan of the next night.

What an rdiff is worth is the clients that will make its step, by what it spares each of them. Those
worth most are made, up to the share of all that the ``coverage`` asks for, and always that from a
series' newest image but one. One that is there stays until it is beyond the middle between that
share and all: what is worth as much as its neighbour does not come and go.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from puavo_repository.formats.names import image_name, rdiff_name
from puavo_repository.mirror.store import FOLDER, Record, Records

DEMAND = "demand"  # the policy, and the name of the record
_UNKNOWN = 0.3  # share of an rdiff in its image, where none of the series was ever made
Ends = tuple[str, str]  # source and target


@dataclass(frozen=True)
class Expected(Record):
    """The steps that clients are expected to make."""

    # Series, images newer than the target, how many images on the source lies before it (less
    # than 0 behind it), and the clients that make such a step for each new image.
    steps: tuple[tuple[str, int, int, float], ...] = ()
    wanted: tuple[tuple[str, str, float], ...] = ()  # source, target and clients, as Puavo has it

    def knows(self, series: str, images: Sequence[str]) -> bool:
        """Tell whether anything is known of the clients of a series, were it that they stay."""
        own = {image_name(image).series for image in images}
        return any(name == series for name, *_ in self.steps) or any(
            image_name(source).series in own for source, *_ in self.wanted
        )

    def of(self, series: str, images: Sequence[str]) -> Mapping[Ends, float]:
        """Return the clients that will make each step between images, oldest first."""
        found: dict[Ends, float] = defaultdict(float)
        for name, age, lag, clients in self.steps:
            # A target gets older: what is made at a higher age is still to come.
            for newer in range(age + 1) if name == series else ():
                place = len(images) - 1 - newer
                if 0 <= place - lag < len(images) and place >= 0:
                    found[images[place - lag], images[place]] += clients
        there = set(images)
        for source, target, clients in self.wanted:
            if source != target and source in there and target in there:
                pair = (source, target)
                found[pair] = max(found[pair], clients)
        return found


def records(mirror: Path) -> Records[Expected]:
    """Return where they are kept: in ``.puavo-repository/demand.json`` beside the mirror."""
    return Records(mirror / FOLDER, Expected.from_dict)


@dataclass(frozen=True)
class Sizes:
    """Bytes of images, and of the rdiffs that were made once, by their names."""

    images: Mapping[str, int]
    rdiffs: Mapping[str, int]

    def of(self, images: Sequence[str], pairs: Collection[Ends]) -> Mapping[Ends, float]:
        """Return the bytes of each rdiff; what was never made is predicted from its neighbours."""
        place = {image: index for index, image in enumerate(images)}
        shares: dict[int, list[float]] = defaultdict(list)  # by how far apart the two are
        made: dict[Ends, float] = {}
        for source, target in pairs:
            if size := self.rdiffs.get(rdiff_name(source, target)):
                made[source, target] = size
                apart = abs(place[source] - place[target])
                shares[apart].append(size / max(1, self.images.get(target, 0)))
        usual = {apart: median(found) for apart, found in shares.items()}

        def share(apart: int) -> float:
            return usual[min(usual, key=lambda known: abs(known - apart))] if usual else _UNKNOWN

        return {
            (source, target): made.get((source, target))
            or share(abs(place[source] - place[target])) * self.images.get(target, 0)
            for source, target in pairs
        }


def possible(images: Sequence[str], targets: int) -> list[Ends]:
    """Return all that can be chosen: from each image of a series to one of its last ``targets``."""
    last = images[max(0, len(images) - targets) :]
    return [(source, target) for target in last for source in images if source != target]


def choose(
    expected: Mapping[Ends, float],
    images: Sequence[str],
    sizes: Sizes,
    coverage: float,
    *,
    targets: int,
    present: Collection[Ends] = frozenset(),
) -> set[Ends]:
    """Choose the rdiffs of a series, whose images are in order, to one of its last ``targets``.

    ``present`` are those that are there.
    """
    pairs = possible(images, targets)
    bytes_ = sizes.of(images, pairs)
    worth = {
        (source, target): expected.get((source, target), 0.0)
        * max(0.0, sizes.images.get(target, 0) - bytes_[source, target])
        for source, target in pairs
    }
    total, before = sum(worth.values()), 0.0
    chosen = set()
    for pair in sorted((pair for pair in pairs if worth[pair]), key=lambda pair: -worth[pair]):
        if before < ((1 + coverage) / 2 if pair in present else coverage) * total:
            chosen.add(pair)
        before += worth[pair]
    if targets and len(images) > 1:
        chosen.add((images[-2], images[-1]))
    return chosen
