from __future__ import annotations

import pytest

from puavo_repository.formats.squashfs import SUPERBLOCK_SIZE, bytes_used
from support.repository import V1, Repository, name


def test_a_real_image_says_how_long_it_is(repository: Repository) -> None:
    image = repository.add(name(V1))
    found = bytes_used(image.read_bytes()[:SUPERBLOCK_SIZE])
    assert 0 <= image.stat().st_size - found < 4096  # mksquashfs pads to 4 KB


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "an empty file"),
        (b"hsqs", "only 4 bytes"),
        (b"\x7fELF" + bytes(92), "begins with the bytes 7f 45 4c 46"),
        (bytes(96), "begins with the bytes 00 00 00 00"),
        (b"hsqs" + bytes(92), "version 0.0"),
    ],
)
def test_anything_else_is_named(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        bytes_used(data)
