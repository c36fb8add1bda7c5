"""What a delta engine is: two image files in, an rdiff as a stream of bytes out.

An engine never names or proves its output. The ``diff`` stage gives it a sink that writes and
digests in one pass (``work``), proves the result by applying it (``proof``), and only then gives
the file its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from puavo_repository.progress import Progress, no_progress

Sink = Callable[[memoryview], None]
"""Takes the next bytes of the rdiff. They are used up when it returns, so that the caller may
reuse the buffer; blocks of some megabytes keep it off the critical path."""


@dataclass(frozen=True)
class Side:
    """One side of a pair: an image, and where its anchors are kept if it has any.

    Anchors at ``anchors`` count only when they were saved for this ``identity``; damaged,
    missing or foreign ones are as good as none.
    """

    path: Path
    anchors: Path | None = None
    identity: str = ""


class ImageIndexer(Protocol):
    """Finds what an engine wants to know of one image, in the read that also digests it."""

    def update(self, block: memoryview) -> None:
        """Take the next bytes of the image, in order, blocks of any size."""

    def save(self, path: Path, identity: str) -> None:
        """Keep what was found at ``path`` (atomically), tied to the image's ``identity``."""


class DeltaEngine(Protocol):
    """Makes rdiffs. An instance holds settings only and may be used by several threads."""

    @property
    def name(self) -> str:
        """Its name, as ``engine_named`` takes it."""

    @property
    def threads(self) -> int:
        """Cores that one call to ``delta`` keeps busy."""

    def indexer(self, size: int) -> ImageIndexer | None:
        """Return an indexer for an image of ``size`` bytes, or None if none is needed."""

    def delta(
        self, source: Side, target: Side, sink: Sink, progress: Progress = no_progress
    ) -> None:
        """Write an rdiff that turns ``source`` into ``target`` into ``sink``.

        ``progress`` is told of the bytes of the target in the calling thread.

        Raises:
            DeltaError: The engine cannot do it.
            ImageChangingError: A file changed its size while it was read.
        """
