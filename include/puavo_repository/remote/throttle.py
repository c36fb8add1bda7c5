"""A bandwidth limit that several connections share, fixed or by the hour of the day.

Written by hand because paramiko has none, and one outside (``tc``) needs root.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_WORD = re.compile(
    r"(?:(\d{1,2})-(\d{1,2})=)?(\d{1,15}(?:\.\d+)?)([kmg]?)", re.ASCII | re.IGNORECASE
)
_BURST = 0.25  # seconds of the rate that may pass at once
_LONGEST_WAIT = 0.5  # seconds after which a waiting connection is looked at again


@dataclass(frozen=True)
class Bandwidth:
    """How many bytes a second may be sent."""

    rate: int = 0  # bytes a second; 0 for no limit
    # (first hour, hour it ends at, bytes a second), local time; the first match counts.
    hours: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Bandwidth:
        """Read ``2M``, or ``0 7-19=500k``: no limit, but 500 kB a second from 7 to 19.

        What is neither raises a ``ValueError``.
        """
        rate, hours = 0, []
        for word in text.replace(",", " ").split():
            match = _WORD.fullmatch(word)
            if match is None:
                raise ValueError(f"holds {word!r}, which is no rate such as 2M or 7-19=500k")
            found = int(float(match[3]) * _UNITS[match[4].lower()])
            if match[1] is None:
                rate = found
            elif int(match[1]) > 23 or int(match[2]) > 24:
                raise ValueError(f"holds {word!r}, which is no time of day such as 7-19=…")
            else:
                hours.append((int(match[1]), int(match[2]), found))
        return cls(rate, tuple(hours))

    def at(self, hour: int) -> int:
        """Return the limit in force at an hour (0 to 23)."""
        for first, end, rate in self.hours:
            if first <= hour < end or (end <= first and (hour >= first or hour < end)):
                return rate
        return self.rate


class Throttle:
    """Keeps the sum of what its users send below the limit."""

    def __init__(self, bandwidth: Bandwidth | None = None) -> None:
        self._bandwidth = bandwidth or Bandwidth()
        self._free_at = 0.0  # when all that was admitted so far has passed at the rate
        self._lock = threading.Lock()

    def admit(self, count: int, before_wait: Callable[[], None]) -> None:
        """Return when ``count`` bytes may be sent.

        ``before_wait`` is called before a wait and during a long one, to take the answers that
        are due: a connection whose answers nobody takes would count as stalled. What it raises,
        for one that was closed or lost, ends the wait.
        """
        rate = self._bandwidth.at(time.localtime().tm_hour)
        if not rate:
            return
        now = time.monotonic()
        with self._lock:
            self._free_at = max(self._free_at, now - _BURST) + count / rate
            free_at = self._free_at
        while free_at > time.monotonic():
            before_wait()
            time.sleep(max(0.0, min(_LONGEST_WAIT, free_at - time.monotonic())))
