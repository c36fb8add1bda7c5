"""How much longer content takes that is made to slow a delta engine down; prints a table.

Usage: python tests/benchmarks/adversarial.py [MEGABYTES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from puavo_repository.delta import AnchorEngine
from puavo_repository.delta.anchor_engine import EFFORTS
from puavo_repository.delta.anchors import KEY_FACTORS
from puavo_repository.delta.engine import Side
from puavo_repository.delta.machine import SELECT_FACTORS


def hitting() -> int:
    """Return 8 bytes that are an anchor at any spacing."""
    return pow(SELECT_FACTORS[0], -1, 1 << 32)  # its hash is 1


def contents(size: int) -> dict[str, tuple[bytes, bytes]]:
    """Return pairs of source and target, by what is mean about them."""
    random = np.random.default_rng(1)
    a, b = random.bytes(size), random.bytes(size)
    unit, zeros = random.bytes(1 << 16), bytes(size)

    def scattered(length: int, period: int, seed: int) -> bytes:
        """Return random bytes in which the same few bytes come again in each period."""
        rows = np.frombuffer(np.random.default_rng(seed).bytes(size), np.uint8).copy()
        rows = rows[: size // period * period].reshape(-1, period)
        rows[:, :length] = np.frombuffer(unit[:length], np.uint8)
        return rows.tobytes()

    def edited(every: int) -> bytes:
        changed = np.frombuffer(a, np.uint8).copy()
        changed[::every] ^= 1
        return changed.tobytes()

    def shuffled(piece: int) -> bytes:
        rows = np.frombuffer(a, np.uint8)[: size // piece * piece].reshape(-1, piece)
        return np.random.default_rng(3).permutation(rows).tobytes()

    def colliding(seed: int) -> bytes:
        """Return 32-byte pieces, all different, that are anchors with one and the same key."""
        words = np.random.default_rng(seed).integers(0, 1 << 63, (size // 32, 4), np.uint64)
        words[:, 0] = hitting()
        rest = words[:, :3] * KEY_FACTORS[:3]
        inverse = np.uint64(pow(int(KEY_FACTORS[3]), -1, 1 << 64))
        words[:, 3] = (np.uint64(1) - rest.sum(axis=1, dtype=np.uint64)) * inverse
        return words.tobytes()

    found = {
        "random": (a, b),
        "colliding keys": (colliding(6), colliding(7)),
        "identical": (a, a),
        "all zeros": (zeros, zeros),
        "zeros against 0xff": (zeros, b"\xff" * size),
        "zeros, random at each 100 kB": (scattered(0, 100, 1), zeros),
        "every byte in 40 changed": (a, edited(40)),
        "every byte in 100 changed": (a, edited(100)),
        "every byte in 1000 changed": (a, edited(1000)),
        "2 kB pieces in another order": (a, shuffled(2048)),
        "100 B pieces in another order": (a, shuffled(100)),
        "the same 32 of 64 bytes": (scattered(32, 64, 4), scattered(32, 64, 5)),
        "the same 48 of 512 bytes": (scattered(48, 512, 4), scattered(48, 512, 5)),
        "the same 1000 of 2000 bytes": (scattered(1000, 2000, 4), scattered(1000, 2000, 5)),
    }
    for period in (2, 31, 32, 33, 63, 65, 4097, 65_535):
        repeated = (unit[:period] * (size // period + 1))[: size - 1]
        found[f"period {period}, shifted"] = (repeated, repeated[7:] + b"end")
    return found


def seconds(engine: AnchorEngine, source: Path, target: Path) -> tuple[float, int]:
    """Return the best of three times, and the size of the rdiff."""
    best, size = float("inf"), 0

    def count(block: memoryview) -> None:
        nonlocal size
        size += len(block)

    for _ in range(3):
        size, started = 0, time.perf_counter()
        engine.delta(Side(source), Side(target), count)
        best = min(best, time.perf_counter() - started)
    return best, size


def main(megabytes: int) -> None:
    """Measure all contents with all efforts."""
    print("| content | " + " | ".join(f"{e}: times random, MB" for e in EFFORTS) + " |")
    print("|---" * (len(EFFORTS) + 1) + "|")
    random: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        for name, (old, new) in contents(megabytes << 20).items():
            source.write_bytes(old)
            target.write_bytes(new)
            cells = []
            for effort in EFFORTS:
                took, size = seconds(AnchorEngine(effort), source, target)
                random.setdefault(effort, took)
                cells.append(f"{took / random[effort]:.1f}, {size / 1e6:.2f}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)
