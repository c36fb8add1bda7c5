from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from puavo_repository.errors import StorageError
from puavo_repository.formats.names import LONGEST_IMAGE, image_name, rdiff_name
from puavo_repository.prepare import discover as module
from puavo_repository.prepare.discover import discover
from support.instead import instead
from support.repository import AMXA, FREE, V1, V2, Repository, name


def test_images_are_found_by_distribution_and_series(repository: Repository) -> None:
    for image in (name(V2), name(V1), name(V1, FREE), name(V1, AMXA, "i386")):
        (repository.images / image).write_bytes(b"123")
    found = discover(repository.settings())
    assert found.series == {
        "buster": {
            f"{AMXA}-amd64": [name(V1), name(V2)],
            f"{AMXA}-i386": [name(V1, AMXA, "i386")],
            f"{FREE}-amd64": [name(V1, FREE)],
        }
    }
    assert found.images[name(V1)].size == 3


def test_everything_else_is_left_alone_and_counted(repository: Repository) -> None:
    manual = "ltsp-x-trusty-2016-01-21-120716-i386.img"
    for file in ("ltsp.img", f"{name(V1)}.tmp", "notes.txt", manual, ".hidden"):
        (repository.images / file).touch()
    (repository.images / name(V2)).mkdir()
    found = discover(repository.settings())
    assert list(found.images) == [manual]
    assert found.series == {}
    assert found.others == 4


def test_the_mirror_below_the_images_is_no_stranger(repository: Repository) -> None:
    (repository.images / "mirror").mkdir()
    assert discover(repository.settings(mirror_dir=None)).others == 0


def test_a_name_that_is_not_utf8_is_reported_readably(repository: Repository) -> None:
    os.close(os.open(os.fsencode(repository.images) + b"/bad-\xff.img", os.O_CREAT))
    (failure,) = discover(repository.settings()).failures
    assert failure.name == r"bad-\xff.img"
    assert "not UTF-8" in failure.message
    assert "Rename it" in failure.message


def test_a_link_to_nowhere_is_reported(repository: Repository) -> None:
    (repository.images / name(V1)).symlink_to("nowhere")
    (failure,) = discover(repository.settings()).failures
    assert failure.name == name(V1)


def test_an_image_that_cannot_be_looked_at_does_not_count_as_gone(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository.images / name(V1)).touch()
    settings, look = repository.settings(), os.stat

    def fail(path: Path | str, **more: bool) -> os.stat_result:
        if Path(path).name == name(V1):
            raise OSError(errno.EIO, "Input/output error")
        return look(path, **more)

    instead(monkeypatch, module, os, stat=fail)
    with pytest.raises(StorageError, match="Input/output"):
        discover(settings)


def test_a_name_whose_derived_names_would_be_too_long_is_refused(repository: Repository) -> None:
    def named(length: int) -> str:
        return name(V1, f"puavo-os-{'a' * (length - len(name(V1, 'puavo-os--buster')))}-buster")

    longest, longer = named(LONGEST_IMAGE), named(LONGEST_IMAGE + 1)
    for image in (longest, longer, named(254)):
        (repository.images / image).touch()
    found = discover(repository.settings())
    assert list(found.images) == [longest]
    assert all("at most 199 bytes" in failure.message for failure in found.failures)
    # as a remote has it, while it is being sent
    part = f".{rdiff_name(longest, name(V2))}.{'0' * 16}.{'0' * 8}.part"
    assert len(part) <= 255
    # What one run writes, the next one reads.
    (repository.images / longest).unlink()
    repository.add(longest)
    for _ in range(2):
        assert {failure.stage for failure in repository.prepare().failures} == {"discover"}
    assert [image["filename"] for image in repository.meta(image_name(longest).series)] == [longest]
