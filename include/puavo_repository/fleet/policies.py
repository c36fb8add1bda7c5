"""What each policy would have cost and saved, by the steps that clients really made. Pure.

Each day is replayed with the images that were on offer then. A policy by demand knows only what
came before that day. Sizes are those of the rdiffs that were made; others are predicted from them.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from puavo_repository.fleet.history import Fleet, Step
from puavo_repository.fleet.store import days_before
from puavo_repository.formats.names import image_name
from puavo_repository.prepare.demand import DEMAND, Ends, Expected, Sizes, possible
from puavo_repository.prepare.policy import wanted_by
from puavo_repository.progress import format_bytes
from puavo_repository.settings import Model

Located = tuple[Step, int, int]
"""A step, with how many images of that day were newer than its target, and how many on from its
source that is."""

LEARNT = 90  # days of which steps count for what is expected
SIMULATED = ("all", "older", "nearest:1", "nearest:3", *(f"demand {n}" for n in (0.9, 0.95, 0.99)))


@dataclass(frozen=True)
class Outcome:
    """What came of a policy."""

    policy: str
    rdiffs: int  # made
    made: int  # bytes of these
    read: int  # bytes of images that were read to make them
    disk: int  # bytes of rdiffs on the day with the most
    saved: int  # bytes that clients did not fetch
    share: float  # of what all rdiffs between images on offer would have saved


class Replay:
    """The steps of every series, day after day."""

    def __init__(self, fleet: Fleet) -> None:
        self.today, files = fleet.history.today, fleet.history.files.values()
        images = [file for file in files if not file.target and file.size]
        self._images: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for file in sorted(images, key=lambda one: image_name(one.name).number):
            self._images[image_name(file.name).series].append((file.name, file.first, file.last))
        rdiffs = {file.name: file.size for file in files if file.target}
        self.sizes = Sizes({file.name: file.size for file in images}, rdiffs)
        self.on_offer = lru_cache(None)(self._on_offer)
        self.expected = lru_cache(None)(self._expected)
        self.steps: dict[str, list[Located]] = defaultdict(list)
        for step in sorted(fleet.steps):
            series = image_name(step.target).series
            there = self.on_offer(series, step.day)
            if step.source in there and step.target in there:
                place = there.index(step.target)
                age, lag = len(there) - 1 - place, place - there.index(step.source)
                self.steps[series].append((step, age, lag))

    def _on_offer(self, series: str, day: str) -> tuple[str, ...]:
        """Return the images that a series offered on a day, oldest first."""
        return tuple(n for n, first, last in self._images[series] if first <= day <= last)

    def between(self, series: str, since: str, until: str) -> Sequence[Located]:
        """Return the steps of a series from a day on, before another."""
        steps = self.steps[series]
        first, end = (bisect_left(steps, day, key=lambda one: one[0].day) for day in (since, until))
        return steps[first:end]

    def _expected(self, until: str) -> Expected:
        """Return the steps to be expected from a day on."""
        since, found = days_before(until, LEARNT), dict[tuple[str, int, int], float]()
        for series, images in self._images.items():
            new = sum(since <= first < until for _, first, _ in images) or 1
            for step, age, lag in self.between(series, since, until):
                key = series, age, lag
                found[key] = found.get(key, 0.0) + step.clients / new
        return Expected(DEMAND, tuple((*key, round(n, 3)) for key, n in sorted(found.items())))

    def outcomes(self, days: int, policy: Model) -> Iterator[Outcome]:
        """Yield what came of each policy in the last days; all else is as in ``policy``."""
        for name in SIMULATED:
            sources, _, coverage = name.partition(" ")
            how = {"sources": sources, "coverage": float(coverage or policy.coverage)}
            yield self._outcome(name, days, policy.model_copy(update=how))

    def _outcome(self, name: str, days: int, policy: Model) -> Outcome:
        made: dict[Ends, float] = {}
        disk: dict[str, float] = defaultdict(float)  # by day
        saved = most = 0.0
        for series in self._images:
            before: tuple[str, ...] = ()
            chosen: Mapping[Ends, float] = {}
            every: Mapping[Ends, float] = {}
            for day in (days_before(self.today, back) for back in range(days, -1, -1)):
                there = self.on_offer(series, day)
                if there != before:
                    every, before = self.sizes.of(there, possible(there, policy.targets)), there
                    chosen = self._chosen(series, day, there, policy, every, chosen)
                    made |= chosen
                disk[day] += sum(chosen.values())
                for step, *_ in self.between(series, day, days_before(day, -1)):
                    both, whole = (step.source, step.target), self.sizes.images[step.target]
                    spared = step.clients * max(0.0, whole - every.get(both, whole))
                    most += spared
                    saved += spared if both in chosen else 0.0
        read = sum(self.sizes.images[image] for pair in made for image in pair)
        share = saved / most if most else 0.0
        total, top = int(sum(made.values())), int(max(disk.values(), default=0))
        return Outcome(name, len(made), total, read, top, int(saved), round(share, 4))

    def _chosen(
        self,
        series: str,
        day: str,
        images: Sequence[str],
        policy: Model,
        every: Mapping[Ends, float],
        present: Collection[Ends],
    ) -> dict[Ends, float]:
        """Return what the policy would offer, with the bytes of each."""
        expected = self.expected(day) if policy.sources == DEMAND else None
        pairs = wanted_by(policy, series, images, expected, self.sizes, present)
        limit, whole = policy.max_share, self.sizes.images
        return {pair: every[pair] for pair in pairs if every[pair] <= limit * whole[pair[1]]}


def lines(outcomes: Iterable[Outcome], days: int) -> Iterator[str]:
    """Yield outcomes as lines of a table."""
    form = "{:<12}{:>9}{:>12}{:>12}{:>12}{:>12}{:>9}"
    yield f"What each policy would have made and saved in the last {days} days:"
    yield form.format("Policy", "rdiffs", "bytes", "read", "on disk", "saved", "of all")
    for one in outcomes:
        sizes = map(format_bytes, (one.made, one.read, one.disk, one.saved))
        yield form.format(one.policy, one.rdiffs, *sizes, f"{one.share:.1%}")
