"""How long it takes to find that nothing is new, by the number of files: a table and a plot.

    PYTHONPATH=include:tests python -m benchmarks.plans [SERIES [IMAGES…]]

A row for each number of images, in so many series: the command itself, and publishing to a folder
and to OpenSSH's ``sshd`` what is there already, each in a process of its own. Every column must
grow as the number of files does, so the plot's lines are straight. Images and rdiffs are a few
bytes, their records whole. Both are Markdown; the plot is drawn by Mermaid, as on GitHub.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.published import lay_out
from puavo_repository import settings as settings_module
from puavo_repository.formats import jsonfile
from puavo_repository.formats.metadata import Digests
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import ImageRecord, RdiffRecord
from puavo_repository.prepare.describe import describe
from puavo_repository.prepare.plan import look
from puavo_repository.settings import Settings
from support.servers import Sshd, running

LAY = "lay"
SERIES = 40
COUNTS = (2_000, 4_000, 6_000, 8_000, 10_000)  # images; as far apart, for the plot
ROUNDS = 3
SIZE = 100  # bytes of an image


class Taken(NamedTuple):
    """What a process took."""

    seconds: float
    busy: float  # seconds of a core
    memory: float  # MB at most

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.busy:.1f} s), {self.memory:.0f} MB"


def digests(text: str, size: int) -> Digests:
    """Return digests that look like some."""
    sha256, sha512 = (kind(text.encode()).hexdigest() for kind in (hashlib.sha256, hashlib.sha512))
    return Digests(size, str(int(sha256[:8], 16)), sha256, sha512)


def write(folder: Path, name: str, content: bytes) -> None:
    """Write a file; nothing here has to outlast a power cut."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def build(root: Path, series: int, each: int) -> Settings:
    """Make a repository as if all had been read and made; its files are tiny."""
    settings = settings_module.load({"image_dir": _folder(root / "images")}, {})
    mirror = Mirror(settings.mirror_dir)
    for number in range(series):
        for index in range(each):
            name = f"puavo-os-s{number}-buster-2022-01-01-{index:06}-amd64.img"
            write(settings.image_dir, name, bytes(SIZE))
            found = Identity.at(settings.image_dir / name)
            assert found is not None
            conf = {"puavo.x": {"default": f"{number}"}}
            record = ImageRecord(name, found, digests(name, SIZE), conf)
            _keep(mirror.state.images.folder, name, record)
    for pair in look(settings).states:
        write(mirror.rdiffs, pair.rdiff, b"rdiff")
        at = Identity.at(mirror.rdiffs / pair.rdiff)
        source, target = (digests(name, SIZE).sha512 for name in (pair.source, pair.target))
        own = digests(pair.rdiff, 5)
        made = RdiffRecord(pair.rdiff, source, target, own, at, "test")
        _keep(mirror.state.rdiffs.folder, pair.rdiff, made)
    return settings


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def _keep(folder: Path, name: str, record: ImageRecord | RdiffRecord) -> None:
    write(folder, f"{name}.json", jsonfile.dumps_sealed(record.to_dict()))


def best(*command: str | Path) -> Taken:
    """Run a Python module to its end, a few times; return the fastest one."""
    return min(taken(*command) for _ in range(ROUNDS))


def taken(*command: str | Path) -> Taken:
    """Run a Python module to its end."""
    begun = time.monotonic()
    words = [sys.executable, "-P", "-m", *map(str, command)]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds, busy = time.monotonic() - begun, used.ru_utime + used.ru_stime
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    return Taken(seconds, busy, used.ru_maxrss / 1024)


def lay(folder: Path, series: int, each: int) -> None:
    """Make a prepared repository, and a remote to which it is published."""
    settings = build(folder / "repository", series, each)
    describe(settings)
    lay_out(settings.mirror_dir, folder / "remote")


def measure(folder: Path, server: Sshd, series: int, each: int) -> list[Taken]:
    """Measure so many images in each of so many series; print the row of the table."""
    # In a process of its own: the memory of this one would count as that of each child.
    taken("benchmarks.plans", LAY, folder, str(series), str(each))
    images, remote = folder / "repository/images", folder / "remote"
    mirror = images / "mirror"
    known = str(server.port), server.client_key, server.host_key
    rdiffs = sum(1 for _ in mirror.joinpath("rdiffs").iterdir())
    found = [
        best("puavo_repository.cli", "-p", images / "puavo-os", images),
        best("benchmarks.published", mirror, remote),
        best("benchmarks.published", mirror, remote, *known),
    ]
    print("|", " | ".join([f"{series * each:,}", f"{rdiffs:,}", *map(str, found)]), "|", flush=True)
    return found


def plot(counts: Sequence[int], found: Sequence[Sequence[Taken]]) -> None:
    """Print a plot of the seconds by the number of images, a line for each column."""
    print("\n```mermaid\nxychart-beta")
    print(f'    x-axis "images" {list(counts)}')
    print('    y-axis "seconds" 0 --> 10')
    for column in zip(*found, strict=True):
        print(f"    line {[round(one.seconds, 1) for one in column]}")
    print("```")


def main(series: int, counts: Sequence[int]) -> None:
    """Print the table, a row at a time, and the plot."""
    print("| images | rdiffs | the command | published, a folder | published, SFTP |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder, running(Sshd(Path(folder) / "sshd")) as server:
        found = []
        for count in counts:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                found.append(measure(Path(place), server, series, count // series))
        plot(counts, found)


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == [LAY]:
        lay(Path(words[1]), int(words[2]), int(words[3]))
    else:
        numbers = [int(word) for word in words]
        main(numbers[0] if numbers else SERIES, numbers[1:] or COUNTS)
