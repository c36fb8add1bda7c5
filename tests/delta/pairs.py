"""Pairs of files for the delta engines, and how an rdiff of them is made and judged."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from puavo_repository.compiled import Bytes
from puavo_repository.delta.anchors import BLOCK, find
from puavo_repository.delta.comparing import Content
from puavo_repository.delta.engine import DeltaEngine, Side
from puavo_repository.delta.index import Indexer
from puavo_repository.delta.machine import SLACK
from puavo_repository.formats.rdiff import Command, commands

Copy, Literal = partial(Command, True), partial(Command, False)


def noise(seed: int, size: int) -> bytes:
    """Return bytes without any pattern."""
    return np.random.default_rng(seed).bytes(size)


def in_memory(data: bytes) -> Bytes:
    """Return bytes with what can be read around them, from the first on."""
    return np.frombuffer(bytes(SLACK) + data + bytes(SLACK), np.uint8).copy()[SLACK:]


def content(memory: Bytes, *, chunks: bool = False) -> Content:
    """Return what ``in_memory`` made as kernels take it, with chunks or without any."""
    size = len(memory) - SLACK
    found = [find(memory[at:], at, size, 512) for at in range(0, size, BLOCK) if chunks]
    ends = np.concatenate([np.zeros(0, np.int64), *(block.ends for block in found)])
    digests = np.concatenate([np.zeros(0, np.uint64), *(block.digests for block in found)])
    return Content(memory.ctypes.data, size, ends, digests)


def keep(indexer: Indexer, data: bytes, path: Path, identity: str) -> Path:
    """Keep the index of an image at a path, as the fingerprint does."""
    memory = in_memory(data)
    for _ in range(0, len(data), BLOCK):
        indexer.next_block(memory, len(data))
    indexer.save(path, identity, len(data))
    return path


def ignore(_count: int) -> None:
    """Make a sink of a function that returns a count."""


@dataclass(frozen=True)
class Pair:
    """A source and a target in files of a folder of their own."""

    folder: Path
    source: bytes
    target: bytes

    def __post_init__(self) -> None:
        (self.folder / "source").write_bytes(self.source)
        (self.folder / "target").write_bytes(self.target)

    @property
    def sides(self) -> tuple[Side, Side]:
        return Side(self.folder / "source"), Side(self.folder / "target")

    @property
    def rdiff(self) -> Path:
        return self.folder / "rdiff"

    def make(self, engine: DeltaEngine) -> list[Command]:
        """Make the rdiff and check it."""
        with self.rdiff.open("wb") as stream:
            engine.delta(*self.sides, lambda block: ignore(stream.write(block)))
        return self.check()

    def check(self) -> list[Command]:
        """Demand that the real ``rdiff`` applies the rdiff; return its commands."""
        result = self.folder / "result"
        command = [
            "rdiff",
            "-f",
            "patch",
            str(self.folder / "source"),
            str(self.rdiff),
            str(result),
        ]
        subprocess.run(command, check=True, timeout=60)
        assert result.read_bytes() == self.target
        return list(commands(self.rdiff))

    @property
    def literal(self) -> int:
        """Bytes of the target that are in the rdiff itself."""
        return sum(c.length for c in commands(self.rdiff) if not c.is_copy)
