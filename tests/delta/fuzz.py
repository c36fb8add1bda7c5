"""Random pairs for the anchor engine, each proven in three ways.

``python tests/delta/fuzz.py [PAIRS [FIRST_SEED]]`` runs many on all cores; the suite runs few.
A pair depends on its seed alone. Every array that compiled code writes to lies between guard pages:
a kernel that leaves its arrays ends the process.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO
from unittest import mock

from delta.guarded import guard_pages, in_child
from delta.pairs import keep
from puavo_repository.delta import AnchorEngine, anchor_engine, anchors, index, shared
from puavo_repository.delta.anchor_engine import EFFORTS
from puavo_repository.delta.engine import Between, DeltaEngine, Side
from puavo_repository.delta.work import prove
from puavo_repository.demo import make_demo_images
from puavo_repository.formats.rdiff import commands

_BLOCK = 1 << 15  # small blocks have many seams


@cache
def real_images() -> list[bytes]:
    """Return small real squashfs images."""
    with tempfile.TemporaryDirectory() as folder:
        return [path.read_bytes() for path in make_demo_images(Path(folder))]


def basis(noise: random.Random) -> bytes:
    """Return data of some kind: noise, a real image's, a period, a few bytes, or nothing."""
    size = noise.choice([0, 1, 31, 32, 33, 4095, 40_000, 200_000, 500_000])
    kind = noise.randrange(4)
    if kind == 0:
        image = noise.choice(real_images())
        start = noise.randrange(max(1, len(image) - size))
        return image[start : start + size]
    if kind == 1:
        period = noise.randbytes(noise.choice([1, 2, 31, 32, 33, 64, 4097]))
        return (period * (size // len(period) + 1))[:size]
    return noise.randbytes(size)


def with_holes(noise: random.Random, data: bytes) -> bytes:
    """Return data of which every n-th byte differs: the most copies that there can be."""
    changed = bytearray(data)
    step = noise.randint(17, 200)
    for at in range(noise.randrange(step), len(changed), step):
        changed[at] ^= 0x55
    return bytes(changed)


def edited(noise: random.Random, data: bytes) -> bytes:
    """Return data after some inserting, deleting, moving, repeating and flipping of bits."""
    result = bytearray(data)
    for _ in range(noise.choice([0, 1, 3, 10, 60])):
        at = noise.randint(0, len(result))
        length = noise.choice([1, 7, 15, 16, 17, 40, 600, 5000, 60_000])
        piece = bytes(result[at : at + length])
        kind = noise.randrange(5)
        if kind == 0:
            result[at:at] = noise.randbytes(length)
        elif kind == 1:
            del result[at : at + length]
        elif kind == 2:
            del result[at : at + length]
            to = noise.randint(0, len(result))
            result[to:to] = piece
        elif kind == 3:
            result[at:at] = piece * noise.randint(1, 3)
        elif piece:
            result[at] ^= 1 << noise.randrange(8)
    return bytes(result[:2_000_000])


def applied(rdiff: Path, source: bytes) -> bytes:
    """Apply an rdiff by what our own reader says of it."""
    data = rdiff.read_bytes()
    return b"".join(
        (source if command.is_copy else data)[command.position : command.position + command.length]
        for command in commands(rdiff)
    )


def check(seed: int) -> None:
    """Make and prove the rdiffs of a random pair, and of one that goes over its target."""
    os.write(2, b"seed %d\n" % seed)  # shown if the process ends with it
    noise = random.Random(seed)
    old = basis(noise)
    new = noise.choice([*[edited] * 7, with_holes, lambda *_: basis(noise)])(noise, old)
    newer = edited(noise, new)
    block = noise.choice([_BLOCK, anchors.BLOCK])
    shortest = noise.choice([anchor_engine._SHORTEST, 1000, block])  # copies may get few
    engine = AnchorEngine(noise.choice(list(EFFORTS)), threads=noise.choice([1, 2]))
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as place,
        mock.patch.object(anchors, "BLOCK", block),
        mock.patch.object(shared, "BLOCK", block),
        mock.patch.object(anchor_engine, "BLOCK", block),
        mock.patch.object(anchor_engine, "_SHORTEST", shortest),
        mock.patch.object(index, "_NEAR", noise.choice([index._NEAR, 2])),
    ):
        folder = Path(place)
        source, target, last = (folder / name for name in ("source", "target", "last"))
        for path, content in ((source, old), (target, new), (last, newer)):
            path.write_bytes(content)
        try:
            with guard_pages(at_end=noise.random() < 0.8):
                first, whole, second = (
                    make(engine, *both)
                    for both in ((source, target), (source, last), (target, last))
                )
                between = Between(kept(engine, target), len(new), first, second)
                shared_rdiff = make(engine, source, last, between)
            with guard_pages(at_end=True):
                prove(source, target, first)
            assert applied(first, old) == new
            assert first.stat().st_size <= len(new) + 6 * (len(new) // (block // 32) + 1) + 5
            assert applied(whole, old) == newer
            assert shared_rdiff.read_bytes() == whole.read_bytes()
        except Exception as error:
            raise AssertionError(f"the pair of seed {seed} fails") from error


def kept(engine: AnchorEngine, image: Path) -> Side:
    """Return an image with its index kept beside it."""
    place = image.with_suffix(".index")
    if not place.exists():
        content = image.read_bytes()
        keep(engine.indexer(len(content)), content, place, "fuzz")
    return Side(image, place, "fuzz")


def make(engine: DeltaEngine, source: Path, target: Path, between: Between | None = None) -> Path:
    """Make an rdiff, of which the target's index is kept and the source's is not."""
    rdiff = source.with_name(f"{source.name}-{target.name}{'-shared' if between else ''}")
    side = kept(engine, target) if isinstance(engine, AnchorEngine) else Side(target)
    with rdiff.open("wb") as stream:
        engine.delta(Side(source), side, partial(_write, stream), between=between)
    return rdiff


def _write(stream: BinaryIO, block: memoryview) -> None:
    stream.write(block)


def check_all(seeds: range) -> int:
    """Check some pairs in a process that may die of it; returns how many."""
    in_child(lambda: [check(seed) for seed in seeds])  # type: ignore[func-returns-value]
    return len(seeds)


def main(pairs: int, first: int) -> None:
    """Check many pairs on all cores."""
    real_images()  # made once, not in each child
    some = [range(at, min(at + 50, first + pairs)) for at in range(first, first + pairs, 50)]
    done = 0
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("fork")) as pool:
        for count in pool.map(check_all, some):
            done += count
            if done % 1000 == 0 or done == pairs:
                print(f"{done} of {pairs} pairs are sound", flush=True)


if __name__ == "__main__":
    chosen = [int(word) for word in sys.argv[1:]]
    main(*(chosen + [10_000, 1][len(chosen) :]))
