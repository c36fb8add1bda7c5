"""How an rdiff is made and proven: the engines by their names; see ``engine`` for the interface."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from puavo_repository.delta.engine import DeltaEngine, Side, Sink
from puavo_repository.errors import SettingsError
from puavo_repository.progress import Progress, no_progress

if TYPE_CHECKING:
    from puavo_repository.delta.anchors import Anchors

ENGINES = ("anchors", "anchors:fast", "anchors:small", "librsync")


@dataclass(frozen=True)
class AnchorEngine:
    """The engine of this project: its settings. ``anchor_engine`` does its work, see there.

    That is compiled code, of which only the process that does the work has need.
    """

    name: str = "anchors"  # one of its ``EFFORTS``
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))  # of one ``delta``
    memory: int = 256 << 20  # bytes for the anchors of a source; larger images get fewer

    def indexer(self, size: int) -> Anchors:
        """Return what finds the anchors of an image of ``size`` bytes."""
        from puavo_repository.delta import anchor_engine

        return anchor_engine.anchors_of(self.name, self.memory, size)

    def delta(
        self, source: Side, target: Side, sink: Sink, progress: Progress = no_progress
    ) -> None:
        """Write an rdiff that turns ``source`` into ``target`` into ``sink``."""
        from puavo_repository.delta import anchor_engine

        anchor_engine.delta(self.name, self.threads, self.memory, source, target, sink, progress)


def engine_named(name: str, **limits: int) -> DeltaEngine:
    """Return the engine with a name; ``limits`` are fields of the anchor engine.

    Raises:
        SettingsError: There is none.
    """
    if name not in ENGINES:
        problem, expected = f"there is none called {name!r}", f"one of {', '.join(ENGINES)}"
        raise SettingsError("delta engine", problem, expected=expected)
    if name == "librsync":
        from puavo_repository.delta.librsync import LibrsyncEngine

        return LibrsyncEngine()
    return AnchorEngine(name, **limits)
