"""A fleet whose every client is known, and the log of the server that it fetches from."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from unittest import mock

from puavo_repository.fleet import fold, store
from puavo_repository.fleet.usage import Usage
from puavo_repository.formats.names import rdiff_name
from puavo_repository.prepare import demand
from puavo_repository.settings import Settings
from support.fleet import DAY, SERIES, built, line, offer

KEPT = 12  # images on offer
IMAGE = 1_500_000_000
# How many of a hundred clients update on how many of a hundred days.
HABITS = ((70, 40.0), (20, 12.0), (8, 2.5), (2, 0.4))
PINNED, FAILS, RESUMES, INSTALLED, GONE = 0.05, 0.03, 0.1, 0.0003, 0.0003


def on_day(number: int) -> AbstractContextManager[object]:
    """Have it be so many days after the first."""
    day = (DAY + timedelta(number)).isoformat()
    return mock.patch.object(store, "today", return_value=day)


class SyntheticFleet:
    """Clients that update as real ones do: often, seldom, pinned to an image, behind one address;
    some downloads fail, some are resumed, an image is bad, devices come and go.
    """

    def __init__(self, mirror: Path, log: Path, clients: int, seed: int = 1) -> None:
        self._random, self._mirror, self._log = random.Random(seed), mirror, log
        shares = [share for share, _ in HABITS]
        rates = [rate / 100 for _, rate in HABITS]
        self._rates = self._random.choices(rates, shares, k=clients)
        self._pinned = [self._random.random() < PINNED for _ in range(clients)]
        # Two thirds of them are at schools, forty behind an address.
        self._addresses = [
            f"10.1.{n // 40 // 250}.{n // 40 % 250}" if n % 3 else f"2001:db8::{n:x}"
            for n in range(clients)
        ]
        self.images = [built(-7 * back) for back in range(KEPT, 0, -1)]
        usual = [0.5**back for back in range(KEPT)]
        self.has = self._random.choices(self.images[::-1], usual, k=clients)
        self._alive = [True] * clients
        self._next = 0
        self.by_demand = False  # whether the server offers what the demand asks for, or all
        self.updates = self.missed = 0  # all, and those for which no rdiff was offered
        self._offered: set[tuple[str, str]] = set()

    def truth(self) -> dict[str, float]:
        """Return the share of the clients that have each image."""
        having = Counter(i for i, alive in zip(self.has, self._alive, strict=True) if alive)
        return {image: count / having.total() for image, count in having.items()}

    def rdiffs(self) -> dict[tuple[str, str], int]:
        """Return what the old rule offers, with the sizes."""
        return {
            (source, target): int(IMAGE * min(0.8, 0.02 + 0.012 * abs(to - before)))
            for to, target in enumerate(self.images)
            for before, source in enumerate(self.images)
            if to >= len(self.images) - 3 and source != target
        }

    def _choose(self) -> None:
        """Choose what is offered with the images that there are now, as a night does."""
        every = self.rdiffs()
        expected = demand.records(self._mirror).get(demand.DEMAND) if self.by_demand else None
        if expected is None or not expected.knows(SERIES, self.images):
            self._offered = set(every)
            return
        made = {rdiff_name(*pair): every[pair] for pair in self._offered & every.keys()}
        sizes = demand.Sizes(dict.fromkeys(self.images, IMAGE), made)
        steps, there = expected.of(SERIES, self.images), self._offered
        self._offered = demand.choose(steps, self.images, sizes, 0.95, targets=3, present=there)

    def day(self, number: int) -> None:
        """Live through one day; the log has it then."""
        if number >= self._next:
            self.images = [*self.images[-KEPT + 1 :], built(number)]
            self._next = number + self._random.randint(5, 9)
            self._choose()
        rdiffs = {pair: size for pair, size in self.rdiffs().items() if pair in self._offered}
        offer(self._mirror, dict.fromkeys(self.images, IMAGE), rdiffs)
        lines = []
        for client, rate in enumerate(self._rates):
            if self._alive[client] and self._random.random() < rate:
                lines += self._update(client, number, rdiffs)
            if self._random.random() < GONE:
                self._alive[client] = not self._alive[client]  # another one comes in its place
        with self._log.open("a") as stream:
            stream.writelines(lines)

    def _update(self, client: int, day: int, rdiffs: dict[tuple[str, str], int]) -> list[str]:
        """Return the lines that a client's update leaves."""
        has, target = self.has[client], self.images[-1 - self._pinned[client]]
        if day % 70 == 40 and self._random.random() < 0.3:
            target = self.images[-2]  # a bad image: some go back
        if has == target:
            return []
        self.has[client], address = target, self._addresses[client]
        lines, size = [], rdiffs.get((has, target))
        self.updates += 1
        self.missed += size is None
        path = f"rdiffs/{rdiff_name(has, target)}"
        if size and self._random.random() < FAILS:
            if self._random.random() < 0.5:  # else there is no room for the rdiff
                lines.append(line(path, size // 3, address=address, day=day))
            size = None
        if not size:
            path, size = target, IMAGE
        if self._random.random() < RESUMES:
            got = self._random.randrange(1, size)
            lines.append(line(path, min(size - 1, got + 9000), address=address, day=day))
            return [*lines, line(path, size - got, address=address, day=day, status=206)]
        return [*lines, line(path, size, address=address, day=day)]


def live(fleet: SyntheticFleet, settings: Settings, days: range) -> None:
    """Live through days, and fold the log each morning after."""
    for number in days:
        fleet.day(number)
        with on_day(number):
            fold.fold_logs(settings, settings.target)
            if fleet.by_demand:
                fold.figures(settings)


def furthest(fleet: SyntheticFleet, figures: Usage) -> float:
    """Return by how much the share of an image is off at most."""
    seen = {one.image: one.share for series in figures.series for one in series.shares}
    truth = fleet.truth()
    return max(abs(truth.get(image, 0) - seen.get(image, 0)) for image in {*truth, *seen})
