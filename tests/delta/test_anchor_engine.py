"""The anchor engine: what it writes gives the target, and is as small as it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from delta.pairs import Copy, Pair, keep, noise
from puavo_repository.delta import AnchorEngine
from puavo_repository.delta.anchor_engine import EFFORTS
from puavo_repository.delta.anchors import BLOCK
from puavo_repository.delta.engine import Side
from puavo_repository.errors import ImageChangingError

ENGINE = AnchorEngine(threads=2)
A, B, C = noise(1, 300_000), noise(2, 300_000), noise(3, 70_000)


def test_identical_files_are_one_copy_across_all_blocks(tmp_path: Path) -> None:
    data = noise(4, 2 * BLOCK + 12_345)
    assert Pair(tmp_path, data, data).make(ENGINE) == [Copy(0, len(data))]


def test_disjoint_files_are_literal_and_cost_next_to_nothing(tmp_path: Path) -> None:
    pair = Pair(tmp_path, A, B)
    assert not any(command.is_copy for command in pair.make(ENGINE))
    assert pair.rdiff.stat().st_size < len(B) + 50


@pytest.mark.parametrize("effort", EFFORTS)
def test_moved_inserted_and_deleted_parts_are_found(tmp_path: Path, effort: str) -> None:
    pair = Pair(tmp_path, A + B, B[1000:] + C + A[:-1000])
    copies = [c for c in pair.make(AnchorEngine(effort)) if c.is_copy]
    assert copies == [Copy(len(A) + 1000, len(B) - 1000), Copy(0, len(A) - 1000)]
    assert pair.literal == len(C)


def test_a_copy_is_found_wherever_it_crosses_the_blocks_of_the_target(tmp_path: Path) -> None:
    for shift in (-2000, -31, -1, 0, 1, 700):
        before = noise(5, BLOCK + shift - len(A) // 2)
        pair = Pair(tmp_path, A, before + A + C)
        pair.make(ENGINE)
        assert pair.literal - len(before) - len(C) < 4096


def test_the_dense_level_finds_what_is_short(tmp_path: Path) -> None:
    pieces = [A[i : i + 60] + noise(i, 60) for i in range(100_000, 120_000, 60)]
    target = A[:100_000] + b"".join(pieces) + A[120_000:]
    pair = Pair(tmp_path, A, target)
    pair.make(AnchorEngine("anchors:fast"))
    assert pair.literal > 35_000
    pair.make(ENGINE)
    assert pair.literal < 26_000


@pytest.mark.parametrize("source", [b"", b"x", A[:31], A[:32], A[:33], A])
@pytest.mark.parametrize("target", [b"", b"y", A[:31], A[:32], A[:33], A[1:]])
def test_files_shorter_than_any_window_work(tmp_path: Path, source: bytes, target: bytes) -> None:
    Pair(tmp_path, source, target).make(ENGINE)


def test_the_rdiff_does_not_depend_on_the_threads(tmp_path: Path) -> None:
    pair = Pair(tmp_path, A + noise(6, 2 * BLOCK), noise(6, 2 * BLOCK) + C + A)
    found = set()
    for threads in (1, 2, 5):
        pair.make(AnchorEngine(threads=threads))
        found.add(pair.rdiff.read_bytes())
    assert len(found) == 1


def test_kept_anchors_give_the_same_rdiff_without_reading_the_source_for_them(
    tmp_path: Path,
) -> None:
    pair = Pair(tmp_path, A + B, B + A)
    pair.make(ENGINE)
    indexer = ENGINE.indexer(len(pair.source))
    kept = keep(indexer, pair.source, tmp_path / "anchors", "this one")
    out = bytearray()
    source, target = pair.sides
    ENGINE.delta(Side(source.path, kept, "this one"), target, out.extend)
    assert out == pair.rdiff.read_bytes()


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    pair = Pair(tmp_path, A, B)
    with pytest.raises(Exception, match="nowhere: No such file"):
        ENGINE.delta(Side(tmp_path / "nowhere"), pair.sides[1], lambda _: None)


def test_an_image_that_grows_meanwhile_is_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path, A, B)

    def grow(_done: int) -> None:
        with (tmp_path / "target").open("ab") as stream:
            stream.write(b"more")

    with pytest.raises(ImageChangingError, match="changed while its rdiff was made"):
        ENGINE.delta(*pair.sides, lambda _: None, grow)


def test_progress_adds_up_and_may_stop_the_work(tmp_path: Path) -> None:
    pair = Pair(tmp_path, A, noise(7, 2 * BLOCK + 1))
    told: list[int] = []
    ENGINE.delta(*pair.sides, lambda _: None, told.append)
    assert sum(told) == 2 * BLOCK + 1

    def stop(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ENGINE.delta(*pair.sides, lambda _: None, stop)
