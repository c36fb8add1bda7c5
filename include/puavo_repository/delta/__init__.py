"""How an rdiff is made and proven: the engines by their names; see ``engine`` for the interface."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from puavo_repository.delta.engine import Between, Side, Sink
from puavo_repository.progress import Progress, no_progress

if TYPE_CHECKING:
    from puavo_repository.delta.index import Indexer

ENGINES = ("anchors", "anchors:fast", "anchors:small", "librsync")

_VERSION = 2  # of the rules by which images give an rdiff: counts what changes its bytes


@dataclass(frozen=True)
class AnchorEngine:
    """The engine of this project: its settings. ``anchor_engine`` does its work, see there.

    That is compiled code, of which only the process that does the work has need.
    """

    name: str = "anchors"  # one of its ``EFFORTS``
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))  # of one ``delta``
    memory: int = 256 << 20  # bytes for the anchors of a source; larger images get fewer

    @property
    def mark(self) -> str:
        """Return what tells that an rdiff has just the bytes that this engine would make."""
        return f"{self.name} {_VERSION}, {self.memory >> 20} MB"

    def indexer(self, size: int) -> Indexer:
        """Return what makes the index of an image of ``size`` bytes."""
        from puavo_repository.delta import anchor_engine

        return anchor_engine.indexer_of(self.name, self.memory, size)

    def delta(
        self,
        source: Side,
        target: Side,
        sink: Sink,
        progress: Progress = no_progress,
        between: Between | None = None,
    ) -> None:
        """Write an rdiff that turns ``source`` into ``target`` into ``sink``."""
        from puavo_repository.delta import anchor_engine

        given = self.name, self.threads, self.memory, source, target, sink, progress, between
        anchor_engine.delta(*given)
