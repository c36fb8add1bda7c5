"""Runs that are broken off: killed, cut off from the server, or met by another."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess

from campaign.disturbed import Kill, Run, before, run
from campaign.faults.fault import GRACE, Fault, OfPrepare, OfPublish, OverSftp
from campaign.nights import prepare, publish, publish_after_all, step_back
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.remote.journal import FOLDER as JOURNAL
from puavo_repository.remote.target import Target
from puavo_repository.settings.model import Model
from support.servers import Proxy

# A walk takes a small part of either.
CLIENTS = Model(grace_days=2 / 86400, max_delete=1.0, replace_pause=0.5, connections=2)


class Killed(Fault):
    """Killed at a random step."""

    _usual = 60  # steps of a run

    def strike(self) -> Run:
        done = self.step(disturbance=Kill(self.chance.randint(1, self._usual)))
        if done.steps:
            self._usual = max(10, done.steps)
        return done


class KillPrepare(Killed, OfPrepare):
    """A first night, of which nothing was there before, or a next one."""

    def fall(self) -> None:
        super().fall()
        if self.chance.random() < 0.3:
            with self.watch.closed():
                shutil.rmtree(self.nights.mirror, ignore_errors=True)


class KillPublishFolder(Killed, OfPublish):
    """Killed at a random step of publishing into a folder."""


class KillRollback(Killed, OfPublish):
    """Killed at a random step of a rollback from a night that was published whole."""

    def fall(self) -> None:
        """Nothing comes under another's name: what was replaced cannot be put back."""
        for _ in range(1 if self.nights.remote.joinpath("CKSUMS").exists() else 2):
            self._before = Mirror(self.nights.remote).contents()
            self.nights.turn()
            before(prepare, self.nights.repository)
            before(publish, self.nights.mirror, self.target, GRACE)

    @property
    def step(self) -> Callable[..., Run]:
        return partial(run, step_back, self.nights.mirror, self.target)

    def mend(self) -> Run:
        """Roll back in the end; then the night was good after all."""
        done = self.step()
        if Mirror(self.nights.remote).contents() != self._before:
            return Run(1, said="not what clients saw before")
        wrong = [one for one in self.nights.found(self.nights.remote) if one.severity == "error"]
        if wrong:  # that the mirror has more is none
            return Run(1, said=f"after the rollback an audit found: {wrong}")
        with self.watch.closed():
            last = run(publish_after_all, self.nights.mirror, self.target)
        return done if done.status else last


class KillPublish(OverSftp):
    """Killed when a random number of bytes has left it."""

    patient = True
    removal = CLIENTS
    _usual = 200_000  # bytes of a run

    @contextmanager
    def ready(self) -> Iterator[None]:
        with super().ready(), Proxy(self.server.port) as self.proxy:
            yield

    @property
    def target(self) -> Target:
        return self.server.target(self.nights.remote, self.proxy.port)

    def strike(self) -> Run:
        begin = self.proxy.sent

        def meanwhile(process: BaseProcess) -> bool:
            self.proxy.sprung = process.kill
            self.proxy.trap = begin + self.chance.randrange(self._usual)
            return False

        done = self.step(meanwhile=meanwhile)
        self.proxy.heal()
        if done.status == 0:
            self._usual = max(20_000, self.proxy.sent - begin)
        return Run(done.status, done.status == -9, done.steps, done.unexpected)

    def mend(self) -> Run:
        done = self.step()
        # What clients may still be reading goes as well, and with it any difference.
        with self.watch.closed():
            last = super().mend()
        return done if done.status else last


class CutPublish(KillPublish):
    """The connection breaks when a random number of bytes went through it."""

    def strike(self) -> Run:
        begin = self.proxy.sent
        self.proxy.cut_after = begin + self.chance.randrange(self._usual)
        done = self.step()
        cut = self.proxy.cut_after is None
        self.proxy.heal()
        if not cut:
            self._usual = max(20_000, self.proxy.sent - begin)
        return Run(done.status, cut, unexpected=done.unexpected)


class Together(OverSftp):
    """Two publish at once while a third prepares, as a nightly run and somebody by hand would."""

    again = 1

    def fall(self) -> None:
        self.nights.fall()
        if self.chance.random() < 0.5:
            before(prepare, self.nights.repository)

    def strike(self) -> Run:
        steps = [self.step, self.step, partial(run, prepare, self.nights.repository)]
        delays = [self.chance.random() * 0.3 for _ in steps]
        kills = [Kill(self.chance.randint(5, 80)) for _ in steps]
        fates = [kill if self.chance.random() < 0.2 else None for kill in kills]

        def go(step: Callable[..., Run], delay: float, fate: Kill | None) -> Run:
            time.sleep(delay)
            return step(disturbance=fate)

        with ThreadPoolExecutor(len(steps)) as pool:
            done = list(pool.map(go, steps, delays, fates))
        return Run(0, struck=True, unexpected="".join(each.unexpected for each in done))

    def mend(self) -> Run:
        """Run again when the lock of whoever was killed has ended."""
        for lock in self.nights.remote.glob(f"{JOURNAL}/publisher.lock"):
            os.utime(lock, (0, time.time() - 16 * 60))
        done = run(prepare, self.nights.repository)
        return done if done.status else super().mend()
