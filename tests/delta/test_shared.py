"""Segments of a target that an earlier rdiff knows are not searched again, and nothing differs."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from delta.fuzz import kept, make
from delta.pairs import noise
from puavo_repository.delta import AnchorEngine, anchor_engine
from puavo_repository.delta.engine import Between
from puavo_repository.delta.librsync import LibrsyncEngine
from puavo_repository.errors import DeltaError, RepositoryError
from puavo_repository.formats.rdiff import END, MAGIC

ENGINE = AnchorEngine(threads=2)
OLD, NEWS = noise(1, 6_000_000), noise(2, 3_000_000)
# Half of it is news, and what is old has moved.
MIDDLE = NEWS[:1_500_000] + OLD[3_000_000:] + OLD[:1_000_000] + NEWS[1_500_000:]
LAST = MIDDLE[:2_000_000] + noise(3, 70_000) + MIDDLE[2_000_000:7_000_000] + MIDDLE[7_050_000:]


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path, Path]:
    old, middle, last = (tmp_path / name for name in ("old", "middle", "last"))
    for path, content in ((old, OLD), (middle, MIDDLE), (last, LAST)):
        path.write_bytes(content)
    return old, middle, last


def between(images: tuple[Path, Path, Path]) -> Between:
    old, middle, last = images
    rdiffs = make(ENGINE, old, middle), make(LibrsyncEngine(), middle, last)
    return Between(kept(ENGINE, middle), len(MIDDLE), *rdiffs)


def test_only_what_differs_is_searched_and_the_rdiff_is_the_same(
    images: tuple[Path, Path, Path],
) -> None:
    old, _, last = images
    whole, over = make(ENGINE, old, last), between(images)
    searched: list[int] = []
    search = anchor_engine._search

    def watched(*given: object) -> object:
        result = search(*given)  # type: ignore[arg-type]
        searched.append(result[0])
        return result

    with mock.patch.object(anchor_engine, "_search", watched):
        shared = make(ENGINE, old, last, over)
    assert shared.read_bytes() == whole.read_bytes()
    assert 0 < sum(searched) < 0.5 * len(LAST)


def test_without_the_index_between_all_is_searched(images: tuple[Path, Path, Path]) -> None:
    old, _, last = images
    whole, over = make(ENGINE, old, last), between(images)
    assert over.image.anchors
    over.image.anchors.unlink()
    assert make(ENGINE, old, last, over).read_bytes() == whole.read_bytes()


def test_a_damaged_rdiff_between_is_an_error(images: tuple[Path, Path, Path]) -> None:
    old, _, last = images
    over = between(images)
    over.second.write_bytes(over.second.read_bytes()[:-100])
    with pytest.raises(RepositoryError, match="truncated"):
        make(ENGINE, old, last, over)


def test_a_rdiff_between_that_gives_less_than_it_should_is_an_error_of_that(
    images: tuple[Path, Path, Path],
) -> None:
    old, _, last = images
    over = between(images)
    over.first.write_bytes(MAGIC + bytes.fromhex("45 00 10") + END)  # a copy of 16 bytes
    with pytest.raises(DeltaError, match="too short"):
        make(ENGINE, old, last, over)
