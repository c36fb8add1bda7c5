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
from delta.pairs import Pair, noise
from puavo_repository.compiled import Bytes, Numbers, array
from puavo_repository.delta import AnchorEngine, anchor_engine, anchors
from puavo_repository.delta.anchor_engine import EFFORTS
from puavo_repository.delta.anchors import BLOCK, CELL, MOST, find, find_anchors
from puavo_repository.delta.index import add_borders, insert, table_for
from puavo_repository.delta.machine import WINDOW, Basis, buffer, equal
from puavo_repository.delta.matching import HEAD, REGION, SLOTS, match_dense, match_sparse
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
def found(tmp_path: Path, request: pytest.FixtureRequest) -> Found:
    """Have the dense level fill rows that end within a gap, with it, or with what follows it."""
    source = noise(1, 1 << 17)
    target = with_every_nth_byte_flipped(source, request.param)
    (tmp_path / "source").write_bytes(source)
    data = block_of(target)
    step = request.param
    sparse = np.array([(i, i, step - 1) for i in range(1, len(target) - step, 10 * step)])
    region, window = buffer(HEAD + REGION), buffer(WINDOW)
    place = region.ctypes.data + HEAD
    block = data.ctypes.data + HEAD, len(target)
    spacing = EFFORTS["anchors:small"][1]
    made = []
    for rows in range(len(sparse), len(sparse) + 30):
        made.append(Canaries(rows, len(target) // 16))
        with (tmp_path / "source").open("rb") as stream:
            basis = Basis(stream.fileno(), len(source), window.ctypes.data, place)
            table = np.empty(SLOTS, np.uint64)
            match_dense(basis, *block, sparse, spacing, table, made[-1].rows)
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


def block_of(data: bytes) -> Bytes:
    """Return a block as kernels want it."""
    found = buffer(HEAD + len(data))
    found[HEAD : HEAD + len(data)] = np.frombuffer(data, np.uint8)
    return found


@pytest.mark.parametrize(("start", "stop", "back"), [(0, 1000, False), (3000, 4000, True)])
def test_bytes_around_a_region_in_memory_are_not_taken_for_the_source(
    tmp_path: Path, start: int, stop: int, *, back: bool
) -> None:
    """Where a region ends, its buffer holds what an earlier one left there."""
    target = block_of(noise(1, 4000))
    source = bytearray(noise(2, 4000))
    source[start:stop] = target[HEAD + start : HEAD + stop].tobytes()
    (tmp_path / "source").write_bytes(source)
    window, place = buffer(WINDOW), target.ctypes.data + HEAD  # as if all were there
    with (tmp_path / "source").open("rb") as stream:
        basis = Basis(stream.fileno(), 4000, window.ctypes.data, place + start, start, stop)
        position = stop - 1 if back else start
        found = equal(basis, position, place + position, 4000, back)
    assert found == (position - start if back else stop - start)


def fill_anchors() -> None:
    assert len(find(buffer(BLOCK), 0, 2 * BLOCK, 512).keys) == BLOCK // (CELL * 512) * MOST
    scratch = array(1, np.int64), array(5, np.uint32), array(5, np.uint32)
    assert find_anchors(buffer(BLOCK), BLOCK, 512, *scratch) == 5


def fill_table() -> None:
    table = table_for(10)
    keys = np.random.default_rng(1).integers(0, 1 << 32, 20_000, np.uint32)
    insert((1 << 39), keys, keys, table, 0, 1)
    assert table.all()


def fill_sparse(folder: Path) -> None:
    unit = np.frombuffer(noise(3, 1 << 16), np.uint8).reshape(-1, 64)
    mixed = block_of(np.random.default_rng(4).permutation(unit).tobytes())
    found = find(block_of(unit.tobytes())[HEAD:], 0, unit.size, 16)
    table = table_for(len(found.keys))
    insert(*found, table, 0, 1)
    (folder / "source").write_bytes(unit.tobytes())
    with (folder / "source").open("rb") as stream:
        for rows in (0, 1, 200):
            window, scratch = buffer(WINDOW), (array(MOST, np.int64), array((rows, 3), np.int64))
            basis = Basis(stream.fileno(), unit.size, window.ctypes.data)
            block = mixed.ctypes.data + HEAD, unit.size
            assert match_sparse(basis, *block, table, 16, *scratch) == rows


def fill_commands() -> None:
    """The longest commands that there are, and a literal of one byte between any two."""
    count, far = 1000, (1 << 62) - 1
    out = array(out_size(2 * count + 1, count), np.uint8)
    copies = np.array([(2 * i + 1, far, 1) for i in range(count)])
    assert encode(buffer(2 * count + 1), 0, 2 * count + 1, copies, out) <= len(out)
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
def test_no_kernel_leaves_its_arrays_when_they_are_full(tmp_path: Path, *, at_end: bool) -> None:
    def fill() -> None:
        with guard_pages(at_end=at_end):
            fill_anchors()
            fill_table()
            fill_sparse(tmp_path)
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
