"""Programs and the engine, each measured in a process of its own, and the machine they run on.

``python measuring.py`` is that process for the engine: JSON of an order in, JSON of figures out.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from puavo_repository.delta.engine import DeltaEngine, Side

_PROBE = 256 << 20  # bytes
_SAMPLING = 0.01  # seconds between two looks at the memory


@dataclass(frozen=True)
class Figures:
    """What one run took.

    Attributes:
        seconds: Wall-clock time.
        memory: Most anonymous memory at a time in bytes, of all its processes together.
        size: Bytes of what it made.
        proof: Seconds of the proof, 0 where there was none.
        made: How many rdiffs it made, where that was counted.
    """

    seconds: float
    memory: int
    size: int = 0
    proof: float = 0.0
    made: int = 0

    def __add__(self, other: Figures) -> Figures:
        """One run after the other."""
        return Figures(
            self.seconds + other.seconds,
            max(self.memory, other.memory),
            self.size + other.size,
            self.proof + other.proof,
            self.made + other.made,
        )


@dataclass(frozen=True)
class Machine:
    """What this machine can do, measured now: bytes a second of one core, but for ``cores``."""

    cores: int
    sha512: float
    sha256: float
    cksum: float
    copy: float  # from a file in the page cache

    @classmethod
    def measured(cls, image: Path) -> Machine:
        """Measure it with the first bytes of a file that is in the page cache."""
        from puavo_repository.cores import cores
        from puavo_repository.formats.cksum import PosixCksum

        block = bytearray(min(_PROBE, image.stat().st_size))
        PosixCksum().update(memoryview(block))  # compiled, or loaded
        with image.open("rb", buffering=0) as stream:
            copy = _rate(lambda: stream.seek(0) or stream.readinto(block), len(block))

        def rate(update: Callable[[memoryview], object]) -> float:
            return _rate(lambda: update(memoryview(block)), len(block))

        sha512, sha256 = rate(hashlib.sha512().update), rate(hashlib.sha256().update)
        return cls(cores(), sha512, sha256, rate(PosixCksum().update), copy)

    def limit(self, digested: int, copied: int) -> float:
        """Return the seconds that all cores take for the digests of bytes, and for copying some."""
        digests = digested * (1 / self.sha512 + 1 / self.sha256 + 1 / self.cksum)
        return (digests + copied / self.copy) / self.cores

    def __str__(self) -> str:
        """Say it in one line."""
        rates = {name: getattr(self, name) for name in ("sha512", "sha256", "cksum", "copy")}
        told = ", ".join(f"{name} {rate / 1e9:.2f} GB/s" for name, rate in rates.items())
        return f"{self.cores} cores; of each: {told}"


def _rate(work: Callable[[], object], size: int) -> float:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return size / min(times)


def used_by_others(seconds: float = 1.0) -> float:
    """Return how many cores are busy while this process only waits."""
    tick, before = os.sysconf("SC_CLK_TCK"), _busy()
    time.sleep(seconds)
    return (_busy() - before) / tick / seconds


def _busy() -> int:
    user, nice, system, _idle, _waiting, *interrupts = (
        int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return user + nice + system + sum(interrupts)


def anonymous(process: int) -> int:
    """Return the bytes of anonymous memory of a process and all below it, 0 when it is gone.

    What a fork shares with its parent counts for both.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
        threads = Path(f"/proc/{process}/task").iterdir()
        below = [int(n) for one in threads for n in (one / "children").read_text().split()]
    except OSError:
        return 0
    own = next((int(x.split()[1]) << 10 for x in status.splitlines() if "RssAnon" in x), 0)
    return own + sum(map(anonymous, below))


class MemoryWatch:
    """Looks at the anonymous memory of a process and those below it while a block runs."""

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


def our_job(images: list[Path], folder: Path, **settings: str) -> Figures:
    """Run the project's own command on a mirror below a folder, with images that are added."""
    image_dir, mirror, puavo_os = (folder / name for name in ("images", "mirror", "puavo-os"))
    for path in (image_dir, puavo_os / "config" / "images"):
        path.mkdir(parents=True, exist_ok=True)
    for image in images:
        os.link(image, image_dir / image.name)
    made = program(
        [sys.executable, "-m", "puavo_repository.cli", image_dir, mirror],
        PUAVO_REPOSITORY_PUAVO_OS=str(puavo_os),
        **settings,
    )
    size = sum(path.stat().st_size for path in (mirror / "rdiffs").iterdir())
    return Figures(made.seconds, made.memory, size)


def engine(
    name: str, source: Path, target: Path, out: Path, anchors: Path | None = None, *, prove: bool
) -> Figures:
    """Make an rdiff with an engine; the indexes of both are kept in the folder ``anchors``."""
    order = [name, str(source), str(target), str(out), str(anchors or ""), prove]
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(order), capture_output=True, check=True,
        text=True,
    )  # fmt: skip
    return Figures(**json.loads(done.stdout))


def _serve() -> None:
    from puavo_repository.delta import AnchorEngine, work
    from puavo_repository.delta.engine import Side
    from puavo_repository.delta.librsync import LibrsyncEngine

    name, *files, anchors, prove = json.load(sys.stdin)
    made = LibrsyncEngine() if name == "librsync" else AnchorEngine(name)
    paths = [Path(file) for file in files]
    source, target = (
        _side(made, path, Path(anchors)) if anchors else Side(path) for path in paths[:2]
    )
    size = 0
    small = Side(Path(__file__))  # compiles, or loads what was compiled
    made.delta(small, small, lambda _: None)
    with paths[2].open("wb", buffering=0) as stream, MemoryWatch(os.getpid()) as memory:

        def sink(block: memoryview) -> None:
            nonlocal size
            size += stream.write(block)

        started = time.perf_counter()
        made.delta(source, target, sink)
        seconds = time.perf_counter() - started
    started = time.perf_counter()
    if prove:
        work.prove(paths[0], paths[1], paths[2])
    proving = time.perf_counter() - started if prove else 0.0
    print(json.dumps({"seconds": seconds, "memory": memory.most, "size": size, "proof": proving}))


def _side(engine: DeltaEngine, image: Path, folder: Path) -> Side:
    """Return an image with its index, which is kept in a folder as a fingerprint does it."""
    from puavo_repository.delta.anchors import BLOCK
    from puavo_repository.delta.engine import Side
    from puavo_repository.delta.image import Image

    size, place = image.stat().st_size, folder / f"{image.name}.{engine.name}"
    if not place.exists() and (indexer := engine.indexer(size)):
        with Image.open(image) as opened:
            for _ in range(0, size, BLOCK):
                indexer.next_block(opened.data, size)
        indexer.save(place, "benchmark", size)
    return Side(image, place, "benchmark")


if __name__ == "__main__":
    _serve()
