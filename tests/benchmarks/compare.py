"""Our rdiffs against rdiff's, our whole run against the old job's: prints one Markdown table.

Usage, with include and tests in PYTHONPATH:
python -m benchmarks.compare IMAGE_DIR [--repeat N] [--part pair|prepare|night|growth] [--work DIR]

Both sides of a ratio are measured in turns in the same run; of repeated runs the best counts, on
both sides. Images are read from the disk before, so that the page cache is warm where memory
suffices, and its pages lie as they do for any image that was read: what a program like mksquashfs
has just written lies there in smaller pieces, which cost more to map.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from benchmarks.measuring import Figures, Machine, engine, our_job, program, used_by_others
from benchmarks.series import make_series, night
from puavo_repository.demo import make_image

BEST, MB = "anchors", 1e6
_QUIET = 0.1  # cores that other work may keep busy
_GROWTH = (1, 3, 9)  # GB
_SERIES = (4, 8, 16)  # images


def best(runs: list[Figures]) -> Figures:
    """Return the fastest run, with the most memory that any took."""
    fastest = min(runs, key=lambda run: run.seconds)
    proof = min(run.proof for run in runs)
    return Figures(fastest.seconds, max(run.memory for run in runs), fastest.size, proof)


def read_anew(images: list[Path]) -> None:
    """Have images in the page cache as reading them from the disk puts them there."""
    for image in images:
        with image.open("rb", buffering=0) as stream:
            os.fsync(stream.fileno())  # else nothing of it can be dropped
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    subprocess.run(["cat", *map(str, images)], stdout=subprocess.DEVNULL, check=True)


def row(*cells: object) -> None:
    """Print a row of the table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


class Bench:
    """The machine that all is measured on, and whether it has other work."""

    def __init__(self, image: Path) -> None:
        self.machine = Machine.measured(image)
        self.others = used_by_others()

    def ratio(self, other: float, ours: float) -> str:
        """Return how many times as fast ours is; marked where the machine has other work."""
        return f"{other / ours:.1f}×{' (busy)' if self.others > _QUIET else ''}"

    def told(self) -> str:
        """Say what else the machine does now, and how that counts."""
        self.others = used_by_others()
        busy = "busy: no ratio counts" if self.others > _QUIET else "quiet"
        return (
            f"{self.others:.2f} cores busy with other work, load {os.getloadavg()[0]:.1f}: {busy}"
        )


def rdiff(source: Path, target: Path, folder: Path) -> Figures:
    """Make an rdiff as the old system did."""
    signature, out = folder / "old.signature", folder / "old.rdiff"
    made = program(["rdiff", "-f", "-b", "128", "signature", source, signature])
    made += program(["rdiff", "-f", "delta", signature, target, out])
    signature.unlink()
    return Figures(made.seconds, made.memory, out.stat().st_size)


def pairs(bench: Bench, images: list[Path], folder: Path, repeat: int) -> None:
    """Compare the making of single rdiffs."""
    for name, (source, target) in zip(
        ("updates", "one night"), itertools.pairwise(images), strict=False
    ):
        sides: dict[str, Callable[[], Figures]] = {
            "rdiff -b 128": lambda s=source, t=target: rdiff(s, t, folder)  # type: ignore[misc]
        }
        for effort, kept in itertools.product((BEST, f"{BEST}:fast", f"{BEST}:small"), "01"):
            anchors = folder if kept == "1" else None
            label = f"{effort}{', anchors kept' if anchors else ''}"
            sides[label] = lambda s=source, t=target, e=effort, a=anchors: engine(  # type: ignore[misc]
                e, s, t, folder / "new.rdiff", a, prove=True
            )
        runs: dict[str, list[Figures]] = {label: [] for label in sides}
        for _, (label, side) in itertools.product(range(repeat), sides.items()):
            runs[label].append(side())
        old = best(runs["rdiff -b 128"])
        read = source.stat().st_size + target.stat().st_size
        for label, found in runs.items():
            new = best(found)
            row(
                f"{name}: {label}",
                f"{new.seconds:.2f} s",
                bench.ratio(old.seconds, new.seconds),
                f"{bench.machine.limit(0, read + new.size):.2f} s",
                f"{new.size / MB:.3f} MB",
                f"{new.size / old.size:.3f}",
                f"{new.memory / MB:.0f} MB",
                f"{new.proof:.2f} s" if new.proof else "none",
            )


def old_job(images: list[Path], folder: Path) -> Figures:
    """Do what the old system's rake file did, four programs at a time, nothing proven."""
    started = time.perf_counter()
    made: list[Path] = []
    most = 0

    def run(*command: str | Path) -> Figures:
        return program(command)

    with ThreadPoolExecutor(4) as pool:
        after: dict[Future[Figures], Callable[[], None]] = {}

        def submit(command: tuple[str | Path, ...], then: Callable[[], None]) -> None:
            after[pool.submit(run, *command)] = then

        def sums(path: Path) -> None:
            for tool in ("cksum", "sha256sum", "sha512sum"):
                submit((tool, path), lambda: None)

        def deltas(source: Path, signature: Path) -> None:
            for target in images:
                if target != source:
                    out = folder / f"{source.stem}--{target.stem}.rdiff"
                    made.append(out)
                    command = ("rdiff", "-f", "delta", signature, target, out)
                    submit(command, lambda out=out: sums(out))  # type: ignore[misc]

        for image in images:
            signature = folder / f"{image.name}.sig"
            command = ("rdiff", "-f", "-b", "128", "signature", image, signature)
            submit(command, lambda i=image, s=signature: deltas(i, s))  # type: ignore[misc]
            sums(image)
        while after:
            for done in wait(after, return_when=FIRST_COMPLETED).done:
                then = after.pop(done)
                most = max(most, done.result().memory)
                then()
    size = sum(path.stat().st_size for path in made)
    return Figures(time.perf_counter() - started, most, size)


def prepare(bench: Bench, images: list[Path], folder: Path, repeat: int) -> None:
    """Compare the whole job: all rdiffs of three images, their checksums, and our proof."""
    runs: dict[str, list[Figures]] = {"ours": [], "old": []}
    for _, (side, job) in itertools.product(range(repeat), (("ours", our_job), ("old", old_job))):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            runs[side].append(job(images, Path(place)))
    new, old = best(runs["ours"]), best(runs["old"])
    every = sum(path.stat().st_size for path in images)
    limit = bench.machine.limit(every + new.size, limit_of_proofs(images) + new.size)
    for label, found in (("the old job's arithmetic", old), ("ours, every rdiff proven", new)):
        row(
            f"three images prepared: {label}",
            f"{found.seconds:.1f} s",
            bench.ratio(old.seconds, found.seconds),
            f"{limit:.1f} s" if found is new else "",
            f"{found.size / MB:.1f} MB",
            f"{found.size / old.size:.3f}",
            f"{found.memory / MB:.0f} MB",
            "within" if found is new else "none",
        )


def limit_of_proofs(images: list[Path]) -> int:
    """Return the bytes that are copied where each pair of images is proven, source and target."""
    return 2 * (len(images) - 1) * sum(path.stat().st_size for path in images)


def nights(bench: Bench, images: list[Path], folder: Path, _repeat: int) -> None:
    """Show what the night of a new image takes in a series of ten, and with one far pair alone."""
    series = make_series(images, folder / "series")
    every, one = night(series, folder)
    for label, found in (("one far rdiff", one), (f"{every.made} rdiffs", every)):
        size = series[-1].stat().st_size
        limit = bench.machine.limit(size + found.size, 2 * size * found.made + found.size)
        row(
            f"the night of a tenth image: {label}",
            f"{found.seconds:.1f} s",
            f"{bench.ratio(found.seconds, one.seconds)} its time",
            f"{limit:.1f} s",
            f"{found.size / MB:.1f} MB",
            "",
            f"{found.memory / MB:.0f} MB",
            "within",
        )


def growth(bench: Bench, images: list[Path], folder: Path, _repeat: int) -> None:
    """Show how time and memory grow with the images, and with their number."""
    for size in _GROWTH:
        source, target = folder / "source", folder / "target"
        _concatenate(images[:-1], source, size * 10**9)
        _concatenate(images[1:], target, size * 10**9)
        os.sync()  # the disk is not to be busy with these
        made = engine(BEST, source, target, folder / "new.rdiff", prove=False)
        speed = f"{size * 1000 / made.seconds:.0f} MB/s"
        limit = f"{bench.machine.limit(0, 2 * size * 10**9 + made.size):.2f} s"
        row(f"growth: {size} GB", f"{made.seconds:.2f} s", speed, limit, f"{made.size / MB:.0f} MB",
            "", f"{made.memory / MB:.0f} MB", "")  # fmt: skip
        for path in (source, target, folder / "new.rdiff"):
            path.unlink()
    for count in _SERIES:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            series = list(_small_series(Path(place), count))
            made = our_job(series, Path(place))
        rdiffs = 3 * (count - 1)
        speed = f"{1000 * made.seconds / rdiffs:.0f} ms an rdiff"
        row(f"growth: {count} images of 25 MB, {rdiffs} rdiffs", f"{made.seconds:.2f} s", speed, "",
            f"{made.size / MB:.0f} MB", "", f"{made.memory / MB:.0f} MB", "within")  # fmt: skip


def _concatenate(images: list[Path], out: Path, size: int) -> None:
    with out.open("wb") as stream:
        for image in itertools.cycle(images):
            with image.open("rb") as part:
                shutil.copyfileobj(part, stream, 4 << 20)
            if stream.tell() >= size:
                break
        stream.truncate(size)


def _small_series(folder: Path, count: int) -> Iterator[Path]:
    contents = {f"usr/lib/{n}": os.urandom(1 << 18) for n in range(96)}
    for number in range(count):
        contents[f"usr/lib/{number}"] = os.urandom(1 << 18)
        path = folder / f"puavo-os-small-trixie-2026-01-{number + 1:02}-120000-amd64.img"
        make_image(path, contents)
        yield path


def main() -> None:
    """Run the parts that are asked for."""
    parts = {"pair": pairs, "prepare": prepare, "night": nights, "growth": growth}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image_dir", type=Path)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--part", choices=parts, action="append")
    parser.add_argument("--work", type=Path, help="folder for what is made, default beside images")
    chosen = parser.parse_args()
    images = sorted(chosen.image_dir.glob("*.img"))[-3:]
    if len(images) < 3:
        parser.error(f"three images are needed, {chosen.image_dir} has {len(images)}")
    with tempfile.TemporaryDirectory(dir=chosen.work or chosen.image_dir) as folder:
        read_anew(images)
        bench = Bench(images[-1])
        print(f"{bench.machine}\n\nBefore: {bench.told()}\n")
        row("", "time", "ratio", "limit", "rdiffs", "of rdiff's bytes", "anonymous memory", "proof")
        row(*["---"] * 8)
        for name in chosen.part or parts:
            parts[name](bench, images, Path(folder), chosen.repeat)
        print(f"\nAfter: {bench.told()}")


if __name__ == "__main__":
    main()
