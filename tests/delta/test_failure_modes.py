"""What delta engines stumble over: patterns, floods, large offsets, files that change."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from delta.fuzz import check_all, real_images
from delta.pairs import Copy, Pair, content, ignore, in_memory, keep, noise
from puavo_repository.delta import AnchorEngine, anchors, comparing, index, matching
from puavo_repository.delta.anchor_engine import spacing_of
from puavo_repository.delta.anchors import BLOCK, KEY, KEY_FACTORS, BlockAnchors, Found, find
from puavo_repository.delta.engine import Side
from puavo_repository.delta.index import Indexer
from puavo_repository.delta.machine import SELECT_FACTORS
from puavo_repository.errors import ImageChangingError

ENGINE = AnchorEngine(threads=2)
SIZE = 5_000_001  # more than a block
UNIT = noise(1, 70_000)


def test_random_edits_of_random_and_real_data_are_proven() -> None:
    """The short form of ``make fuzz``; one test, for its images take six core-seconds to make."""
    real_images()  # made once, not in the child
    check_all(range(60))


@pytest.mark.parametrize("period", [1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 65, 511, 4095, 4097, 65_535])
def test_a_period_is_found_whatever_its_length_and_phase(tmp_path: Path, period: int) -> None:
    data = UNIT[:period] * (SIZE // period + 2)
    pair = Pair(tmp_path, data[:SIZE], data[period // 2 + 1 :][:SIZE])
    pair.make(ENGINE)
    assert pair.rdiff.stat().st_size < 200_000


@pytest.mark.parametrize("byte", [0, 0x55, 0xFF])
def test_one_repeated_byte_costs_nothing_and_its_absence_only_itself(
    tmp_path: Path, byte: int
) -> None:
    run = bytes([byte]) * SIZE
    pair = Pair(tmp_path, run, run + UNIT + run)
    pair.make(ENGINE)
    assert pair.literal < len(UNIT) + 4096  # a cell: its anchor may lie in the noise
    pair = Pair(tmp_path, UNIT, run)
    pair.make(ENGINE)
    assert pair.rdiff.stat().st_size < SIZE + 50


def test_offsets_beyond_four_gigabytes_are_written_in_eight_bytes(tmp_path: Path) -> None:
    pair = Pair(tmp_path, b"", UNIT)
    position = (1 << 32) + 5
    with (tmp_path / "source").open("r+b") as stream:
        stream.seek(position)
        stream.write(UNIT)
    # The zeros before need not be searched: kept anchors say that there are none.
    size, none = position + len(UNIT), np.empty(0, np.uint32)
    chunks = np.empty(0, np.int64), np.empty(0, np.uint64)
    starts = range(0, 1 << 32, BLOCK)
    blocks = [Found(BlockAnchors(first, none, none), *chunks) for first in starts]
    spacing = spacing_of(ENGINE.name, ENGINE.memory, size)
    kept = Indexer(spacing, 1 << 30)
    for block in [*blocks, find(in_memory(bytes(5) + UNIT), 1 << 32, size, spacing)]:
        kept.add(block)
    kept.save(tmp_path / "anchors", "large", size)
    source = Side(tmp_path / "source", tmp_path / "anchors", "large")
    with pair.rdiff.open("wb") as stream:
        ENGINE.delta(source, pair.sides[1], lambda block: ignore(stream.write(block)))
    assert pair.check() == [Copy(position, len(UNIT))]


def colliding(count: int, seed: int) -> bytes:
    """Return ``count`` pieces of 32 bytes: anchors all, all different, with one key."""
    words = np.random.default_rng(seed).integers(0, 1 << 63, (count, 4), np.uint64)
    words[:, 0] = pow(SELECT_FACTORS[0], -1, 1 << 32)  # its selecting hash is 1
    rest = (words[:, :3] * KEY_FACTORS[:3]).sum(axis=1, dtype=np.uint64)
    words[:, 3] = (np.uint64(1) - rest) * np.uint64(pow(int(KEY_FACTORS[3]), -1, 1 << 64))
    return words.tobytes()


def test_a_flood_of_equal_keys_is_bounded_in_the_list_the_table_and_the_comparisons() -> None:
    count = 4096
    flood = colliding(count, 1)
    data = in_memory(flood)
    found = find(data, 0, len(flood), 512).anchors
    assert len(found.keys) == len(flood) // (512 * anchors.CELL) * anchors.MOST
    equal = found.keys == found.keys[0]
    assert equal.mean() > 0.9  # but for some that became anchors by chance

    table = np.zeros(index.slots_for(len(found.keys)), np.uint64)
    index.insert(0, found.keys[equal], found.offsets[equal], table, 0, len(table))
    assert np.count_nonzero(table) == index.CANDIDATES

    target, best = in_memory(colliding(count, 2)), np.zeros(3, np.int64)
    both = comparing.Both(content(data), content(target))
    made = matching.longest(both, 0, 0, 0, len(flood), table, best)
    assert (made, best[2]) == (index.CANDIDATES, 0)


def test_every_segment_has_an_allowance_of_comparisons(
    tmp_path: Path,
) -> None:
    """A target of matches that each need a comparison, many more than the allowance."""
    unit = np.frombuffer(noise(3, BLOCK // 2), np.uint8).reshape(-1, 64)
    pair = Pair(tmp_path, unit.tobytes(), np.random.default_rng(4).permutation(unit).tobytes())
    found = pair.make(AnchorEngine("anchors:fast", threads=1))
    size = len(pair.target)
    segments = len(range(0, size, 1 << 17))
    most = segments * matching.FEWEST + size // matching.EACH
    assert len(found) <= 2 * most + segments


@pytest.mark.alike(6)
@pytest.mark.parametrize("victim", ["source", "target"])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.truncate(path, 0),
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: path.write_bytes(noise(9, 1000)),  # as cp does: truncated, then written
        lambda path: path.write_bytes(noise(9, 6 * BLOCK)),
    ],
    ids=["emptied", "one byte less", "copied over by less", "copied over by as much"],
)
def test_an_image_written_while_it_is_read_is_an_error_and_no_crash(
    tmp_path: Path, victim: str, change: Callable[[Path], object], *, kept: bool
) -> None:
    data = noise(5, 6 * BLOCK)
    pair = Pair(tmp_path, data, data)
    source, target = pair.sides
    if kept:
        kept_at = keep(ENGINE.indexer(len(data)), data, tmp_path / "anchors", "it")
        source = Side(source.path, kept_at, "it")
    changes = iter([lambda: change(tmp_path / victim)])

    def progress(_done: int) -> None:
        next(changes, lambda: None)()

    with pytest.raises(ImageChangingError, match=f"{victim}: this image changed"):
        ENGINE.delta(source, target, lambda _: None, progress)


def test_one_that_is_replaced_by_rename_meanwhile_does_no_harm(tmp_path: Path) -> None:
    data = noise(5, 6 * BLOCK)
    pair = Pair(tmp_path, data, data)
    out = bytearray()

    def replace(_done: int) -> None:
        (tmp_path / "new").write_bytes(b"another")
        (tmp_path / "new").rename(tmp_path / "source")

    ENGINE.delta(*pair.sides, out.extend, replace)
    assert len(out) < 20


def test_keys_never_reach_beyond_the_end(tmp_path: Path) -> None:
    for size in range(KEY - 1, KEY + 70):
        data = bytes(size - 1) + b"\x01"
        assert Pair(tmp_path, data, data).make(ENGINE)
