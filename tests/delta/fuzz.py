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
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

from delta.guarded import guard_pages, in_child
from puavo_repository.delta import AnchorEngine, anchor_engine, anchors
from puavo_repository.delta.anchor_engine import EFFORTS
from puavo_repository.delta.engine import Side
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
    """Make and prove the rdiff of one random pair."""
    os.write(2, b"seed %d\n" % seed)  # shown if the process ends with it
    noise = random.Random(seed)
    old = basis(noise)
    new = noise.choice([*[edited] * 7, with_holes, lambda *_: basis(noise)])(noise, old)
    block = noise.choice([_BLOCK, anchors.BLOCK])
    copies = noise.choice([1, 30, block // 64, anchor_engine._COPIES])  # rows that may get full
    engine = AnchorEngine(noise.choice(list(EFFORTS)), threads=noise.choice([1, 2]))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        source, target, rdiff = (Path(folder, name) for name in ("source", "target", "rdiff"))
        source.write_bytes(old)
        target.write_bytes(new)
        with (
            rdiff.open("wb") as stream,
            mock.patch.object(anchors, "BLOCK", block),
            mock.patch.object(anchor_engine, "BLOCK", block),
            mock.patch.object(anchor_engine, "_COPIES", copies),
            guard_pages(at_end=noise.random() < 0.8),
        ):
            engine.delta(Side(source), Side(target), lambda data: _ignore(stream.write(data)))
        try:
            with guard_pages(at_end=True):
                prove(source, target, rdiff)
            assert applied(rdiff, old) == new
            assert rdiff.stat().st_size <= len(new) + 6 * (len(new) // block + 1) + 5
        except Exception as error:
            raise AssertionError(f"the pair of seed {seed} fails") from error


def _ignore(_count: int) -> None:
    """Make a sink of a function that returns a count."""


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
