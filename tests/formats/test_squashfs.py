from __future__ import annotations

import ctypes
import errno
import json
import os
import random
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

from puavo_repository.errors import ImageError, SettingsError, StorageError
from puavo_repository.formats import decompress, puavo_conf, squashfs_files
from puavo_repository.formats.squashfs_files import IS_FILE, opened
from support.instead import instead
from support.repository import V1, Repository, name


def test_a_real_image_says_how_long_it_is(repository: Repository) -> None:
    path = repository.add(name(V1))
    with opened(path) as image:
        assert 0 <= path.stat().st_size - image.used < 4096  # mksquashfs pads to 4 KB


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "an empty file"),
        (b"hsqs", "only 4 bytes"),
        (b"\x7fELF" + bytes(92), "begins with the bytes 7f 45 4c 46"),
        (bytes(96), "begins with the bytes 00 00 00 00"),
        (b"hsqs" + bytes(92), "version 0.0"),
    ],
)
def test_anything_else_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "image").write_bytes(data)
    with pytest.raises(ImageError, match=says), opened(tmp_path / "image"):
        pass


def test_a_folder_is_found_by_its_path_alone(repository: Repository) -> None:
    path = repository.add(name(V1), definitions={"a.json": "{}"})
    with opened(path) as image:
        inside = {name: kind for name, kind, _ in image.folder("usr/share/puavo-conf/definitions")}
        assert inside == {"a.json": IS_FILE}
        for nothing in ("usr/share/nothing/definitions", "usr/share/puavo-conf/definitions/a.json"):
            assert list(image.folder(nothing)) == []


@pytest.mark.parametrize("comp", ["gzip", "lzo", "lz4", "xz", "zstd"])
@pytest.mark.parametrize("options", [["-b", "4096"], ["-b", "1M", "-always-use-fragments"]])
def test_definitions_are_what_unsquashfs_finds(
    tmp_path: Path, comp: str, options: list[str]
) -> None:
    folder = tmp_path / "root/usr/share/puavo-conf/definitions"
    folder.mkdir(parents=True)
    for number in range(300):  # so that its list is of the long form
        values = {f"puavo.{number}": {"default": random.Random(number).randbytes(99).hex()}}
        (folder / f"{number}.json").write_text(json.dumps(values))
    (folder / "large.json").write_text(
        json.dumps({"large": random.Random(0).randbytes(99_999).hex()})
    )
    image = tmp_path / "image"
    quiet = ["-quiet", "-no-progress"]
    run(["mksquashfs", tmp_path / "root", image, "-comp", comp, *options, *quiet], check=True)
    run(["unsquashfs", *quiet, "-d", tmp_path / "found", image], check=True)
    wanted: dict[str, Any] = {}
    for path in sorted((tmp_path / "found/usr/share/puavo-conf/definitions").iterdir()):
        wanted |= json.loads(path.read_text())
    found = puavo_conf.read(image)
    assert len(found) == 301
    assert list(found.items()) == list(wanted.items())


def test_more_fragments_than_memory_holds_are_refused(repository: Repository) -> None:
    path = repository.add(name(V1))
    with path.open("r+b") as image:
        image.seek(16)  # their number, in the superblock
        image.write((2_000_000).to_bytes(4, "little"))
    with pytest.raises(ImageError, match="2000000 blocks of fragments"):
        puavo_conf.read(path)


def test_a_disk_that_fails_is_not_called_a_damaged_image(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository.add(name(V1))

    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    instead(monkeypatch, squashfs_files, os, pread=fail)
    with pytest.raises(StorageError, match="Input/output error"):
        puavo_conf.read(path)


def test_a_missing_library_names_the_package_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(library: str) -> None:
        raise OSError(errno.ENOENT, library)

    monkeypatch.setattr(decompress, "_function", decompress._function.__wrapped__)
    instead(monkeypatch, decompress, ctypes, CDLL=missing)
    with pytest.raises(SettingsError, match="squashfs-tools"):
        decompress.decompressor(3)(b"", 9)
