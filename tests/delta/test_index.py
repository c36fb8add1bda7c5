"""Kept anchors: used when they are sound and of this image, else as good as none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from delta.pairs import Pair, keep, noise
from puavo_repository.compiled import Numbers, array
from puavo_repository.delta import AnchorEngine, anchor_engine, index
from puavo_repository.delta.anchor_engine import spacing_of
from puavo_repository.delta.anchors import BLOCK
from puavo_repository.delta.engine import Side
from puavo_repository.delta.index import Index, Indexer, slots_for

ENGINE = AnchorEngine(threads=2)
DATA = noise(1, BLOCK + 300_000)
SPACING = spacing_of(ENGINE.name, ENGINE.memory, len(DATA))


def indexer() -> Indexer:
    return Indexer(SPACING, 1 << 30)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return keep(indexer(), DATA, tmp_path / "anchors", "image 1")


def load(
    path: Path, identity: str = "image 1", size: int = len(DATA), spacing: int = SPACING
) -> Index | None:
    return index.load(path, identity, size, spacing, table=True)


def count(found: Index) -> int:
    return int(np.count_nonzero(found.table))


@pytest.mark.parametrize("size", [0, 31, 32, 4096, BLOCK, BLOCK + 31, BLOCK + 33, BLOCK + 128])
def test_all_of_an_image_is_indexed(tmp_path: Path, size: int) -> None:
    found = load(keep(indexer(), DATA[:size], tmp_path / "kept", "x"), "x", size)
    assert found
    assert found.borders.tolist()[-1:] == [size][: size > 0]
    assert (count(found) == 0) == (size < 32)
    last = size % BLOCK or BLOCK
    assert found.ends.tolist()[-1:] == [size if last >= 32 else size - last][: size >= 32]
    assert (np.diff(found.ends, prepend=0) > 0).all()


def test_what_was_saved_is_loaded(kept: Path) -> None:
    found = load(kept)
    assert found
    assert (np.diff(found.borders, prepend=0) > 0).all()
    assert len(found.borders) == len(found.keys) > 1
    assert count(found) == pytest.approx(len(DATA) / SPACING, rel=0.1)


def test_kept_anchors_spare_the_search(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(kept.parent, DATA, DATA[1000:])

    def never(*_: object) -> None:
        raise AssertionError("the source was searched")

    monkeypatch.setattr(anchor_engine, "find", never)
    out = bytearray()
    source, target = pair.sides
    other = keep(indexer(), pair.target, kept.with_name("other"), "image 2")
    indexed = Side(target.path, other, "image 2")
    ENGINE.delta(Side(source.path, kept, "image 1"), indexed, out.extend)
    assert len(out) < 50
    with pytest.raises(AssertionError):
        ENGINE.delta(source, target, out.extend)


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 4
    return bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[:20],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"PuavoAn2" + data[8:],
        *(lambda data, at=at: flipped(data, at) for at in (0, 9, 13, 17, 25, 29, 33, 41, 5000, -1)),
    ],
)
def test_damaged_anchors_are_none(kept: Path, damage: Callable[[bytes], bytes]) -> None:
    kept.write_bytes(damage(kept.read_bytes()))
    assert load(kept) is None


def test_a_damaged_number_asks_for_no_memory_that_nobody_has(kept: Path) -> None:
    size, most = 1 << 40, (1 << 32) - 1
    fields = index._MAGIC, 0, 0, SPACING, size, most, most, len("an image")
    kept.write_bytes(index._HEADER.pack(*fields) + kept.read_bytes())
    assert load(kept, "an image", size) is None


def test_anchors_of_another_image_are_none(kept: Path) -> None:
    assert load(kept, "image 2") is None
    assert load(kept, size=len(DATA) + 1) is None
    assert load(kept, spacing=2 * SPACING) is None
    assert load(kept.with_name("missing")) is None
    assert load(kept.parent) is None  # a folder


def test_equal_content_has_equal_segments_wherever_it_lies(tmp_path: Path) -> None:
    found = []
    data = noise(3, 16 * BLOCK)  # of some thirty segments
    for before in (b"", noise(2, 12_345)):
        whole, taken = before + data, indexer()
        keep(taken, whole, tmp_path / "anchors", "x")
        borders = index.index_of(taken, len(whole), table=False).borders
        found.append({*(borders - len(before)).tolist()})
    assert len(found[0] & found[1]) > 0.8 * len(found[0])


def test_with_damaged_anchors_the_rdiff_is_the_same(kept: Path) -> None:
    kept.write_bytes(flipped(kept.read_bytes(), 999))
    pair = Pair(kept.parent, DATA, DATA[1000:] + DATA[:1000])
    pair.make(ENGINE)
    out = bytearray()
    source, target = pair.sides
    ENGINE.delta(Side(source.path, kept, "image 1"), target, out.extend)
    assert out == pair.rdiff.read_bytes()


@pytest.mark.parametrize(
    "data",
    [bytes(16 << 20), noise(9, 96) * ((16 << 20) // 96), bytes(12 << 20) + noise(9, 4 << 20)],
    ids=["zeros", "a short period", "zeros and noise"],
)
@pytest.mark.parametrize("kept", [True, False])
def test_runs_and_periods_stay_within_the_memory_too(
    tmp_path: Path, data: bytes, *, kept: bool
) -> None:
    engine = AnchorEngine(threads=2, memory=1 << 20)
    assert (
        spacing_of(engine.name, engine.memory, len(data)) == 512
    )  # of ordinary data, as many as the memory holds
    made: list[int] = []

    def watched(anchors: int) -> int:
        slots = slots_for(anchors)
        made.append(8 * slots + 8 * anchors)
        return slots

    pair = Pair(tmp_path, data, data[1000:])
    source, target = pair.sides
    if kept:
        keep(engine.indexer(len(data)), data, tmp_path / "anchors", "it")
        assert (tmp_path / "anchors").stat().st_size < engine.memory
        source = Side(source.path, tmp_path / "anchors", "it")
    out = bytearray()
    with mock.patch.object(index, "slots_for", watched):
        engine.delta(source, target, out.extend)
    assert kept or made[0] <= engine.memory
    assert len(out) < 2000  # a copy for each segment at most


def test_an_index_is_kept_with_a_part_of_its_table_in_memory_at_a_time(
    kept: Path, tmp_path: Path
) -> None:
    made: list[int] = []

    def watched(shape: int, kind: type) -> Numbers:
        made.append(array(shape, kind).nbytes)
        return array(shape, kind)

    part = 2 * index.GROUP
    with mock.patch.multiple(index, PART=part, array=watched):
        keep(indexer(), DATA, tmp_path / "in parts", "image 1")
    assert (tmp_path / "in parts").read_bytes() == kept.read_bytes()
    found = load(kept)
    assert found
    assert made.count(8 * part) == len(found.table) // part > 10
    assert max(made) == 8 * part


def test_larger_images_get_fewer_anchors_within_the_budget() -> None:
    for size in (0, 10**9, 9 * 10**9, 10**12):
        engine = AnchorEngine(memory=256 << 20)
        spacing = spacing_of(engine.name, engine.memory, size)
        assert 20 * size // spacing <= engine.memory or spacing * 8 == BLOCK
    assert spacing_of(AnchorEngine().name, AnchorEngine().memory, 1_500_000_000) == 512
    assert spacing_of(AnchorEngine().name, AnchorEngine().memory, 9_000_000_000) == 1024
    assert np.log2(spacing_of(AnchorEngine().name, AnchorEngine().memory, 10**12)) % 1 == 0
