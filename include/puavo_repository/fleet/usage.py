"""The figures of what clients fetched, for people and for programs, and where they are kept."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from puavo_repository.errors import RepositoryError
from puavo_repository.fleet.history import Fleet, History, Share
from puavo_repository.fleet.requests import BOT, HTTPS, RSYNC
from puavo_repository.fleet.store import GIVEN_UP, MISSING, days_before
from puavo_repository.formats.names import image_name
from puavo_repository.mirror.store import FOLDER, Record, Records
from puavo_repository.progress import count, format_bytes

NAME = "usage"  # of the record
YEAR, MONTH, WEEK = 366, 30, 7  # days
_MOST = 50  # rdiffs and pairs that are named


@dataclass(frozen=True)
class Day:
    """What clients fetched on one day, in bytes, and how many they were."""

    day: str
    rdiffs: int = 0
    images: int = 0  # whole ones, by https
    rsync: int = 0  # the same by rsync
    bots: int = 0
    saved: int = 0  # against whole images
    clients: int = 0


@dataclass(frozen=True)
class SeriesUsage:
    """The fleet of one series, newest image first."""

    name: str
    clients: int
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class Unused:
    """An rdiff on offer that nobody fetched in a month."""

    rdiff: str
    size: int
    since: str  # day from which it is on offer


@dataclass(frozen=True)
class Wanted:
    """A step for which clients fetched whole images in a month, because no rdiff was there."""

    source: str
    target: str
    clients: int
    bytes: int  # fetched


@dataclass(frozen=True)
class Usage(Record):
    """Everything that the logs tell."""

    day: str = ""  # of the last fold
    notes: tuple[str, ...] = ()
    days: tuple[Day, ...] = ()
    series: tuple[SeriesUsage, ...] = ()
    unused: tuple[Unused, ...] = ()
    unused_bytes: int = 0
    wanted: tuple[Wanted, ...] = ()

    @classmethod
    def of(cls, fleet: Fleet, notes: Iterable[str] = ()) -> Self:
        """Work the figures out."""
        unused = list(_unused(fleet.history))
        wanted = _wanted(fleet)
        return cls(
            NAME,
            fleet.history.today,
            tuple(notes),
            tuple(_days(fleet.history)),
            tuple(_series(fleet)),
            tuple(unused[:_MOST]),
            sum(one.size for one in unused),
            tuple(wanted[:_MOST]),
        )

    def total(self) -> Day:
        """Return the sums of a month; of the clients, the most of one day."""
        last = [one for one in self.days if one.day > days_before(self.day, MONTH)]
        names = "rdiffs", "images", "rsync", "bots", "saved"
        sums = {name: sum(getattr(one, name) for one in last) for name in names}
        return Day(self.day, **sums, clients=max((one.clients for one in last), default=0))

    def lines(self) -> Iterator[str]:
        """Yield what it tells people, as lines of a table."""
        yield from self.notes
        if not self.days:
            yield "No download is known yet"
            return
        form = "{:<12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>10}"
        yield form.format("Day", "rdiffs", "images", "rsync", "bots", "saved", "clients")
        for title, one in [*((one.day, one) for one in self.days[-14:]), ("30 days", self.total())]:
            sizes = one.rdiffs, one.images, one.rsync, one.bots, one.saved
            yield form.format(title, *map(format_bytes, sizes), one.clients)
        for series in self.series:
            yield f"{series.name}: {count(series.clients, 'client')}"
            for share in series.shares[:10]:
                reached = "" if share.nearly_all is None else f"  90 % after {share.nearly_all} d"
                version = image_name(share.image).version
                yield f"  {version:<20}{share.share:>7.1%} ±{share.off:.1%}{reached}"
        for step in self.wanted[:10]:
            text = f"{count(step.clients, 'whole image')}, {format_bytes(step.bytes)}"
            yield f"no rdiff from {step.source} to {image_name(step.target).version}: {text}"
        if self.unused:
            yield f"rdiffs that nobody fetched in a month: {format_bytes(self.unused_bytes)}"
            yield from (
                f"  {rdiff.rdiff}: {format_bytes(rdiff.size)}" for rdiff in self.unused[:10]
            )


def records(mirror: Path) -> Records[Usage]:
    """Return where the figures are kept: ``.puavo-repository/usage.json`` beside the mirror."""
    return Records(mirror / FOLDER, Usage.from_dict)


def last(mirror: Path) -> Usage | None:
    """Return the figures of the last fold; None where there are none that can be read."""
    with suppress(RepositoryError):
        return records(mirror).get(NAME)
    return None


def _days(history: History) -> Iterator[Day]:
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for day, file, via, downloads, sent in history.rows:
        if via in (MISSING, GIVEN_UP):
            continue
        kind = {BOT: "bots", RSYNC: "rsync", HTTPS: "rdiffs" if file.target else "images"}[via]
        sums[day][kind] += sent
        if file.target and via == HTTPS:
            spared = history.size(file.target) - file.size
            sums[day]["saved"] += downloads * max(0, spared)
    for day in sorted(sums.keys() | history.clients.keys()):
        yield Day(day, clients=history.clients.get(day, 0), **sums[day])


def _series(fleet: Fleet) -> Iterator[SeriesUsage]:
    for name, population in sorted(fleet.series.items()):
        if shares := tuple(population.shares()):
            yield SeriesUsage(name, round(population.total), shares)


def _unused(history: History) -> Iterator[Unused]:
    """Yield rdiffs on offer, for a week at least, that nobody fetched; the largest first."""
    month, week = (days_before(history.today, days) for days in (MONTH, WEEK))
    if not history.rows or history.rows[0][0] > week:
        return  # the logs do not tell it yet
    fetched = {
        file.name
        for day, file, via, downloads, _ in history.rows
        if day > month and downloads and via not in (MISSING, GIVEN_UP)
    }
    offered = [
        file
        for file in history.files.values()
        if file.target and file.described and file.last == history.today and file.first <= week
    ]
    for file in sorted(offered, key=lambda one: -one.size):
        if file.name not in fetched:
            yield Unused(file.name, file.size, file.first)


def _wanted(fleet: Fleet) -> list[Wanted]:
    """Return the steps of a month that were made by whole images, the most bytes first."""
    history, since = fleet.history, days_before(fleet.history.today, MONTH)
    steps: dict[tuple[str, str], float] = defaultdict(float)
    for step in fleet.steps:
        both = step.source, step.target
        if step.whole and step.source and step.day > since and not history.offered(*both, step.day):
            steps[step.source, step.target] += step.clients
    found = [
        Wanted(source, target, round(clients), round(clients * history.size(target)))
        for (source, target), clients in steps.items()
        if clients >= 0.5
    ]
    return sorted(found, key=lambda one: -one.bytes)
