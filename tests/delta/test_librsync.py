"""The proof by librsync, and the reference engine."""

from __future__ import annotations

import mmap
import os
import re
from collections import deque
from pathlib import Path

import pytest

from delta.pairs import Copy, Pair, noise
from puavo_repository.delta import AnchorEngine, work
from puavo_repository.delta.librsync import LibrsyncEngine, patch
from puavo_repository.errors import ImageChangingError, ProofError, StorageError
from puavo_repository.formats.rdiff import END, MAGIC
from puavo_repository.mirror.digests import IN_USE

A, B = noise(1, 9_000_000), noise(2, 70_000)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path, A, A[5_000_000:] + B + A[:4_000_000])


def prove(pair: Pair) -> None:
    source, target = pair.sides
    work.prove(source.path, target.path, pair.rdiff)


def test_both_engines_make_what_is_proven(pair: Pair) -> None:
    for engine in (AnchorEngine(), LibrsyncEngine()):
        pair.make(engine)
        prove(pair)


def test_the_proof_tells_its_progress(pair: Pair) -> None:
    pair.make(AnchorEngine())
    told: list[int] = []
    source, target = pair.sides
    work.prove(source.path, target.path, pair.rdiff, told.append)
    assert sum(told) == len(pair.target)


def test_any_wrong_byte_is_found(pair: Pair) -> None:
    assert pair.make(AnchorEngine())[0] == Copy(5_000_000, 4_000_000)
    data = bytearray(pair.rdiff.read_bytes())
    for at, where in ((4 + 1 + 3, "the first difference is at byte [0-9]"), (5000, "at byte 4004")):
        damaged = data.copy()
        damaged[at] ^= 1
        pair.rdiff.write_bytes(damaged)
        with pytest.raises(ProofError, match=where):
            prove(pair)


def test_an_rdiff_that_is_slowly_digested_does_not_stay_in_memory(tmp_path: Path) -> None:
    size = 128 << 20
    source, rdiff = tmp_path / "source", tmp_path / "large.rdiff"
    source.touch()
    with rdiff.open("wb") as stream:
        stream.write(MAGIC + b"\x44" + size.to_bytes(8, "big"))  # all of it is one literal
        stream.truncate(stream.seek(size, os.SEEK_CUR))
        stream.write(END)
    waiting: deque[memoryview] = deque()
    resident = 0

    def digested(block: memoryview) -> None:
        nonlocal resident
        if len(waiting) == IN_USE:
            waiting.popleft()[:: mmap.PAGESIZE].tobytes()
        waiting.append(block)
        if not block:
            maps = Path("/proc/self/smaps").read_text().partition(rdiff.name)[2]
            resident = int(re.search(r"Rss: +(\d+) kB", maps)[1]) << 10  # type: ignore[index]

    patch(source, rdiff, lambda _block: None, digested)
    assert 0 < resident < 24 << 20


@pytest.mark.parametrize(
    ("rdiff", "problem"),
    [
        (b"", "not an rdiff"),
        (MAGIC, "truncated"),
        (MAGIC + END, "does not give all of target"),
        (MAGIC + b"\x51" + (1 << 40).to_bytes(8, "big") + b"\x09" + END, "cannot be applied"),
    ],
)
def test_an_unsound_rdiff_is_no_proof(pair: Pair, rdiff: bytes, problem: str) -> None:
    pair.rdiff.write_bytes(rdiff)
    with pytest.raises(ProofError, match=problem):
        prove(pair)


def test_one_for_a_longer_target_is_no_proof(pair: Pair) -> None:
    pair.make(AnchorEngine())
    (pair.folder / "target").write_bytes(pair.target[:-1])
    with pytest.raises(ProofError, match="first difference is at byte"):
        prove(pair)


@pytest.mark.parametrize("victim", ["source", "target"])
@pytest.mark.parametrize("change", [b"x" * 100_000, b""], ids=["written to", "truncated"])
def test_an_image_that_changes_during_the_proof_is_named_and_may_pass(
    pair: Pair, victim: str, change: bytes
) -> None:
    pair.make(AnchorEngine())
    path = pair.folder / victim
    os.utime(path, (1, 1))

    def write(_done: int) -> None:
        with path.open("r+b") as stream:
            stream.truncate(1_000_000 if not change else None)
            for at in range(0, 9_000_000, 300_000) if change else ():
                os.pwrite(stream.fileno(), change, at)

    source, target = pair.sides
    with pytest.raises(ImageChangingError, match=f"{victim}: this image changed"):
        work.prove(source.path, target.path, pair.rdiff, write)


@pytest.mark.parametrize("victim", ["source", "target"])
def test_one_that_was_written_to_without_a_change_was_not_at_rest_either(
    pair: Pair, victim: str
) -> None:
    pair.make(AnchorEngine())
    source, target = pair.sides
    with pytest.raises(ImageChangingError, match=f"{victim}: this image changed"):
        work.prove(
            source.path, target.path, pair.rdiff, lambda _: os.utime(pair.folder / victim, (1, 1))
        )


def test_a_missing_source_names_itself(pair: Pair) -> None:
    pair.make(AnchorEngine())
    (pair.folder / "source").unlink()
    with pytest.raises(StorageError, match="source: No such file"):
        prove(pair)
