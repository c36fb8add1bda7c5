"""What the counts say of the fleet: who made which step, and how many are on which image. Pure.

A client that fetches an rdiff had its source and has its target. One that fetches a whole image had
something else: an image from which no rdiff led to it. Where nobody saw which (no rdiff was asked
for in vain), it is shared out among those, by the clients that are believed to have each.
What clients had before the first day of the log shows when they leave it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby
from typing import NamedTuple

from puavo_repository.fleet.requests import HTTPS, RSYNC
from puavo_repository.fleet.store import GIVEN_UP, MISSING, File, Store, days_before
from puavo_repository.formats.names import image_name, rdiff_name

NEARLY_ALL = 0.9  # of a series' clients


class Step(NamedTuple):
    """Clients that went from one image to another on one day."""

    day: str
    source: str  # empty where a client had none of ours
    target: str
    clients: float
    whole: bool  # whether they fetched the whole image


@dataclass
class History:
    """Facts out of the store, of its last days."""

    today: str
    files: Mapping[str, File]
    rows: list[tuple[str, File, str, int, int]]  # day, file, way, downloads, bytes; by day
    clients: Mapping[str, int]  # by day
    demand: Mapping[tuple[str, str], int]
    told: str  # day on which the demand was; empty where none is known

    @classmethod
    def of(cls, store: Store, days: int) -> "History":
        """Read so many days of the store."""
        since = days_before(store.today, days)
        by_id = {file.id: file for file in store.files.values()}
        sql = "SELECT * FROM counts WHERE day >= ? ORDER BY day"
        rows = [(day, by_id[file], *rest) for day, file, *rest in store.rows(sql, since)]
        both = "SELECT day, clients FROM clients UNION ALL SELECT day, clients FROM open_days"
        sql = f"SELECT day, sum(clients) FROM ({both}) WHERE day >= ? GROUP BY day"  # noqa: S608
        demand = store.rows("SELECT day, source, target, clients FROM demand")
        return cls(
            store.today,
            store.files,
            rows,
            dict(store.rows(sql, since)),
            {(source, target): clients for _, source, target, clients in demand},
            max((day for day, *_ in demand), default=""),
        )

    def size(self, image: str) -> int:
        """Return the size of a file, 0 where it is not known."""
        return self.files[image].size if image in self.files else 0

    def offered(self, source: str, target: str, day: str) -> bool:
        """Tell whether an rdiff between two images was on offer on a day."""
        file = self.files.get(rdiff_name(source, target))
        return file is not None and file.size > 0 and file.first <= day <= file.last


@dataclass(frozen=True)
class Share:
    """How many clients of a series have an image."""

    image: str
    clients: int
    share: float
    off: float  # how far off that may be
    nearly_all: int | None  # days until 90 % had it or a newer one; None where they do not yet


@dataclass
class Population:
    """The clients of one series by the image that they have, as far as they were seen."""

    clients: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    spread: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # variances
    nearly_all: dict[str, int] = field(default_factory=dict)  # days that an image took to reach it

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.clients.values())

    def shares(self) -> Iterator[Share]:
        """Yield the shares of the images that somebody has, newest image first."""
        total, days = self.total, self.nearly_all.get
        for image in sorted(self.clients, key=_version, reverse=True):
            if (clients := self.clients[image]) >= 0.5:
                off = min(1.0, 2 * self.spread[image] ** 0.5 / total)
                part = round(clients / total, 4)
                yield Share(image, round(clients), part, round(off, 4), days(image))


Arrivals = dict[tuple[str, str, bool], int]
"""Clients of a day by source, empty where it is not known, target, and whether they fetched the
whole image."""


class Fleet:
    """The fleet, day after day."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.series: dict[str, Population] = defaultdict(Population)
        self.steps: list[Step] = []
        days = list(_arrivals(history.rows))
        self._begin(arrivals for _, arrivals in days)
        for day, arrivals in days:
            self._day(day, arrivals)
        self._exactly(history.demand)

    def _begin(self, days: Iterable[Arrivals]) -> None:
        """Give each image those clients that must have had it before the first day."""
        balance: dict[str, int] = defaultdict(int)
        lowest: dict[str, int] = defaultdict(int)
        for arrivals in days:
            for (source, target, _), clients in arrivals.items():
                balance[target] += clients
                balance[source] -= clients
            for image in {source for source, _, _ in arrivals if source}:
                lowest[image] = min(lowest[image], balance[image])
        for image, deficit in lowest.items():
            if deficit:
                self._of(image).clients[image] = -deficit

    def _day(self, day: str, arrivals: Arrivals) -> None:
        for (known, target, whole), clients in arrivals.items():
            sources = [(known, clients, 0.0)] if known else self._sources(day, target, clients)
            for source, part, spread in list(sources):
                self._step(Step(day, source, target, part, whole), spread)
        for series in {image_name(target).series for _, target, _ in arrivals}:
            self._reached(day, self.series[series])

    def _sources(self, day: str, target: str, clients: float) -> Iterator[tuple[str, float, float]]:
        """Yield which images clients can have had that fetched a whole one: part and variance.

        Those from which no rdiff led come first; of the others some had no room for both files.
        """
        there = {
            image: count
            for image, count in self._of(target).clients.items()
            if image != target and count > 0
        }
        led = {image for image in there if self.history.offered(image, target, day)}
        for group in (there.keys() - led, led):
            total = sum(there[image] for image in group)
            told = min(clients, total)
            clients -= told
            for image in group if told else ():
                share = there[image] / total
                yield image, told * share, told * share * (1 - share)
        if clients:
            yield "", clients, 0.0

    def _step(self, step: Step, spread: float = 0.0) -> None:
        self.steps.append(step)
        target = self._of(step.target)
        target.clients[step.target] += step.clients
        if step.source:
            source = self._of(step.source)
            source.clients[step.source] = max(0.0, source.clients[step.source] - step.clients)
            source.spread[step.source] += spread

    def _reached(self, day: str, population: Population) -> None:
        """Note which images, with all that are newer, nearly all clients have by now."""
        newer, total = 0.0, population.total
        for image in sorted(population.clients, key=_version, reverse=True):
            newer += population.clients[image]
            if newer >= NEARLY_ALL * total and image not in population.nearly_all:
                began = self.history.files[image].first if image in self.history.files else day
                took = date.fromisoformat(day) - date.fromisoformat(began)
                population.nearly_all[image] = max(0, took.days)

    def _exactly(self, demand: Mapping[tuple[str, str], int]) -> None:
        """Take what Puavo itself tells of the clients of a series for what is so."""
        told: dict[str, Population] = defaultdict(Population)
        for (source, _), clients in demand.items():
            told[image_name(source).series].clients[source] += clients
        for series, population in told.items():
            population.nearly_all = self.series[series].nearly_all
            self.series[series] = population

    def _of(self, image: str) -> Population:
        return self.series[image_name(image).series]


def _version(image: str) -> str:
    return image_name(image).number


def _arrivals(
    rows: Iterable[tuple[str, File, str, int, int]],
) -> Iterator[tuple[str, Arrivals]]:
    """Yield each day; the steps whose source is known come first."""
    for day, group in groupby(rows, key=lambda row: row[0]):
        steps: Arrivals = defaultdict(int)
        images: dict[str, int] = defaultdict(int)
        vain: list[tuple[str, str, int]] = []
        for _, file, via, downloads, _ in group:
            if via in (MISSING, GIVEN_UP):
                vain.append((file.source, file.target, downloads))
            elif via in (HTTPS, RSYNC) and downloads and file.target:
                steps[file.source, file.target, False] += downloads
            elif via in (HTTPS, RSYNC) and downloads:
                images[file.name] += downloads
        for source, target, clients in vain:
            told = min(clients, images.get(target, 0))
            if told:
                images[target] -= told
                steps[source, target, True] += told
        yield day, {**steps, **{("", image, True): clients for image, clients in images.items()}}
