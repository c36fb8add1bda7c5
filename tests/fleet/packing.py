"""Real images of given files, and rdiffs between them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from puavo_repository.delta import AnchorEngine
from puavo_repository.delta.engine import Side
from puavo_repository.delta.work import write_rdiff
from puavo_repository.formats.rdiff import MAGIC
from puavo_repository.progress import no_progress

PLAIN = ("-noI", "-noId", "-noD", "-noF", "-noX")  # nothing is compressed


def tree(folder: Path, contents: Mapping[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(files: Path, image: Path, *options: str) -> Path:
    command = ["mksquashfs", str(files), str(image), "-noappend", "-quiet", "-no-progress"]
    command += ["-all-root", "-no-sparse", "-mkfs-time", "0", "-all-time", "0"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    return image


def whole(target: Path, rdiff: Path) -> Path:
    """Make an rdiff that brings all of its target."""
    content = target.read_bytes()
    rdiff.write_bytes(MAGIC + b"\x43" + len(content).to_bytes(4, "big") + content + b"\0")
    return rdiff


def between(source: Path, target: Path, rdiff: Path) -> Path:
    write_rdiff(AnchorEngine(threads=1), Side(source), Side(target), rdiff, None, no_progress)
    return rdiff
