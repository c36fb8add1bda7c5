"""What mksquashfs' options do to images, to their rdiffs and to their unpacking: a Markdown table.

    PYTHONPATH=include:tests python tests/benchmarks/images.py TREE TREE TREE [EVERY]

The trees are the files of three images, on one file system: a month of updates lies between the
first two, one night between the last two. Unpacking is done by the libraries of squashfs-tools, a
block at a time; the best of some tries counts, so that a busy machine tells the same.
With EVERY, only one file in so many is packed, the same ones of each tree. Run it as root.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import engine
from puavo_repository.formats.decompress import decompressor
from puavo_repository.formats.squashfs_files import RAW, opened

MB = 1e6
BLOCKS, TRIES = 80, 12  # that are unpacked of an image, and how often each
PUAVO = "-comp lzo"  # as Puavo packs its images
# What changes often comes last: its small files share fragments with each other alone.
VOLATILE = "var etc boot tmp root usr/share/mime usr/share/glib-2.0/schemas usr/lib/python3"
ROWS = (
    PUAVO,
    f"{PUAVO} -no-fragments",
    f"{PUAVO} -b 64K",
    f"{PUAVO} -b 1M",
    f"{PUAVO} -sort volatile-last",
    f"{PUAVO} -always-use-fragments",
    "-comp zstd",
    "-comp gzip",
    f"{PUAVO} -all-time 0 -mkfs-time 0",
    f"{PUAVO} -b 64K -no-fragments",
    "-comp zstd -no-fragments",
    "-comp xz",
    "-comp xz -b 1M",
)


def pack(tree: Path, options: str, image: Path) -> None:
    """Pack a tree; the option ``volatile-last`` is a file that this makes."""
    order = image.with_suffix(".sort")
    order.write_text(
        "".join(f"{path} -100\n" for path in VOLATILE.split() if (tree / path).exists())
    )
    words = [str(order) if word == "volatile-last" else word for word in options.split()]
    command = ["mksquashfs", str(tree), str(image), "-noappend", "-no-recovery", "-no-sparse"]
    subprocess.run([*command, "-no-progress", "-quiet", *words], check=True, capture_output=True)


def unpacking(image: Path) -> float:
    """Return the bytes a second that one thread unpacks of an image's blocks, the best of tries."""
    with opened(image) as found:
        unpack = decompressor(found.compression)
        blocks = list(found.fragments)
        for _, place in found.walk():
            file = found.file(place)
            blocks += [(file.start, word) for word in found.words_of(file.words, file.blocks)[:1]]
        packed = [found.read(at, word) for at, word in blocks if 0 < word < RAW]
        made, seconds = 0, 0.0
        for data in packed[:: len(packed) // BLOCKS + 1]:
            times = []
            for _ in range(TRIES):
                begun = time.perf_counter()
                size = len(unpack(data, found.block_size))
                times.append(time.perf_counter() - begun)
            made, seconds = made + size, seconds + min(times)
    return made / seconds


def measure(trees: Sequence[Path], options: str, work: Path) -> str:
    """Return a row of the table."""
    images = [work / f"{number}.img" for number in range(len(trees))]
    for tree, image in zip(trees, images, strict=True):
        pack(tree, options, image)
    deltas = [
        engine("anchors", *pair, work / "rdiff", prove=True).size
        for pair in itertools.pairwise(images)
    ]
    figures = [images[-1].stat().st_size, *deltas]
    speed = f"{unpacking(images[-1]) / MB:.0f} MB/s"
    cells = [f"`{options}`", *(f"{size / MB:.2f} MB" for size in figures), speed]
    return f"| {' | '.join(cells)} |"


def sample(tree: Path, every: int, into: Path) -> Path:
    """Link one file in so many into a tree with the same folders."""
    for folder, _, names in os.walk(tree):
        place = into / Path(folder).relative_to(tree)
        place.mkdir()
        for name in names:
            if zlib.crc32(str(place.relative_to(into) / name).encode()) % every == 0:
                os.link(Path(folder, name), place / name, follow_symlinks=False)
        shutil.copystat(folder, place)
    return into


def main(trees: Sequence[Path], every: int) -> None:
    """Print the table, a row at a time."""
    print("| options | image | rdiff, a month | rdiff, one night | unpacking |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=trees[0].parent) as folder:
        work = Path(folder)
        if every > 1:
            trees = [sample(tree, every, work / f"tree{n}") for n, tree in enumerate(trees)]
        for row in ROWS:
            print(measure(trees, row, work), flush=True)


if __name__ == "__main__":
    main([Path(tree) for tree in sys.argv[1:4]], int("".join(sys.argv[4:5]) or 1))
