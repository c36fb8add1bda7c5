"""Programs and the engine, each measured in a process of its own.

``python measuring.py`` is that process for the engine: JSON of an order in, JSON of figures out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLING = 0.01  # seconds between two looks at the memory


@dataclass(frozen=True)
class Figures:
    """What one run took.

    Attributes:
        seconds: Wall-clock time.
        memory: Most anonymous memory at a time in bytes, of all its processes.
        size: Bytes of what it made.
        proof: Seconds of the proof, 0 where there was none.
    """

    seconds: float
    memory: int
    size: int = 0
    proof: float = 0.0

    def __add__(self, other: Figures) -> Figures:
        """One run after the other."""
        return Figures(
            self.seconds + other.seconds,
            max(self.memory, other.memory),
            self.size + other.size,
            self.proof + other.proof,
        )


def anonymous(process: int) -> int:
    """Return the bytes of anonymous memory of a process, 0 when it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(x.split()[1]) << 10 for x in status.splitlines() if "RssAnon" in x), 0)


class MemoryWatch:
    """Looks at the anonymous memory of a process while a block runs."""

    def __init__(self, process: int) -> None:
        self.most = 0
        self._process = process
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLING):
            self.most = max(self.most, anonymous(self._process))


def program(command: Sequence[str | Path], **environment: str) -> Figures:
    """Run a program to its end."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )
    with MemoryWatch(process.pid) as memory:
        status = process.wait()
    seconds = time.perf_counter() - started
    if status:
        raise subprocess.CalledProcessError(status, process.args)
    return Figures(seconds, memory.most)


def engine(
    name: str, source: Path, target: Path, out: Path, anchors: Path | None = None, *, prove: bool
) -> Figures:
    """Make an rdiff with an engine; with ``anchors``, those of the source are kept there."""
    order = [name, str(source), str(target), str(out), str(anchors or ""), prove]
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(order), capture_output=True, check=True,
        text=True,
    )  # fmt: skip
    return Figures(**json.loads(done.stdout))


def _serve() -> None:
    from puavo_repository.delta import engine_named, work
    from puavo_repository.delta.engine import Side

    name, source, target, out, anchors, prove = json.load(sys.stdin)
    made = engine_named(name)
    paths = Path(source), Path(target), Path(out)
    kept = Path(anchors) if anchors else None
    if kept is not None and not kept.exists():
        indexer = made.indexer(paths[0].stat().st_size)
        if indexer is not None:
            with paths[0].open("rb") as image:
                while block := image.read(4 << 20):
                    indexer.update(memoryview(block))
            indexer.save(kept, "benchmark", paths[0].stat().st_size)
    size = 0
    small = Side(Path(__file__))  # compiles, or loads what was compiled
    made.delta(small, small, lambda _: None)
    with paths[2].open("wb", buffering=0) as stream, MemoryWatch(os.getpid()) as memory:

        def sink(block: memoryview) -> None:
            nonlocal size
            size += stream.write(block)

        started = time.perf_counter()
        made.delta(Side(paths[0], kept, "benchmark"), Side(paths[1]), sink)
        seconds = time.perf_counter() - started
    started = time.perf_counter()
    if prove:
        work.prove(*paths)
    proving = time.perf_counter() - started if prove else 0.0
    print(json.dumps({"seconds": seconds, "memory": memory.most, "size": size, "proof": proving}))


if __name__ == "__main__":
    _serve()
