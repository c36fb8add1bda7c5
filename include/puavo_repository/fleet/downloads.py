"""Puts downloads together from the lines of a log: ranges, resumes, tries that were broken off.

A log does not say which bytes of a file an answer had. What is counted is a download that came to
its end: one answer with the whole file, or several to the same client on the same day that make
it up together. A range that goes on with what a client began on an earlier day finds it among the
unfinished downloads of that file, of which nobody knows any more whose they are.

More may have been sent than the client got before it broke off: then what is put together is more
than the file, or a range comes after a download that looked finished. It counts once all the same.
"""

import hashlib
import secrets
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Self

from puavo_repository.fleet.requests import BOT, HTTPS, RSYNC, Request
from puavo_repository.fleet.store import GIVEN_UP, MISSING, File, Store, days_before

_KEPT_DAYS = 7  # of what is unfinished
_GIVEN = {200, 206, 304, 416}  # answers to a client that has, or gets, what it asked for


@dataclass
class OpenDay:
    """The clients of one day, as keyed hashes, and their downloads."""

    key: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    clients: set[str] = field(default_factory=set)
    # By client and file: downloads that are finished, then the bytes of each that is not.
    parts: dict[tuple[str, int], list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, state: Any) -> Self:
        """Return what ``state`` was made of."""
        parts = {(who, file): found for who, file, found in state["parts"]}
        return cls(bytes.fromhex(state["key"]), set(state["clients"]), parts)

    @property
    def state(self) -> dict[str, Any]:
        """Plain values."""
        parts = [(who, file, found) for (who, file), found in self.parts.items()]
        return {"key": self.key.hex(), "clients": list(self.clients), "parts": parts}

    def who(self, address: bytes) -> str:
        """Return what stands for an address on this day."""
        return hashlib.blake2b(address, key=self.key, digest_size=8).hexdigest()


class Downloads:
    """Counts the downloads of one log; nothing counts before ``keep``."""

    def __init__(self, store: Store, log: str) -> None:
        self._store, self._log = store, log
        self._latest = days_before(store.today, -1)  # clocks differ
        self._days = {day: OpenDay.of(state) for day, state in store.open_days(log).items()}
        self._newest = max(self._days, default="")
        self._unfinished = store.unfinished(log)
        self._counts: dict[tuple[str, int, str], list[int]] = defaultdict(lambda: [0, 0])

    def take(self, request: Request) -> None:
        """Count what a client was answered."""
        if request.day > self._latest:
            return
        today = self._days.get(request.day) or self._open(request.day)
        who = today.who(request.address)
        if request.via != BOT and request.status in _GIVEN:
            today.clients.add(who)
        if request.name.endswith(".json"):
            return
        if request.status in (200, 206):
            file = self._store.file(request.name)
            file.last = max(file.last, request.day)
            whole = self._finishes(today, who, file, request)
            if whole and not file.target and request.via == HTTPS:
                self._in_place_of_an_rdiff(today, who, request)
            count = self._counts[request.day, file.id, request.via]
            count[0] += whole
            count[1] += request.sent
        elif request.status == 404 and request.via == HTTPS:
            self._missing(today, who, request)

    def _missing(self, today: OpenDay, who: str, request: Request) -> None:
        """Count an rdiff that a client looked for in vain, once a day."""
        file = self._store.wanted(request.name)
        if file is not None and (who, file.id) not in today.parts:
            today.parts[who, file.id] = [0]
            self._counts[request.day, file.id, MISSING][0] += 1

    def _in_place_of_an_rdiff(self, today: OpenDay, who: str, request: Request) -> None:
        """Count the rdiff that a client gave up on the same day, before it fetched the image."""
        for file in self._store.leading_to[request.name]:
            parts = today.parts.get((who, file.id), [])
            if len(parts) > 1:
                parts.pop()
                self._counts[request.day, file.id, GIVEN_UP][0] += 1
                return

    def _finishes(self, today: OpenDay, who: str, file: File, request: Request) -> bool:
        """Tell whether a download comes to its end with this answer."""
        sent, first = request.sent, request.status == 200
        if request.via != HTTPS:
            return request.via == RSYNC and first
        if first and not file.described:
            file.size = max(file.size, sent)
        parts = today.parts.setdefault((who, file.id), [0])
        finished, *others = parts
        left = (file.size or 1 << 62) - sent  # to be found among what was got before
        earlier = self._unfinished.get(file.id, [])
        fitting = [part for part in others if not first and part >= left]
        before = [one for one in earlier if not first and one[1] >= left]
        if left <= 0:
            pass
        elif fitting:
            others.remove(min(fitting))
        elif others and not first:
            others[-1] += sent
            sent = 0
        elif before:
            earlier.remove(min(before, key=lambda one: one[1]))
        else:
            others += [sent] if sent else []
            sent = 0
        parts[:] = [finished + bool(sent), *others]
        return bool(sent)

    def _open(self, day: str) -> OpenDay:
        """Open a day; those before it are closed, and opened once more for a line that is late."""
        if day > self._newest:
            self._newest = day
            self._close()
        return self._days.setdefault(day, OpenDay())

    def _close(self) -> None:
        """Close all days but the newest."""
        for day in sorted(self._days.keys() - {self._newest}):
            closed = self._days.pop(day)
            self._store.add_clients(day, len(closed.clients))
            for (_, file), (_, *others) in closed.parts.items():
                self._unfinished[file] += [(day, part) for part in others]

    def keep(self) -> None:
        """Write the counts into the store."""
        self._close()
        self._store.count(self._counts)
        first = days_before(self._newest, _KEPT_DAYS) if self._newest else ""
        kept = {
            file: [(day, count) for day, count in parts if day >= first]
            for file, parts in self._unfinished.items()
        }
        days = {day: (len(one.clients), one.state) for day, one in self._days.items()}
        self._store.keep(self._log, days, kept)
