"""Steps that others come between: cleared tasks, rollbacks, publishers that take over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

from campaign.disturbed import PATIENCE, STEPS, Kill, Run, before, run
from campaign.faults.fault import GRACE, OfPublish
from campaign.nights import (
    one_step,
    one_task,
    prepare,
    publish,
    publish_after_all,
    step_back,
    told,
)
from puavo_repository.remote import lock as publisher_lock
from support.mirrors import documents

TODAY = ("prepare", "upload", "switch", "clean")
# A server cannot look at the lock and rename in one step: who falls asleep between the two has one
# write left. Everything before that must be safe.
SAFE = tuple(step for step in STEPS if step not in {"rename", "replace", "unlink", "rmdir"})


class Between(OfPublish):
    """Something comes between the steps of a night, each of which is a process of its own."""

    again = 1

    def fall(self) -> None:
        """A night that can be taken back is published, and the next one falls.

        Nothing comes under another's name, and nothing goes before its grace.
        """
        self._taken: set[tuple[str, str]] = set()
        self._wrong: list[str] = []
        for _ in range(1 if self.nights.remote.joinpath("CKSUMS").exists() else 2):
            self._next()
            before(prepare, self.nights.repository)
            before(publish, self.nights.mirror, self.target, GRACE)
        self._next()

    def _next(self) -> None:
        self.nights.turn()

    def strike(self) -> Run:
        done, struck = [], False
        for step in TODAY:
            if self.chance.random() < 0.6:
                struck = True
                done.append(self.between())
            done.append(self.today(step))
            back = told(self.nights.remote) & self._taken
            if back:
                self._wrong.append(f"Traceback: after {step} clients see again: {sorted(back)}")
            if done[-1].status and not self._taken:
                self._wrong.append(f"Traceback: {step} of today ended with {done[-1]}")
        unexpected = "".join([*(each.unexpected for each in done), *self._wrong])
        return Run(0, struck, unexpected=unexpected)

    def between(self) -> Run:
        """Let it happen."""
        raise NotImplementedError

    def today(self, step: str) -> Run:
        """Do a step of today."""
        if step == "prepare":
            return run(prepare, self.nights.repository)
        return run(one_step, self.nights.mirror, self.target, step, GRACE)

    def roll_back(self) -> Run:
        """Roll back; who asks once more gets the same."""
        before = told(self.nights.remote)
        done = run(step_back, self.nights.mirror, self.target)
        after = told(self.nights.remote)
        self._taken |= before - after
        if done.status == 0 and self.chance.random() < 0.5:
            done = run(step_back, self.nights.mirror, self.target)
            if told(self.nights.remote) != after:
                self._wrong.append("Traceback: a rollback that was repeated went further")
        return done

    def mend(self) -> Run:
        """Run again; the night was good after all."""
        done = run(prepare, self.nights.repository)
        with self.watch.closed():
            last = run(publish_after_all, self.nights.mirror, self.target)
        return done if done.status else last


class StaleTask(Between):
    """A task of an earlier night is cleared, and does what it was once mapped to."""

    def fall(self) -> None:
        names = [path.name for path in self.nights.series()]
        super().fall()
        self._images = [*names, self.nights.series()[-1].name]

    def between(self) -> Run:
        stage = self.chance.choice(("fingerprint", "diff", "describe", *TODAY[1:], "roll_back"))
        if stage == "roll_back":
            return self.roll_back()
        if stage in TODAY:
            if not self.nights.mirror.joinpath("CKSUMS").exists():
                return Run(0)  # there was no earlier night
            return self.today(stage)
        names = self.chance.sample(
            self._images, {"fingerprint": 1, "diff": 2, "describe": 3}[stage]
        )
        return run(one_task, self.nights.repository, stage, *names)


class RollbackBetween(Between):
    """A rollback, from another process."""

    def between(self) -> Run:
        return self.roll_back()


class LockStolen(OfPublish):
    """A publisher sleeps for so long that another one, or a rollback, takes over; it wakes then."""

    again = 2
    _usual = 60  # steps of a run

    @property
    def step(self) -> Callable[..., Run]:
        return partial(super().step, disturbance=self._sleep())

    removal = GRACE

    def _sleep(self) -> Kill:
        return Kill(self.chance.randint(1, self._usual), signal.SIGSTOP, SAFE)

    def fall(self) -> None:
        """Nothing comes under another's name: what was replaced cannot be put back."""
        self.nights.turn()
        before(prepare, self.nights.repository)

    def strike(self) -> Run:
        self._wrong = ""
        done = self.step(meanwhile=self._meanwhile)
        if done.steps:
            self._usual = max(10, done.steps)
        elif self._stolen and documents(self.nights.remote) != self._left:
            self._wrong += "Traceback: who had lost the lock told clients something"
        return Run(done.status, self._stolen, unexpected=done.unexpected + self._wrong)

    def _meanwhile(self, process: BaseProcess) -> bool:
        self._stolen, asleep = False, _falls_asleep(process)
        if not asleep:
            return False
        lock = self.nights.remote / publisher_lock.PATH
        try:
            if lock.exists():
                long_ago = time.time() - publisher_lock.EXPIRY - 60
                os.utime(lock, (long_ago, long_ago))
                mine = (self.nights.mirror, self.target)
                thief = run(step_back, *mine) if self.chance.random() < 0.5 else super().step()
                self._stolen = thief.status == 0
                self._wrong += thief.unexpected
                self._left = documents(self.nights.remote)
        finally:
            os.kill(process.pid or 0, signal.SIGCONT)
        return self._stolen

    def mend(self) -> Run:
        with self.watch.closed():
            return run(publish_after_all, self.nights.mirror, self.target)


def _falls_asleep(process: BaseProcess) -> bool:
    """Wait until a process is stopped; False if it ends before."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.is_alive():
        with suppress(FileNotFoundError):  # it ended just now
            said = Path(f"/proc/{process.pid}/stat").read_text()
            if said.rpartition(")")[2].split()[0] == "T":
                return True
        time.sleep(0.005)
    return False
