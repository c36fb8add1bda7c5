"""Chunks: what two images have in common is known without a look at it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delta.pairs import Pair, content, ignore, in_memory, keep, noise
from puavo_repository.compiled import Bytes, Numbers
from puavo_repository.delta import AnchorEngine, comparing
from puavo_repository.delta.anchors import BLOCK, CHUNK, digest, find
from puavo_repository.delta.engine import Side
from puavo_repository.delta.work import prove
from puavo_repository.errors import ProofError

DATA = noise(1, 40 * CHUNK)


def pair_of(source: Bytes, target: Bytes, *, chunks: bool) -> comparing.Both:
    return comparing.Both(*(content(memory, chunks=chunks) for memory in (source, target)))


@given(
    changes=st.lists(st.integers(0, len(DATA) - 1), max_size=4),
    shift=st.integers(0, 3 * CHUNK),
    start=st.integers(0, len(DATA) - 1),
    length=st.integers(1, len(DATA)),
)
def test_matches_are_as_long_as_byte_by_byte(
    changes: list[int], shift: int, start: int, length: int
) -> None:
    changed = bytearray(DATA)
    for at in changes:
        changed[at] ^= 1
    source, target = in_memory(DATA), in_memory(noise(2, shift) + changed)
    given = start, shift + start, min(length, len(DATA) - start)
    found = {
        comparing.ahead_of(pair_of(source, target, chunks=chunks), *given)
        for chunks in (True, False)
    }
    after = [at - start for at in changes if at >= start and changed[at] != DATA[at]]
    assert found == {min([*after, given[2]])}


def test_equal_chunks_are_not_looked_at() -> None:
    source, target = in_memory(DATA), in_memory(DATA)
    pair = pair_of(source, target, chunks=True)
    known = pair.target.ends
    target[int(known[3]) + 5] ^= 1  # after its digest was made
    assert comparing.ahead_of(pair, 0, 0, len(DATA)) == len(DATA)
    target[comparing.SOON - 1] ^= 1  # within what is compared first
    assert comparing.ahead_of(pair, 0, 0, len(DATA)) == comparing.SOON - 1


def test_only_whole_chunks_with_a_digest_count_where_both_have_one_begin() -> None:
    ends = np.array([5 * CHUNK, 6 * CHUNK])
    digests = np.array([7, 8], np.uint64)

    def count(position: int, source: Numbers, target: Numbers) -> int:
        contents = (comparing.Content(0, len(DATA), ends, one) for one in (source, target))
        return int(comparing.same_chunks(comparing.Both(*contents), position, 0))

    assert count(0, digests, digests) == 6 * CHUNK
    assert count(0, digests, digests * np.array([1, 0], np.uint64)) == 5 * CHUNK
    assert count(0, digests * np.array([0, 1], np.uint64), digests) == 0
    assert count(0, np.zeros(2, np.uint64), np.zeros(2, np.uint64)) == 0
    assert count(5 * CHUNK, digests[::-1].copy(), digests) == 5 * CHUNK
    assert count(5 * CHUNK - 1, digests[::-1].copy(), digests) == 0


def test_chunks_are_cut_by_content_and_end_with_their_block() -> None:
    whole = noise(3, 2 * BLOCK)
    ends = [set[int](), set[int]()]
    for some, shift in zip(ends, (0, 12_345), strict=True):
        data = noise(4, shift) + whole
        for first in range(0, len(data), BLOCK):
            found = find(in_memory(data[first:]), first, len(data), 512)
            assert found.ends[-1] == min(first + BLOCK, len(data))
            some |= {int(end) - shift for end in found.ends}
    assert len(ends[0]) == pytest.approx(len(whole) / CHUNK, rel=0.2)
    assert len(ends[0] & ends[1]) > 0.8 * len(ends[0])


@pytest.mark.parametrize("length", [32, 33, 63, 64, 100, 4096, 4099])
def test_each_byte_counts_in_a_digest(length: int) -> None:
    memory = in_memory(noise(5, length))
    found = {int(digest(memory.ctypes.data, length))}
    for at in range(length):
        for bit in (1, 128):
            memory[at] ^= bit
            found.add(int(digest(memory.ctypes.data, length)))
            memory[at] ^= bit
    assert len(found) == 1 + 2 * length
    assert int(digest(memory.ctypes.data, length - 1)) not in found
    assert 0 not in found
    memory[length:] ^= 1
    assert int(digest(memory.ctypes.data, length)) in found


def test_what_is_shorter_has_no_digest_and_is_never_the_same() -> None:
    assert digest(in_memory(DATA).ctypes.data, 31) == 0


def test_two_chunks_with_one_digest_are_found_out_by_the_proof(tmp_path: Path) -> None:
    """Nobody has made such two yet: here the record of one lies."""
    size, engine = 8 * BLOCK, AnchorEngine(threads=1)
    data = noise(6, size)
    changed = bytearray(data)
    changed[5 * BLOCK + 100_000] ^= 1
    pair = Pair(tmp_path, data, bytes(changed))
    kept = keep(engine.indexer(size), data, tmp_path / "kept", "it")
    source, target = (Side(side.path, kept, "it") for side in pair.sides)
    with pair.rdiff.open("wb") as stream:
        engine.delta(source, target, lambda block: ignore(stream.write(block)))
    with pytest.raises(ProofError, match=f"first difference is at byte {5 * BLOCK + 100_000}"):
        prove(pair.sides[0].path, pair.sides[1].path, pair.rdiff)
