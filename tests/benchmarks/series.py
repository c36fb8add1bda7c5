"""A series of ten images, made of three real ones, and the night in which the last one comes.

The others are copies of these three to which some files were added, as a night adds them: new
blocks of data, and tables of inodes and folders that were written anew.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.measuring import Figures, our_job

# For each image, which real one it is of, and its version; the last one is the news of the night.
_SERIES = (
    *((0, day) for day in ("10-01", "10-05", "10-10", "10-15")),
    *((1, day) for day in ("11-01", "11-05", "11-10", "11-15")),
    *((2, day) for day in ("11-22", "11-23")),
)
_FILES, _BYTES = 40, 100_000  # that a night adds


def make_series(images: list[Path], folder: Path) -> list[Path]:
    """Make the series of three images in a folder; what is there already is kept."""
    folder.mkdir(exist_ok=True)
    made: list[Path] = []
    for number, (base, day) in enumerate(_SERIES):
        path = folder / f"puavo-os-series-trixie-2026-{day}-120000-amd64.img"
        if not path.exists():
            part = path.with_suffix(".part")
            same = number and _SERIES[number - 1][0] == base
            shutil.copyfile(made[-1] if same else images[base], part)
            if same:
                _add_files(part, number)
            part.rename(path)
        made.append(path)
    return made


def _add_files(image: Path, seed: int) -> None:
    noise = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        top = Path(place, f"night-{seed}")
        top.mkdir()
        for number in range(_FILES):
            text = b"%d\n" * (_BYTES // 20) % tuple(noise.choices(range(1000), k=_BYTES // 20))
            (top / str(number)).write_bytes(text + noise.randbytes(_BYTES // 2))
        command = ["mksquashfs", place, str(image), "-no-recovery", "-no-sparse", "-no-progress"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def night(series: list[Path], folder: Path) -> tuple[Figures, Figures]:
    """Measure the night of the last image, with all its rdiffs, and with the one farthest pair.

    Both are a run of the command that reads the new image, and makes and proves its rdiffs.
    """
    *older, newest = series
    every = _night(older, newest, folder / "every", {})
    one = {"PUAVO_REPOSITORY_SOURCES": "older", "PUAVO_REPOSITORY_TARGETS": "1"}
    return every, _night(older[:1], newest, folder / "one", one)


def _night(older: list[Path], newest: Path, folder: Path, settings: dict[str, str]) -> Figures:
    our_job(older, folder, **settings)
    before = {path.name for path in (folder / "mirror" / "rdiffs").iterdir()}
    os.sync()
    for image in (*older, newest):  # so that they are in memory, where that suffices
        with image.open("rb", buffering=0) as stream:
            while stream.read(1 << 22):
                pass
    done = our_job([newest], folder, **settings)
    made = [path for path in (folder / "mirror" / "rdiffs").iterdir() if path.name not in before]
    size = sum(path.stat().st_size for path in made)
    shutil.rmtree(folder)
    return Figures(done.seconds, done.memory, size, made=len(made))
