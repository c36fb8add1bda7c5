"""Crash points, all of them: killed before the first step that changes a file system, before the
second one, and so on to the last.
"""

from __future__ import annotations

from typing import ClassVar

from campaign.disturbed import Kill, Run, before
from campaign.faults.broken_off import KillRollback
from campaign.faults.fault import Fault, OfPrepare, OfPublish
from campaign.nights import prepare


class EachStep(Fault):
    """Nights of one kind, each killed a step later than the one before.

    Attributes:
        stride: How many steps later.
    """

    again = 1
    stride: ClassVar[int] = 1
    _next = 1

    def strike(self) -> Run:
        done = self.step(disturbance=Kill(self._next))
        self._next += self.stride
        self.ended = not done.struck
        return done

    def one_night(self) -> None:
        """Let an image come, one go and one be replaced; a series ends and another begins."""
        self.nights.turn()
        self.nights.replace(self.nights.series()[1].name)


class EachStepOfPrepare(EachStep, OfPrepare):
    def fall(self) -> None:
        self.one_night()


class EachStepOfPublish(EachStep, OfPublish):
    """Upload, switch and clean."""

    def fall(self) -> None:
        self.one_night()
        before(prepare, self.nights.repository)


class EachStepOfRollback(EachStep, KillRollback):
    pass
