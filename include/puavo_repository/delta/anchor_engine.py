"""The anchor engine: an rdiff in about the time of reading two images.

1. The anchors of the source are loaded, or found in one read of it, blocks side by side.
2. They are put into a table (``insert``).
3. The target is read block by block, side by side: ``match_sparse`` finds copies by the table,
   ``match_dense`` looks into the gaps between them, ``encode`` makes the commands.
4. The blocks' commands are joined in order and go to the sink.

The target's own anchors are not needed: it is searched only where nothing matches yet, faster
than a list of anchors could be read. A block's commands depend on nothing but the two images and
the effort, so neither does the rdiff: whatever the threads do, it has the same bytes.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from puavo_repository.compiled import Numbers, array
from puavo_repository.delta import matching
from puavo_repository.delta.anchors import BLOCK, CELL, KEY, MOST, Anchors, BlockAnchors, find, load
from puavo_repository.delta.engine import Image, Side, Sink
from puavo_repository.delta.machine import WINDOW, Basis, buffer
from puavo_repository.delta.matching import HEAD
from puavo_repository.formats.rdiff import Part, encode, joined, out_size
from puavo_repository.progress import Progress

T = TypeVar("T")

_COPIES = BLOCK // 64  # in a block at most; what more could be found stays literal
# How hard to search: bytes an anchor on average, of the sparse and the dense level; 0: without.
EFFORTS = {"anchors:fast": (512, 0), "anchors": (512, 12), "anchors:small": (256, 3)}


def spacing_of(effort: str, memory: int, size: int) -> int:
    """Return the spacing of the anchors of an image of ``size`` bytes."""
    spacing, _ = EFFORTS[effort]
    while spacing * CELL < BLOCK and size // spacing > matching.most_anchors(memory):
        spacing *= 2
    return spacing


def anchors_of(effort: str, memory: int, size: int) -> Anchors:
    """Return what finds the anchors of an image of ``size`` bytes."""
    return Anchors(spacing_of(effort, memory, size), matching.most_anchors(memory))


def delta(
    effort: str, width: int, memory: int, source: Side, target: Side, sink: Sink, progress: Progress
) -> None:
    """Write an rdiff that turns ``source`` into ``target`` into ``sink``."""
    with (
        Image.open(source.path) as basis,
        Image.open(target.path) as image,
        _Threads(width) as threads,
    ):
        spacing = spacing_of(effort, memory, basis.size)
        anchors = anchors_of(effort, memory, basis.size)
        for block in _anchors(threads, source, basis, spacing, progress):
            anchors.add(block)
        table = matching.table_for(anchors.count)

        def fill(part: int) -> None:
            for block in anchors.blocks:
                matching.insert(*block, table, part, width)

        list(threads.map(fill, range(width)))
        match = partial(_match, basis, image, table, spacing, EFFORTS[effort][1])

        def parts() -> Iterator[Part]:
            for size, parts in threads.blocks(match, image.size):
                yield from parts
                progress(size)

        for command in joined(parts()):
            sink(command)
        basis.check_unchanged()
        image.check_unchanged()


class _Workspace:
    """What is needed to search and encode a block."""

    def __init__(self) -> None:
        self.data = buffer(HEAD + BLOCK)
        self.out = array(out_size(BLOCK, _COPIES), np.uint8)
        self.window = buffer(WINDOW)
        self.region = buffer(HEAD + matching.REGION)
        self.chosen = array(MOST, np.int64)
        self.sparse = array((_COPIES, 3), np.int64)
        self.copies = array((_COPIES, 3), np.int64)
        self.slots = array(matching.SLOTS, np.uint64)


class _Threads(ThreadPoolExecutor):
    """Threads for kernels, which drop the GIL, and workspaces for the blocks of an image."""

    def __init__(self, width: int) -> None:
        super().__init__(width, "delta")
        self._workspaces = [_Workspace() for _ in range(width + 1)]

    def blocks(self, work: Callable[[_Workspace, int], T], size: int) -> Iterator[T]:
        """Do some work on each block of an image, ahead by as many as there are workspaces.

        The results come in order. What they have in their workspace holds until the next one.
        """
        running: deque[Future[T]] = deque()
        for number, start in enumerate(range(0, size, BLOCK)):
            if len(running) == len(self._workspaces):
                yield running.popleft().result()
            workspace = self._workspaces[number % len(self._workspaces)]
            running.append(self.submit(work, workspace, start))
        while running:
            yield running.popleft().result()


def _anchors(
    threads: _Threads, side: Side, image: Image, spacing: int, progress: Progress
) -> Iterator[BlockAnchors]:
    """Load the anchors of an image, or find them."""
    if side.anchors and (kept := load(side.anchors, side.identity, image.size, spacing)):
        yield from kept
        return

    def found(scratch: _Workspace, start: int) -> BlockAnchors:
        image.read(scratch.data[: image.size - start].data, start)
        return find(scratch.data, start, image.size, spacing)

    for block in threads.blocks(found, image.size - KEY + 1):
        yield block
        progress(0)


def _match(
    source: Image, target: Image, table: Numbers, spacing: int, dense: int, scratch: _Workspace,
    start: int,
) -> tuple[int, list[Part]]:  # fmt: skip
    """Find and encode the copies of a block of the target; returns its size and its parts.

    A copy that it begins or ends with is a part of its own: it may go on in the next block.
    """
    size = min(BLOCK, target.size - start)
    target.read(scratch.data[HEAD : HEAD + size].data, start)
    buffers = scratch.window.ctypes.data, scratch.region.ctypes.data + HEAD
    basis = Basis(source.descriptor, source.size, *buffers)
    block = basis, scratch.data.ctypes.data + HEAD, size
    found = scratch.sparse
    count = matching.match_sparse(*block, table, spacing, scratch.chosen, found)
    if count >= 0 and dense:
        sparse, found = found[:count], scratch.copies
        count = matching.match_dense(*block, sparse, dense, scratch.slots, found)
    if count < 0:
        raise source.changed()
    copies = found[:count]
    begin, end = 0, size
    first: list[Part] = []
    last: list[Part] = []
    if len(copies) and copies[0, 0] == 0:
        first, begin = [(int(copies[0, 1]), int(copies[0, 2]))], int(copies[0, 2])
        copies = copies[1:]
    if len(copies) and copies[-1, 0] + copies[-1, 2] == size:
        last, end = [(int(copies[-1, 1]), int(copies[-1, 2]))], int(copies[-1, 0])
        copies = copies[:-1]
    length = encode(scratch.data[HEAD:], begin, end, copies, scratch.out)
    return size, [*first, *([scratch.out[:length].data] if length else []), *last]
