"""The anchor engine: an rdiff in about the time of reading two images.

1. The index of the source and the borders of the target's segments are loaded, or found in one
   read of each, blocks side by side.
2. What an earlier rdiff says of a segment is taken from there (``shared``).
3. The other segments are searched, side by side: ``match`` finds copies by the source's table,
   ``encode`` makes the commands.
4. The commands are joined in the order of the target and go to the sink.

The commands of a segment depend on nothing but its bytes, the source and the effort, so neither
does the rdiff: whatever the threads do, and whatever earlier rdiffs there are, it has the same
bytes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

import numpy as np

from puavo_repository.compiled import Numbers, array
from puavo_repository.delta import index, matching
from puavo_repository.delta.anchors import BLOCK, CELL, KEY, MOST, Found, find
from puavo_repository.delta.comparing import Both, Content
from puavo_repository.delta.engine import Between, Side, Sink
from puavo_repository.delta.image import Image
from puavo_repository.delta.index import Index, Indexer
from puavo_repository.delta.shared import Run, runs
from puavo_repository.formats.rdiff import Part, encode, joined, out_size
from puavo_repository.progress import Progress

T = TypeVar("T")

_SHORTEST = 64  # bytes of a segment for each copy; what more could be found stays literal
_ROWS = BLOCK // 32  # for the copies of a block, and the ends of its segments
# How hard to search: bytes an anchor on average, of the sparse and the dense level; 0: without.
EFFORTS = {"anchors:fast": (512, 0), "anchors": (512, 12), "anchors:small": (256, 3)}


def spacing_of(effort: str, memory: int, size: int) -> int:
    """Return the spacing of the anchors of an image of ``size`` bytes."""
    spacing, _ = EFFORTS[effort]
    while spacing * CELL < BLOCK and size // spacing > index.most_anchors(memory):
        spacing *= 2
    return spacing


def indexer_of(effort: str, memory: int, size: int) -> Indexer:
    """Return what makes the index of an image of ``size`` bytes."""
    return Indexer(spacing_of(effort, memory, size), index.most_anchors(memory))


def delta(
    effort: str, width: int, memory: int, source: Side, target: Side, sink: Sink,
    progress: Progress, between: Between | None,
) -> None:  # fmt: skip
    """Write an rdiff that turns ``source`` into ``target`` into ``sink``."""
    with (
        Image.open(source.path) as basis,
        Image.open(target.path) as image,
        Image.open(between.first) if between else nullcontext() as earlier,
        _Threads(width) as threads,
    ):
        known = partial(_index, threads, effort, memory, progress)
        of_source, of_target = known(source, basis, table=True), known(target, image)
        borders, chosen = index.segments(of_source, of_target)
        found: list[Run] = []
        if between and chosen and (other := _load(effort, memory, between.image, between.size)):
            theirs, chosen = index.segments(of_source, other)
            found = runs(between, theirs, borders) if chosen else []
        spacing, dense = spacing_of(effort, memory, basis.size), EFFORTS[effort][1]
        both = Both(_content(basis, of_source), _content(image, of_target))
        search = partial(_search, image, both, of_source.table, spacing, dense)

        def jobs() -> Iterator[Job[tuple[int, list[Part]]]]:
            done = 0
            for run in [*found, Run(len(borders), len(borders), 0, [])]:
                for start, ends in _together(borders, done, run.first):
                    yield partial(search, start, ends)
                if earlier is not None:
                    yield from (partial(_taken, earlier, part) for part in run.parts)
                yield lambda _scratch, size=run.size: (size, [])  # type: ignore[misc]
                done = run.stop

        def parts() -> Iterator[Part]:
            done = 0
            for size, some in threads.each(jobs()):
                yield from some
                basis.seen(size)
                done += size
                image.past(done)
                progress(size)

        for command in joined(parts()):
            sink(command)
        for one in (basis, image, earlier):
            if one is not None:
                one.check()


class _Workspace:
    """What is needed to search and encode a block."""

    def __init__(self) -> None:
        self.out = array(out_size(BLOCK, _ROWS), np.uint8)
        self.copies = array((_ROWS, 3), np.int64)
        rows = 1 + BLOCK // _SHORTEST
        self.scratch = (
            array(MOST, np.int64),
            array(matching.SLOTS, np.uint64),
            array((rows, 3), np.int64),
            array((rows, 3), np.int64),
        )


Job = Callable[[_Workspace], T]


class _Threads(ThreadPoolExecutor):
    """Threads for kernels, which drop the GIL, and workspaces for the blocks of an image."""

    def __init__(self, width: int) -> None:
        super().__init__(width, "delta")
        self.width = width
        self._workspaces = [_Workspace() for _ in range(width + 1)]

    def each(self, jobs: Iterable[Job[T]]) -> Iterator[T]:
        """Do jobs side by side, ahead by as many as there are workspaces.

        The results come in order. What they have in their workspace holds until the next one.
        """
        running: deque[Future[T]] = deque()
        for number, job in enumerate(jobs):
            if len(running) == len(self._workspaces):
                yield running.popleft().result()
            running.append(self.submit(job, self._workspaces[number % len(self._workspaces)]))
        while running:
            yield running.popleft().result()


def _load(effort: str, memory: int, side: Side, size: int, *, table: bool = False) -> Index | None:
    """Load the kept index of an image, if it has one."""
    if side.anchors is None:
        return None
    spacing = spacing_of(effort, memory, size)
    return index.load(side.anchors, side.identity, size, spacing, table=table)


def _index(
    threads: _Threads, effort: str, memory: int, progress: Progress, side: Side, image: Image,
    *, table: bool = False,
) -> Index:  # fmt: skip
    """Load the index of an image, or make it."""
    if kept := _load(effort, memory, side, image.size, table=table):
        return kept
    anchors = indexer_of(effort, memory, image.size)

    def found(start: int, _scratch: _Workspace) -> Found:
        return find(image.data[start:], start, image.size, anchors.spacing)

    starts = range(0, image.size - KEY + 1, BLOCK)
    for number, block in enumerate(threads.each(partial(found, start) for start in starts)):
        anchors.add(block)
        image.past(number * BLOCK)
        progress(0)
    return index.index_of(anchors, image.size, threads.map, table=table)


def _together(borders: Numbers, first: int, stop: int) -> Iterator[tuple[int, Numbers]]:
    """Yield where segments begin that are searched together, and where each ends from there."""
    while first < stop:
        start = int(borders[first - 1]) if first else 0
        after = int(np.searchsorted(borders[:stop], start + BLOCK, "right"))
        yield start, borders[first:after] - start
        first = after


def _content(image: Image, known: Index) -> Content:
    return Content(image.address, image.size, known.ends, known.digests)


def _search(
    target: Image, both: Both, table: Numbers, spacing: int, dense: int, start: int,
    ends: Numbers, scratch: _Workspace,
) -> tuple[int, list[Part]]:  # fmt: skip
    """Find and encode the copies of segments of the target; returns their size and their parts.

    A copy that they begin or end with is a part of its own: it may go on before or behind.
    """
    size = int(ends[-1])
    given = both, start, ends, table, spacing, dense, _SHORTEST
    count = matching.match(*given, scratch.scratch, scratch.copies)
    copies = scratch.copies[:count]
    begin, end = 0, size
    first: list[Part] = []
    last: list[Part] = []
    if copies[0, 0] == 0:
        first, begin = [(int(copies[0, 1]), int(copies[0, 2]))], int(copies[0, 2])
        copies = copies[1:]
    if len(copies) and copies[-1, 0] + copies[-1, 2] == size and copies[-1, 2]:
        last, end = [(int(copies[-1, 1]), int(copies[-1, 2]))], int(copies[-1, 0])
        copies = copies[:-1]
    length = encode(target.data[start:], begin, end, copies, scratch.out)
    return size, [*first, *([scratch.out[:length].data] if length else []), *last]


def _taken(
    rdiff: Image, part: range | tuple[int, int], scratch: _Workspace
) -> tuple[int, list[Part]]:
    """Return a part of an earlier rdiff: a copy, or commands that lie in a range of it."""
    if isinstance(part, tuple):
        return 0, [part]
    out = scratch.out[: len(part)]
    out[:] = rdiff.data[part.start : part.stop]
    return 0, [out.data]
