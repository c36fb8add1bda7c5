"""librsync through its C library: the reference engine, and the one that proves."""

from __future__ import annotations

from puavo_repository.delta.engine import ImageIndexer, Progress, Side, Sink, no_progress
from puavo_repository.errors import DeltaError


class LibrsyncEngine:
    """The rsync algorithm, as every client has it."""

    name = "librsync"
    threads = 1

    def indexer(self, size: int) -> ImageIndexer | None:  # noqa: ARG002
        """Return None: a signature is made for each delta."""
        return None

    def delta(
        self, source: Side, target: Side, sink: Sink, progress: Progress = no_progress
    ) -> None:
        """Write an rdiff from ``source`` to ``target`` into ``sink``."""
        raise DeltaError(target.path, "not built yet")
