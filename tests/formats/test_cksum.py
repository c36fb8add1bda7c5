"""POSIX cksum, against the program of that name."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puavo_repository.formats.cksum import PosixCksum


def by_program(data: bytes) -> int:
    done = subprocess.run(["cksum"], input=data, capture_output=True, check=True, timeout=60)
    return int(done.stdout.split()[0])


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 65, 255, 256, 65_537, (1 << 18) + 3])
def test_it_is_what_the_program_says(size: int) -> None:
    data = bytes((i * i + i // 251) & 0xFF for i in range(size))
    cksum = PosixCksum()
    cksum.update(memoryview(data))
    assert cksum.value() == by_program(data)


@given(st.lists(st.binary(max_size=100), max_size=8))
def test_the_size_of_the_blocks_does_not_matter(blocks: list[bytes]) -> None:
    whole, parts = PosixCksum(), PosixCksum()
    whole.update(memoryview(b"".join(blocks)))
    for block in blocks:
        parts.update(memoryview(block))
        parts.value()  # may be asked for at any time
    assert parts.value() == whole.value()


def test_bytearrays_and_parts_of_blocks_are_taken() -> None:
    data = bytearray(range(200))
    cksum = PosixCksum()
    cksum.update(memoryview(data)[3:150])
    assert cksum.value() == by_program(bytes(data[3:150]))
