"""The anchor engine: an rdiff in about the time of reading two images.

1. The anchors of the source are loaded, or found in one read of it, blocks side by side.
2. They are put into a table (``sparse``).
3. The target is read block by block, side by side: ``sparse`` finds copies by the table,
   ``dense`` looks into the gaps between them, ``encoding`` makes the commands.
4. The blocks' commands are joined in order and go to the sink.

The target's own anchors are not needed: it is searched only where nothing matches yet, faster
than a list of anchors could be read. A block's commands depend on nothing but the two images and
the effort, so neither does the rdiff: whatever the threads do, it has the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from puavo_repository.compiled import Bytes, Numbers, array
from puavo_repository.delta.anchors import (
    BLOCK,
    CELL,
    KEY,
    MOST,
    BlockAnchors,
    Collector,
    Finder,
    threshold,
)
from puavo_repository.delta.comparing import WINDOW
from puavo_repository.delta.dense import REGION, SLOTS, match_dense
from puavo_repository.delta.encoding import Joiner, encode, out_size
from puavo_repository.delta.engine import Image, ImageIndexer, Side, Sink
from puavo_repository.delta.index import Anchors, Indexer
from puavo_repository.delta.machine import buffer
from puavo_repository.delta.ordered_pool import OrderedPool
from puavo_repository.delta.sparse import HEAD, insert, match_sparse, most_anchors, table_for
from puavo_repository.errors import SettingsError
from puavo_repository.progress import Progress, no_progress

_COPIES = BLOCK // 64  # in a block at most; what more could be found stays literal


@dataclass(frozen=True)
class Effort:
    """How hard to search.

    Attributes:
        spacing: Bytes an anchor of the sparse level, on average.
        dense: Bytes an anchor of the dense level; 0 to do without that level.
    """

    spacing: int
    dense: int


EFFORTS = {"fast": Effort(512, 0), "default": Effort(512, 12), "small": Effort(256, 3)}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class AnchorEngine:
    """The engine of this project.

    Attributes:
        effort: One of ``EFFORTS``.
        threads: Cores one call to ``delta`` keeps busy.
        memory: Bytes that the anchors and the table of a source may take; larger images get
            fewer anchors.
    """

    effort: str = "default"
    threads: int = field(default_factory=_cores)
    memory: int = 256 << 20

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise SettingsError(
                "delta engine",
                f"the anchor engine knows no effort {self.effort!r}",
                expected=", ".join(EFFORTS),
            )

    @property
    def name(self) -> str:
        """Name that ``engine_named`` knows it by."""
        return "anchors" if self.effort == "default" else f"anchors:{self.effort}"

    def spacing(self, size: int) -> int:
        """Return the spacing of the anchors of an image of ``size`` bytes."""
        spacing = EFFORTS[self.effort].spacing
        while spacing * CELL < BLOCK and size // spacing > most_anchors(self.memory):
            spacing *= 2
        return spacing

    def indexer(self, size: int) -> ImageIndexer:
        """Return an indexer for an image of ``size`` bytes."""
        return Indexer(self.spacing(size), most_anchors(self.memory))

    def delta(
        self, source: Side, target: Side, sink: Sink, progress: Progress = no_progress
    ) -> None:
        """Write an rdiff that turns ``source`` into ``target`` into ``sink``."""
        with (
            Image.open(source.path) as basis,
            Image.open(target.path) as image,
            OrderedPool(self.threads) as pool,
        ):
            spacing = self.spacing(basis.size)
            found = Collector(spacing, most_anchors(self.memory))
            for block in _anchors(pool, source, basis, spacing, progress):
                found.add(block)
            table = _table(pool, found.blocks)
            _Search(basis, image, table, spacing, EFFORTS[self.effort]).write(pool, sink, progress)
            basis.check_unchanged()
            image.check_unchanged()


def _anchors(
    pool: OrderedPool, side: Side, image: Image, spacing: int, progress: Progress
) -> Iterator[BlockAnchors]:
    """Load the anchors of an image, or find them."""
    if side.anchors is not None:
        kept = Anchors.load(side.anchors, side.identity, image.size, spacing)
        if kept is not None:
            yield from kept.blocks
            return
    spare: SimpleQueue[tuple[Finder, Bytes]] = SimpleQueue()
    for _ in range(pool.width):
        spare.put((Finder(spacing), buffer(BLOCK)))

    def find(start: int) -> BlockAnchors:
        finder, data = spare.get()
        try:
            image.read(data[: image.size - start].data, start)
            return finder.find(data, start, image.size)
        finally:
            spare.put((finder, data))

    for block in pool.in_order(find, range(0, image.size - KEY + 1, BLOCK)):
        yield block
        progress(0)


def _table(pool: OrderedPool, blocks: list[BlockAnchors]) -> Numbers:
    """Put all anchors into a table."""
    table = table_for(sum(len(block.keys) for block in blocks))

    def fill(part: int) -> None:
        for block in blocks:
            insert(block.keys, block.offsets, block.first, table, part, pool.width)

    for _ in pool.in_order(fill, range(pool.width)):
        pass
    return table


class _Workspace:
    """What one thread needs to search and encode a block."""

    def __init__(self) -> None:
        self.data = buffer(HEAD + BLOCK)
        self.out = array(out_size(BLOCK, _COPIES), np.uint8)
        self.window = buffer(WINDOW)
        self.region = buffer(HEAD + REGION)
        self.chosen = array(MOST, np.int64)
        self.sparse = array((_COPIES, 3), np.int64)
        self.copies = array((_COPIES, 3), np.int64)
        self.slots = array(SLOTS, np.uint64)


@dataclass(frozen=True)
class _Block:
    """A block of the target, encoded.

    Attributes:
        workspace: Where the commands lie; free again when they are used up.
        size: Bytes of the target.
        first: The copy that it begins with, (position, length), or None.
        stop: Where the commands in ``workspace.out`` end.
        last: The copy that it ends with, or None.
    """

    workspace: _Workspace
    size: int
    first: tuple[int, int] | None
    stop: int
    last: tuple[int, int] | None


@dataclass(frozen=True)
class _Search:
    """The search of a target in a source."""

    source: Image
    target: Image
    table: Numbers
    spacing: int
    effort: Effort

    def write(self, pool: OrderedPool, sink: Sink, progress: Progress) -> None:
        """Write the whole rdiff."""
        spare: SimpleQueue[_Workspace] = SimpleQueue()
        for _ in range(pool.width + 1):
            spare.put(_Workspace())
        joiner = Joiner(sink)
        for block in pool.in_order(
            lambda start: self._block(spare.get(), start), range(0, self.target.size, BLOCK)
        ):
            if block.first is not None:
                joiner.copy(*block.first)
            joiner.commands(block.workspace.out, block.stop)
            if block.last is not None:
                joiner.copy(*block.last)
            spare.put(block.workspace)
            progress(block.size)
        joiner.end()

    def _block(self, scratch: _Workspace, start: int) -> _Block:
        size = min(BLOCK, self.target.size - start)
        self.target.read(scratch.data[HEAD : HEAD + size].data, start)
        copies = self._copies(scratch, size)
        begin, end = 0, size
        first = last = None
        if len(copies) and copies[0, 0] == 0:
            first, begin = (int(copies[0, 1]), int(copies[0, 2])), int(copies[0, 2])
            copies = copies[1:]
        if len(copies) and copies[-1, 0] + copies[-1, 2] == size:
            last, end = (int(copies[-1, 1]), int(copies[-1, 2])), int(copies[-1, 0])
            copies = copies[:-1]
        stop = encode(scratch.data[HEAD:], begin, end, copies, scratch.out)
        return _Block(scratch, size, first, stop, last)

    def _copies(self, scratch: _Workspace, size: int) -> Numbers:
        basis = self.source.descriptor, self.source.size, scratch.data, size
        anchors = self.table, CELL * self.spacing, threshold(self.spacing)
        count = match_sparse(*basis, *anchors, scratch.chosen, scratch.window, scratch.sparse)
        if count < 0:
            raise self.source.changed()
        sparse = scratch.sparse[:count]
        if not self.effort.dense:
            return sparse
        limit, tables = threshold(self.effort.dense), (scratch.slots, scratch.region)
        count = match_dense(*basis, sparse, limit, *tables, scratch.window, scratch.copies)
        if count < 0:
            raise self.source.changed()
        return scratch.copies[:count]
