"""What every fault of the campaign has, and what it happens to.

Each fault is a class with the same three steps. ``strike`` lets it happen, ``mend`` runs again as
the next night would, and ``trees`` must then be as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from campaign.disturbed import Run, before, run
from campaign.nights import AT_ONCE, Nights, Watch, prepare, publish
from puavo_repository.remote.target import Target
from puavo_repository.settings.model import Model
from support.servers import Sshd, running

GRACE = Model(grace_days=3, max_delete=1.0, replace_pause=0.0, connections=2)


class Fault:
    """One kind of fault.

    Attributes:
        why_not: Why this machine cannot do it; empty where it can.
        patient: As ``Watch`` has it.
        again: How many faults at most before it is mended.
        ended: Whether it has happened in every way that there is.
    """

    patient = False
    again = 3
    ended = False

    def __init__(self, nights: Nights, watch: Watch, home: Path) -> None:
        self.nights = nights
        self.watch = watch
        self.chance = nights.chance
        self.log = home / "strace.log"

    @classmethod
    def why_not(cls) -> str:
        return ""

    @property
    def trees(self) -> list[Path]:
        return [self.nights.mirror]

    @property
    def step(self) -> Callable[..., Run]:
        """The run that is disturbed; takes the keywords of ``run``."""
        raise NotImplementedError

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Have what the fault needs for as long as the campaign of it lasts."""
        yield

    def looking(self) -> AbstractContextManager[None]:
        """Have the watch closed from the strike to the mending, where the tree itself is broken."""
        return nullcontext()

    def fall(self) -> None:
        """Let the night fall that the fault happens in."""
        self.nights.fall()

    def strike(self) -> Run:
        """Let it happen once."""
        raise NotImplementedError

    def mend(self) -> Run:
        """Run again, undisturbed."""
        return run(prepare, self.nights.repository)


class OfPrepare(Fault):
    """Happens while the mirror is prepared."""

    @property
    def step(self) -> Callable[..., Run]:
        return partial(run, prepare, self.nights.repository)


class OfPublish(Fault):
    """Happens while a mirror that is prepared is published into a folder."""

    removal = AT_ONCE

    @property
    def trees(self) -> list[Path]:
        return [self.nights.mirror, self.nights.remote]

    @property
    def target(self) -> Target:
        return Target(path=str(self.nights.remote))

    @property
    def step(self) -> Callable[..., Run]:
        return partial(run, publish, self.nights.mirror, self.target, self.removal)

    def fall(self) -> None:
        super().fall()
        before(prepare, self.nights.repository)

    def mend(self) -> Run:
        return run(publish, self.nights.mirror, self.target)


class OverSftp(OfPublish):
    """The same over a real ``sshd``."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        with running(Sshd(self.log.parent / "sshd")) as self.server:
            yield

    @property
    def target(self) -> Target:
        return self.server.target(self.nights.remote)
