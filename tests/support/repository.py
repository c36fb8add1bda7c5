"""A repository to test with: real squashfs images, the real command, the real ``rdiff``."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from puavo_repository import settings as settings_module
from puavo_repository.demo import make_image
from puavo_repository.formats import metadata
from puavo_repository.mirror import files
from puavo_repository.prepare import run as prepare
from puavo_repository.prepare.report import Report
from puavo_repository.progress import NO_WATCHER
from puavo_repository.settings import Settings
from support.forks import Forks

ROOT = Path(__file__).resolve().parents[2]
MAIN = "from puavo_repository.cli.main import main; raise SystemExit(main())"
COMMAND = [sys.executable, "-m", "puavo_repository.cli"]

AMXA = "puavo-os-amxa-buster"
FREE = "puavo-os-free-buster"
V1, V2, V3, V4 = (
    "2021-04-13-192449",
    "2021-04-13-193910",
    "2022-01-17-120001",
    "2022-01-20-173248",
)


def name(version: str, prefix: str = AMXA, arch: str = "amd64") -> str:
    """Return an image's file name."""
    return f"{prefix}-{version}-{arch}.img"


@dataclass
class Repository:
    """An image directory, its mirror and its configuration below one folder."""

    root: Path

    def __post_init__(self) -> None:
        self.images.mkdir(exist_ok=True, parents=True)

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def mirror(self) -> Path:
        return self.root / "mirror"

    @property
    def puavo_os(self) -> Path:
        return self.root / "puavo-os"

    @property
    def config(self) -> Path:
        return self.puavo_os / "config" / "images"

    def add(
        self, image: str, *, definitions: dict[str, str] | None = None, size: int = 60_000
    ) -> Path:
        """Make an image: much the same as every other, and a little of its own."""
        if definitions is None:
            definitions = {"demo.json": json.dumps({"puavo.demo.version": {"default": image}})}
        path = self.images / image
        with files.part_of(path) as part:
            part.write_bytes(_image(image, tuple(definitions.items()), size))
            files.rename_into_place(part, path)
        return path

    def seed(self) -> None:
        """Make the images of the old README: four of one series, one of another."""
        for version in (V1, V2, V3, V4):
            self.add(name(version))
        self.add(name("2022-02-04-140532", FREE))

    def settings(self, **options: Any) -> Settings:
        """Return settings of a run over this repository."""
        places = {
            "image_dir": self.images,
            "mirror_dir": self.mirror,
            "puavo_os": self.puavo_os,
        }
        return settings_module.load({**places, **options}, {})

    def prepare(self, **options: Any) -> Report:
        """Prepare in this process."""
        return prepare.prepare(self.settings(**options), NO_WATCHER, "a test")

    def command(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run the command on this repository; exit status and output are the caller's."""
        return run([*COMMAND, *self.arguments(*arguments)], **more)

    def arguments(self, *options: str) -> list[str]:
        """Return the command's arguments for this repository."""
        return [*options, "-p", str(self.puavo_os), str(self.images), str(self.mirror)]

    def write_config(self, distribution: str, value: Any) -> Path:
        """Write a configuration file by hand."""
        self.config.mkdir(parents=True, exist_ok=True)
        path = self.config / f"{distribution}.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    def read_config(self, distribution: str) -> Any:
        """Read a configuration file."""
        return json.loads((self.config / f"{distribution}.json").read_text())

    def meta(self, series: str = f"{AMXA}-amd64") -> list[dict[str, Any]]:
        """Return the images that a series' metadata lists."""
        document = json.loads((self.mirror / "meta" / f"{series}.json").read_text())
        images: list[dict[str, Any]] = document[series]["images"]
        return images

    def check(self, *, at_rest: bool = True) -> int:
        """Check the mirror as a client and an auditor would; return how many rdiffs applied."""
        return check_mirror(self.mirror, at_rest=at_rest)


@lru_cache(maxsize=100)
def _image(image: str, definitions: tuple[tuple[str, str], ...], size: int) -> bytes:
    """Return an image's bytes; hundreds of tests begin with the same ones."""
    contents = {
        "usr/lib/common.bin": random.Random(1).randbytes(size),
        "usr/lib/own.bin": random.Random(image).randbytes(2_000),
    }
    for file, text in definitions:
        contents[f"usr/share/puavo-conf/definitions/{file}"] = text.encode()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, image)
        make_image(made, contents, compression="gzip")
        return made.read_bytes()


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which the project is found and nothing else is set up."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PUAVO_REPOSITORY_")}
    return {**kept, "PYTHONPATH": str(ROOT / "include"), **more}


def run(command: Sequence[str | Path], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program of the project; exit status and output are the caller's.

    The command itself is not started anew each time: half a minute of the suite. What is about
    its start or its end does that by itself.
    """
    if list(command[:3]) == COMMAND:
        folder = str(more.get("cwd", Path.cwd()))
        given = [str(word) for word in command[3:]]
        return _command().run(MAIN, given, more.get("env", environment()), folder)
    usual = {"env": environment(), "timeout": 120, "check": False}
    return subprocess.run(command, capture_output=True, text=True, **{**usual, **more})


@cache
def _command() -> Forks:
    return Forks("support.command_forks", environment())


def check_mirror(mirror: Path, *, at_rest: bool = True) -> int:
    """Assert what a good mirror always satisfies (FORMAT: the three rules).

    Args:
        mirror: Its folder.
        at_rest: Whether CKSUMS must already say the same as the metadata; in the middle of a
            change it may lag behind, but never names a missing or wrong file.
    """
    listed = set()
    applied = 0
    for path in sorted((mirror / "meta").glob("*.json")):
        document = json.loads(path.read_bytes())
        for described in metadata.described_files(metadata.parse(path.read_bytes())):
            check_file(mirror / described.path, described)
            listed.add(described.name)
        applied += check_rdiffs(mirror, document)
    names = []
    if (mirror / "CKSUMS").exists():
        for line in (mirror / "CKSUMS").read_text().splitlines():
            names.append(line.split(" ")[2])
            folder = mirror / "rdiffs" if line.endswith(".rdiff") else mirror
            command = ["cksum", names[-1]]
            said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
            assert said.stdout.strip() == line
    assert names == sorted(set(names))
    assert set(names) == listed or not at_rest
    return applied


def check_file(path: Path, described: metadata.Digests) -> None:
    """Assert that a file has the size and digests that metadata gives, by other programs."""
    content = path.read_bytes()
    assert len(content) == described.size
    assert hashlib.sha256(content).hexdigest() == described.sha256
    assert hashlib.sha512(content).hexdigest() == described.sha512
    said = subprocess.run(["cksum", path], capture_output=True, text=True, check=True).stdout
    assert said.split()[:2] == [described.cksum, str(described.size)]


def check_rdiffs(mirror: Path, document: dict[str, Any]) -> int:
    """Apply every rdiff with the ``rdiff`` program; return how many there are."""
    applied = 0
    for series in document.values():
        for image in series["images"]:
            for diff in image["diffs"]:
                head, _, _ = diff["filename"].partition("--")
                arch = image["filename"].rsplit("-", 1)[1]
                result = subprocess.run(
                    [
                        "rdiff",
                        "patch",
                        mirror / f"{head}-{arch}",
                        mirror / "rdiffs" / diff["filename"],
                        "-",
                    ],
                    capture_output=True,
                    check=True,
                )
                assert result.stdout == (mirror / image["filename"]).read_bytes()
                applied += 1
    return applied


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def public(mirror: Path) -> dict[str, bytes]:
    """Return what clients see of a mirror."""
    return {path: data for path, data in snapshot(mirror).items() if not path.startswith(".")}
