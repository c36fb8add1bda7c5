"""What a delta engine is: two image files in, an rdiff as a stream of bytes out.

An engine never names or proves its output. The ``diff`` stage gives it a sink that writes and
digests in one pass (``work``), proves the result by applying it, and only then gives the file its
name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from puavo_repository.errors import ImageChangingError, as_storage_error
from puavo_repository.mirror.files import Identity
from puavo_repository.progress import Progress, no_progress

if TYPE_CHECKING:
    from puavo_repository.delta.index import Indexer  # compiled code, slow to load

Sink = Callable[[memoryview], None]
"""Takes the next bytes of the rdiff. They are used up when it returns, so that the caller may
reuse the buffer; blocks of some megabytes keep it off the critical path."""


def no_sink(_block: memoryview) -> None:
    """No-op sink."""


@dataclass(frozen=True)
class Side:
    """One side of a pair: an image, and where its index is kept if it has one."""

    path: Path
    anchors: Path | None = None  # a damaged, missing or foreign one is as good as none
    identity: str = ""  # of the image that it has to be saved for


@dataclass(frozen=True)
class Between:
    """An image between a source and a target, and rdiffs that lead over it.

    What an engine found for the one it need not search again for the other, where both images
    have the same content. It changes no byte of what it makes.
    """

    image: Side
    size: int  # bytes of the image
    first: Path  # rdiff from the source to it, made by the same engine: see its ``mark``
    second: Path  # rdiff from it to the target, whoever made that


class DeltaEngine(Protocol):
    """Makes rdiffs. An instance holds settings only and may be used by several threads."""

    @property
    def name(self) -> str:
        """Its name, as the settings have it."""

    @property
    def mark(self) -> str:
        """What tells that an rdiff between two images has just the bytes that it would make."""

    @property
    def threads(self) -> int:
        """Cores that one call to ``delta`` keeps busy."""

    def indexer(self, size: int) -> Indexer | None:
        """Return what takes an image of ``size`` bytes when it is digested; None if not needed."""

    def delta(
        self,
        source: Side,
        target: Side,
        sink: Sink,
        progress: Progress = no_progress,
        between: Between | None = None,
    ) -> None:
        """Write an rdiff that turns ``source`` into ``target`` into ``sink``.

        What is known of an image ``between`` saves work. ``progress`` is told of the bytes of the
        target in the calling thread.

        Raises:
            DeltaError: The engine cannot do it.
            ImageChangingError: A file changed while it was read.
        """


def identity_of(path: Path) -> Identity:
    """Return the identity of the image under a name, which may be a link to it."""
    with as_storage_error(path):
        return Identity.of(path.stat())


def check_at_rest(path: Path, wanted: Identity, found: Identity, since: str) -> None:
    """Raise an ``ImageChangingError`` unless an image is still the file that was looked at."""
    if found != wanted:
        raise ImageChangingError(
            path,
            f"this image changed {since}",
            expected=f"{wanted.size} bytes at rest",
            found=f"{found.size} bytes now",
            remedy="Run again when it is copied completely; best copy it under another name "
            "and rename it then",
        )
