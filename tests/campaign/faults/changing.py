"""What changes under a run: an image, and the time."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.process import BaseProcess
from pathlib import Path

from campaign.disturbed import Clock, Run
from campaign.faults.damaged import OfRemote
from campaign.faults.fault import GRACE, OfPrepare, OfPublish
from campaign.nights import KEPT
from puavo_repository.remote.journal import FOLDER as JOURNAL
from support.mirrors import tree_of

YEAR = 365 * 24 * 3600.0  # seconds


class ChangedImage(OfPrepare):
    """An image changes under its name while it is read, or about to be."""

    def looking(self) -> AbstractContextManager[None]:
        return self.watch.closed()  # what is written into an image, is so in the mirror

    def strike(self) -> Run:
        series = self.nights.series()
        image = self.chance.choice(series)
        changes: list[Callable[[Path], object]]
        changes = [self._renamed, self._overwritten, self._truncated]
        if len(series) == KEPT:  # the second one that goes in a night is refused, and rightly
            changes.append(Path.unlink)
        change = self.chance.choice(changes)

        def meanwhile(process: BaseProcess) -> bool:
            time.sleep(self.chance.random() * 0.15)
            running_still = process.is_alive()
            change(image)
            return running_still

        done = self.step(meanwhile=meanwhile)
        if image.exists() and change == self._truncated:
            self.nights.replace(image.name)  # copied again, whole
        return done

    def _renamed(self, image: Path) -> None:
        self.nights.replace(image.name)

    def _overwritten(self, image: Path) -> None:
        other = self.nights.replace(image.name).read_bytes()
        with image.open("r+b") as stream:
            stream.write(other[::-1])
        with image.open("r+b") as stream:
            stream.write(other)
            stream.truncate()

    def _truncated(self, image: Path) -> None:
        os.truncate(image, self.chance.randrange(image.stat().st_size))


def jumps(chance: random.Random) -> Clock:
    """Return a clock that is years off, and jumps by years within the run."""
    first, then = (chance.choice((-9, -1, 0, 1, 9)) * YEAR for _ in range(2))
    return Clock(first, then, chance.randrange(6))


class ClockPrepare(OfPrepare):
    def strike(self) -> Run:
        return self.step(disturbance=jumps(self.chance))


class ClockPublish(OfRemote):
    """Nothing is pruned before its grace, and no lock stays for ever."""

    removal = GRACE

    def fall(self) -> None:
        OfPublish.fall(self)  # where nothing is new, nobody asks for the lock

    def strike(self) -> Run:
        kept = {p for p in tree_of(self.nights.remote) if not p.startswith("meta/")}
        if self.chance.random() < 0.4:
            self._leave_a_lock()
        done = self.step(disturbance=jumps(self.chance))
        gone = kept - tree_of(self.nights.remote).keys()
        early = f"Traceback: pruned before its grace: {sorted(gone)}" if gone else ""
        locked = "" if done.status == 0 else f"Traceback: it ended with {done.status}"
        return Run(done.status, done.struck, 0, done.unexpected + early + locked)

    def _leave_a_lock(self) -> None:
        """Leave the lock of another machine, from before the server's clock was put right."""
        lock = self.nights.remote / JOURNAL / "publisher.lock"
        holder = {"token": "x", "host": "h", "machine": "m", "process": 1, "started": "1"}
        lock.write_text(json.dumps(holder))
        moment = time.time() + self.chance.choice((-1, -9, 1, 9)) * YEAR
        os.utime(lock, (moment, moment))
