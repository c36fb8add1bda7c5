"""Which rdiffs there are to be: for each image of a series, from which others. Pure.

The policy of the settings counts images that can be used; those of the configuration come on top.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from puavo_repository.formats.image_config import SeriesConfig
from puavo_repository.formats.names import image_name, rdiff_name
from puavo_repository.mirror.records import Failure, ImageRecord, RdiffRecord
from puavo_repository.prepare import demand
from puavo_repository.prepare.discover import Inventory
from puavo_repository.settings import Model

_ABSENT = (
    "names this image, but it is not in the image directory. Put it there, or remove it from the "
    "configuration"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """An rdiff by the images that it leads from and to."""

    source: str
    target: str
    # The image before the target, where the source is older, or that very one: what was found for
    # the way to it need not be searched again.
    before: str = field(default="", compare=False)

    @property
    def rdiff(self) -> str:
        """The file name that clients compute."""
        return rdiff_name(self.source, self.target)

    def turn(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        """Return what sorts pairs: first the last step to a target, which others go as well.

        Then, of those that need no other, what takes longest: more time between two images is
        more news. The rest follows by its targets.
        """
        source, target = (int(image_name(name).number) for name in (self.source, self.target))
        work = -sizes.get(self.target, 0) * abs(source - target)
        return (
            (0, work) if self.before == self.source else (2, target) if self.before else (1, work)
        )


@dataclass(frozen=True)
class Known:
    """What is known before planning: records that still hold, and what lies in the mirror.

    An image's holds while the file that was read is still in the image directory, or, where that
    was replaced or cannot be reached, in the mirror; an rdiff's while its file is the proven one.
    """

    images: Mapping[str, ImageRecord] = field(default_factory=dict)
    rdiffs: Mapping[str, RdiffRecord] = field(default_factory=dict)
    owned: frozenset[str] = frozenset()  # as Mirror.owned says
    expected: demand.Expected | None = None  # steps of clients, where the policy asks for them

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every rdiff that was made, kept or not."""
        return {name: rdiff.digests.size for name, rdiff in self.rdiffs.items()}

    @cached_property
    def present(self) -> frozenset[str]:
        """The rdiffs that are kept."""
        return frozenset(n for n, rdiff in self.rdiffs.items() if rdiff.identity is not None)


Series = Mapping[str, tuple[Pair, ...]]
"""Images of a series in the order of the configuration, to their rdiffs in the order of their
sources there, extra ones last."""


def choose_pairs(
    config: SeriesConfig,
    inventory: Inventory,
    known: Known,
    policy: Model,
    rdiffs: dict[str, Pair],
    failures: list[Failure],
) -> Series:
    """Choose the rdiffs for the images that clients can have now, and for all hoped for."""
    where, there = f"series {config.name}", inventory.names
    versions: dict[str, str] = {}
    for name in dict.fromkeys(config.images):
        version = image_name(name).number
        if name not in there:
            failures.append(_failure(name, f"{where} {_ABSENT}"))
        elif versions.setdefault(version, name) != name:
            text = (
                f"{where} has version {version} twice (the other is {versions[version]}); clients "
                "tell images of a series by their version alone. Remove one of them from the "
                "series, or give it another version"
            )
            failures.append(_failure(name, text))
    images = list(versions.values())
    order = {name: index for index, name in enumerate(images)}
    sources: dict[str, set[str]] = {name: set() for name in images}
    for some in (images, [name for name in images if name in known.images]):
        for source, target in _chosen(config.name, some, inventory, known, policy):
            sources[target].add(source)
    pairs: dict[str, tuple[Pair, ...]] = {}
    for place, target in enumerate(images):
        wanted = dict.fromkeys(sorted(sources[target], key=order.__getitem__))
        for source in config.extra_rdiffs.get(target, ()):
            if source in there:
                wanted.setdefault(source)
            else:
                failures.append(_failure(source, f"'extra_rdiffs' of {where} {_ABSENT}"))
        found = [
            # What is older lies before this one, so that there is an image before it.
            Pair(source, target, images[place - 1] if order.get(source, place) < place else "")
            for source in wanted
            if source != target
        ]
        # The name of an rdiff lacks the prefix of its target, so that two may have the same.
        for pair in found:
            owner = rdiffs.setdefault(pair.rdiff, pair)
            if owner != pair:
                text = (
                    f"the rdiffs from {pair.source} to {owner.target} and to {target} would have "
                    "the same name; only the first is made. Remove one of them from 'extra_rdiffs'"
                )
                failures.append(_failure(pair.rdiff, text))
        pairs[target] = tuple(found)
    return pairs


def _chosen(
    series: str, images: list[str], inventory: Inventory, known: Known, policy: Model
) -> Iterable[tuple[str, str]]:
    """Return source and target of the rdiffs that the policy wants."""
    there = {name: inventory.images[name].size for name in images if name in inventory.images}
    sizes = demand.Sizes(there, known.sizes)
    possible = demand.possible(images, policy.targets) if known.expected else ()
    present = {both for both in possible if rdiff_name(*both) in known.present}
    return wanted_by(policy, series, images, known.expected, sizes, present)


def wanted_by(
    policy: Model,
    series: str,
    images: Sequence[str],
    expected: demand.Expected | None,
    sizes: demand.Sizes,
    present: Collection[demand.Ends],
) -> Collection[demand.Ends]:
    """Return source and target of the rdiffs of a series, whose images are in order.

    A policy by demand wants all of them as long as nothing is known of the series.
    """
    if policy.sources == demand.DEMAND and expected and expected.knows(series, images):
        steps, how = expected.of(series, images), {"targets": policy.targets}
        return demand.choose(steps, images, sizes, policy.coverage, present=present, **how)
    last = range(max(0, len(images) - policy.targets), len(images))
    wanted = ((policy.sources_of(place, len(images)), images[place]) for place in last)
    return [(images[source], target) for sources, target in wanted for source in sources]


def _failure(name: str, text: str) -> Failure:
    return Failure(name, "plan", f"{name}: {text}")
