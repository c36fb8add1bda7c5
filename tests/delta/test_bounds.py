"""No kernel writes beyond its arrays; what filled them is still a right rdiff."""

from __future__ import annotations

import ctypes
import faulthandler
import signal
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delta.guarded import guard_pages, guarded, in_child
from delta.pairs import Pair, content, in_memory, noise
from puavo_repository.compiled import Numbers, array
from puavo_repository.delta import AnchorEngine, anchor_engine, anchors, comparing
from puavo_repository.delta.anchor_engine import EFFORTS
from puavo_repository.delta.anchors import (
    BLOCK,
    CELL,
    LEAST,
    MOST,
    find,
    find_anchors,
    find_chunks,
)
from puavo_repository.delta.index import add_borders, insert, slots_for
from puavo_repository.delta.matching import SLOTS, match_dense, match_sparse
from puavo_repository.formats.cksum import PosixCksum, reverse_bits
from puavo_repository.formats.rdiff import COLUMNS, encode, joined, out_size, parse, put_copy

Found = tuple[bytes, bytes, Numbers, list["Canaries"]]
_CANARY = -7


class Canaries:
    """Rows for copies, and rows behind them that nobody may write."""

    def __init__(self, rows: int, behind: int) -> None:
        self._all = np.full((rows + behind, 3), _CANARY, np.int64)
        self.rows = self._all[:rows]
        self._behind = self._all[rows:]

    @property
    def overwritten(self) -> int:
        return int((self._behind != _CANARY).any(axis=1).sum())


def with_every_nth_byte_flipped(data: bytes, step: int) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    changed[::step] ^= 0x55
    return changed.tobytes()


@pytest.fixture(params=[20, 58, 200])
def found(request: pytest.FixtureRequest) -> Found:
    """Have the dense level fill rows that end within a gap, with it, or with what follows it."""
    source = noise(1, 1 << 17)
    target = with_every_nth_byte_flipped(source, request.param)
    step = request.param
    sparse = np.array([(i, i, step - 1) for i in range(1, len(target) - step, 10 * step)])
    kept = in_memory(source), in_memory(target)
    both, spacing = comparing.Both(*map(content, kept)), EFFORTS["anchors:small"][1]
    made = []
    for rows in range(len(sparse), len(sparse) + 30):
        made.append(Canaries(rows, len(target) // 16))
        table = np.empty(SLOTS, np.uint64)
        match_dense(both, 0, len(target), sparse, spacing, table, made[-1].rows)
    return source, target, sparse, made


def test_the_dense_level_stops_where_its_rows_end(found: Found) -> None:
    _, _, _, made = found
    assert [canaries.overwritten for canaries in made] == [0] * len(made)


def test_rows_that_are_full_hold_right_copies_and_all_of_the_sparse_level(found: Found) -> None:
    source, target, sparse, made = found
    for canaries in made:
        done = 0
        for position, place, length in canaries.rows:
            assert done <= position
            assert target[position : position + length] == source[place : place + length]
            done = position + length
        assert {tuple(row) for row in sparse} <= {tuple(row) for row in canaries.rows}


def fill_anchors() -> None:
    found = find(in_memory(bytes(BLOCK)), 0, 2 * BLOCK, 512)
    assert len(found.anchors.keys) == BLOCK // (CELL * 512) * MOST
    scratch = array(1, np.int64), array(5, np.uint32), array(5, np.uint32)
    assert find_anchors(in_memory(bytes(BLOCK)), BLOCK, 512, *scratch) == 5


def fill_chunks() -> None:
    """A chunk at every place where one may begin, with as much room as ``find`` gives."""
    size = 10 * LEAST + 31
    for step in (1, LEAST, LEAST + 1, size - 1):
        room = size // LEAST + 1
        ends, digests = array(room, np.int64), array(room, np.uint64)
        offsets = np.arange(step, size, step, dtype=np.uint32)
        count = find_chunks(
            in_memory(bytes(size)), size, offsets, ends, digests
        )  # zeros are chosen always
        assert ends[count - 1] == size
        assert (np.diff(ends[: count - 1], prepend=0) >= LEAST).all()


def fill_table() -> None:
    table = array(slots_for(10), np.uint64)
    keys = np.random.default_rng(1).integers(0, 1 << 32, 20_000, np.uint32)
    insert((1 << 39), keys, keys, table, 0, len(table))
    assert table.all()


def fill_sparse() -> None:
    unit = np.frombuffer(noise(3, 1 << 16), np.uint8).reshape(-1, 64)
    mixed = np.random.default_rng(4).permutation(unit).tobytes()
    kept = in_memory(unit.tobytes()), in_memory(mixed)
    found = find(kept[0], 0, unit.size, 16).anchors
    table = array(slots_for(len(found.keys)), np.uint64)
    insert(*found, table, 0, len(table))
    both = comparing.Both(*map(content, kept))
    for rows in (0, 1, 200):
        scratch = array(MOST, np.int64), array((rows, 3), np.int64)
        assert match_sparse(both, 0, unit.size, table, 16, *scratch) == rows


def fill_commands() -> None:
    """The longest commands that there are, and a literal of one byte between any two."""
    count, far = 1000, (1 << 62) - 1
    out = array(out_size(2 * count + 1, count), np.uint8)
    copies = np.array([(2 * i + 1, far, 1) for i in range(count)])
    assert encode(in_memory(bytes(2 * count + 1)), 0, 2 * count + 1, copies, out) <= len(out)
    assert put_copy(array(17, np.uint8), 0, far, far) == 17
    assert len(list(joined([(far, far), out.data]))) == 4


def fill_rows_of_an_rdiff() -> None:
    data, rows = array(1 << 10, np.uint8), array((1 << 9, len(COLUMNS)), np.int64)
    data[:] = 1
    assert parse(data, len(data), 0, 0, rows) == (len(rows), len(data), 0)


def fill_borders() -> None:
    """A border at every place where one may be, and one that must be."""
    size, least, most = 10_000, 100, 400
    for step in (1, least, 399, 401, size - 1):
        offsets = np.arange(step, size, step, dtype=np.uint32)
        room = size // least + 2
        borders, keys = array(room, np.int64), array(room, np.uint32)
        count = add_borders(0, offsets, offsets, 1 << 32, least, most, borders, keys, 0)
        found = np.diff(borders[:count], prepend=0)
        assert (found <= most).all()
        assert count >= (size - most) // most


def fill_reversed_bits() -> None:
    for size in (0, 1, 7, 8, 9, 4096):
        data, out = array(size, np.uint8), array(size, np.uint8)
        data[:] = 0x0F
        reverse_bits(data, out)
        assert (out == 0xF0).all()
    PosixCksum().update(memoryview(bytes(1 << 20)))


@pytest.mark.parametrize("at_end", [True, False])
def test_a_guard_page_ends_the_process(*, at_end: bool) -> None:
    """The trials below are worth nothing if this does not hold."""
    found = guarded((3, 5), np.int64, at_end=at_end)
    found[:] = 1
    place = found.ctypes.data + (found.nbytes if at_end else -1)

    def touch() -> None:
        faulthandler.disable()
        ctypes.memset(place, 1, 1)

    with pytest.raises(AssertionError, match=f"status -{signal.SIGSEGV}"):
        in_child(touch)


@pytest.mark.parametrize("at_end", [True, False])
def test_no_kernel_leaves_its_arrays_when_they_are_full(*, at_end: bool) -> None:
    def fill() -> None:
        with guard_pages(at_end=at_end):
            fill_anchors()
            fill_chunks()
            fill_table()
            fill_sparse()
            fill_commands()
            fill_rows_of_an_rdiff()
            fill_borders()
            fill_reversed_bits()

    in_child(fill)


TARGETS = st.one_of(
    st.integers(17, 200).map(lambda step: with_every_nth_byte_flipped(noise(1, 70_000), step)),
    st.binary(min_size=1, max_size=70).map(lambda period: period * (70_000 // len(period))),
    st.lists(st.binary(max_size=40), max_size=30).map(lambda parts: bytes(5_000).join(parts)),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    source=st.one_of(st.just(noise(1, 70_000)), TARGETS),
    target=TARGETS,
    shortest=st.integers(64, 1 << 15),
    effort=st.sampled_from([*EFFORTS]),
)
def test_whatever_fills_the_arrays_gives_a_right_rdiff(
    tmp_path: Path, source: bytes, target: bytes, shortest: int, effort: str
) -> None:
    pair = Pair(tmp_path, source, target)

    def make() -> None:
        with (
            mock.patch.object(anchor_engine, "_SHORTEST", shortest),
            mock.patch.object(anchor_engine, "BLOCK", 1 << 15),
            mock.patch.object(anchors, "BLOCK", 1 << 15),
            guard_pages(at_end=True),
        ):
            pair.make(AnchorEngine(effort, threads=1))

    in_child(make)
