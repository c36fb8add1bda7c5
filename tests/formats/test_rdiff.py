"""Reading an rdiff's commands, as written here and by the real ``rdiff``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delta.pairs import Copy, Literal, Pair, noise
from puavo_repository.errors import DeltaError, StorageError
from puavo_repository.formats import rdiff
from puavo_repository.formats.rdiff import END, MAGIC, Command, commands

SIZES = st.integers(1, 70_000) | st.integers(1, 300)
POSITIONS = st.integers(0, 300) | st.integers(0, 1 << 40)


def number(value: int, width: int) -> bytes:
    return value.to_bytes(width, "big")


def literal(length: int, width: int) -> bytes:
    """Encode a literal whose length takes ``width`` bytes; none for the short form."""
    head = bytes([length]) if not width else bytes([0x41 + width.bit_length() - 1])
    return head + (number(length, width) if width else b"") + bytes(length)


def copy(position: int, wide: int, length: int, long: int) -> bytes:
    code = 0x45 + 4 * (wide.bit_length() - 1) + long.bit_length() - 1
    return bytes([code]) + number(position, wide) + number(length, long)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rdiff"


@st.composite
def encoded(draw: st.DrawFn) -> tuple[bytes, Command]:
    """Any command, in any of the widths that hold it; a literal's position is 0 here."""
    size = draw(SIZES)
    fitting = [width for width in (1, 2, 4, 8) if size < 1 << 8 * width]
    if draw(st.booleans()):
        position = draw(POSITIONS)
        wide = draw(st.sampled_from([w for w in (1, 2, 4, 8) if position < 1 << 8 * w]))
        return copy(position, wide, size, draw(st.sampled_from(fitting))), Copy(position, size)
    short = [0] if size <= 0x40 else []
    return literal(size, draw(st.sampled_from(fitting + short))), Literal(0, size)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.lists(encoded(), max_size=30), st.sampled_from([1 << 20, 64, 17]))
def test_every_width_is_read(path: Path, stream: list[tuple[bytes, Command]], window: int) -> None:
    path.write_bytes(MAGIC + b"".join(data for data, _ in stream) + END)
    expected: list[Command] = []
    at = len(MAGIC)
    for data, command in stream:
        at += len(data)
        expected.append(
            command if command.is_copy else Literal(at - command.length, command.length)
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rdiff, "_WINDOW", window)
        assert list(commands(path)) == expected


def test_what_the_real_rdiff_writes_is_read(tmp_path: Path) -> None:
    shared, other = noise(1, 500_000), noise(2, 70_001)
    pair = Pair(tmp_path, shared, shared[:100_000] + other + shared[100_000:])
    for step in (["signature", "source", "sig"], ["delta", "sig", "target", "rdiff"]):
        subprocess.run(["rdiff", *step], cwd=tmp_path, check=True, timeout=60)
    found = list(commands(pair.rdiff))
    assert sum(command.length for command in found) == len(pair.target)
    assert sum(c.length for c in found if c.is_copy) > 490_000


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not an rdiff"),
        (b"rs\x016" + END, "not an rdiff"),
        (MAGIC, "truncated"),
        (MAGIC + copy(1, 4, 1, 4)[:-1], "truncated"),
        (MAGIC + literal(9, 1)[:-1], "truncated"),
        (MAGIC + literal(9, 1), "truncated"),
        (MAGIC + END + b"x", "follows after the end"),
        (MAGIC + b"\x55" + END, "unknown command"),
        (MAGIC + b"\xff" + END, "unknown command"),
        (MAGIC + literal(0, 2) + END, "length zero"),
        (MAGIC + copy(7, 1, 0, 8) + END, "length zero"),
        (MAGIC + copy(1 << 63, 8, 1, 1) + END, "no file can have"),
        (MAGIC + copy((1 << 63) - 1, 8, 9, 1) + END, "no file can have"),
        (MAGIC + b"\x44" + number((1 << 63) - 1, 8) + END, "no file can have|truncated"),
    ],
)
def test_what_clients_cannot_read_is_refused(path: Path, content: bytes, problem: str) -> None:
    path.write_bytes(content)
    with pytest.raises(DeltaError, match=problem):
        list(commands(path))


def test_a_missing_rdiff_names_itself(path: Path) -> None:
    with pytest.raises(StorageError, match="rdiff: No such file"):
        list(commands(path))


def test_the_gigabytes_of_a_literal_are_not_read(path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(MAGIC + b"\x44" + number(1 << 34, 8))
        stream.seek(1 << 34, 1)
        stream.write(copy(5, 8, 1 << 33, 8) + END)
    assert list(commands(path)) == [Literal(13, 1 << 34), Copy(5, 1 << 33)]
