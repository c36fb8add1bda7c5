"""Images that are damaged anywhere, or hostile: refused by name, or explained to the byte."""

from __future__ import annotations

import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.packing import PLAIN, pack, tree, whole
from puavo_repository.errors import DeltaError, ImageError
from puavo_repository.fleet import explain
from puavo_repository.fleet.explain import examine
from puavo_repository.formats.decompress import decompressor
from puavo_repository.formats.squashfs_files import Squashfs
from support.foreign import changed_bytes, examples

FILES = {f"usr/lib/{n}": bytes([n]) * (n * 3_000) for n in range(12)} | {"loop/x": b"x"}
FILES["var/lib/dpkg/info/x.list"] = b"/usr/lib/3\n"
KINDS = {"plain": PLAIN, "lzo": ("-comp", "lzo"), "zstd": ("-comp", "zstd"), "gzip": ()}
NUMBERS = st.sampled_from([0, 1, 95, 1 << 15, 1 << 24, (1 << 31) - 1, (1 << 32) - 1]) | st.integers(
    0, (1 << 32) - 1
)


@cache
def image(kind: str) -> bytes:
    """Return a real image, small enough for thousands of tries."""
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        files = tree(Path(folder, "files"), FILES)
        options = (*KINDS[kind], "-b", "4K", "-nopad")
        return pack(files, Path(folder, "image"), *options).read_bytes()


def explained(old: bytes, new: bytes) -> None:
    """Explain an rdiff that brings all of ``new``, or have the image refused by its name."""
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        source, target = Path(folder, "old.img"), Path(folder, "new.img")
        source.write_bytes(old)
        target.write_bytes(new)
        try:
            found = examine(whole(target, Path(folder, "rdiff")), source, target)
        except (ImageError, DeltaError) as error:
            if ".img" not in str(error):
                raise
            return
        assert sum(item.size for item in found.items) == found.size
        assert all(item.size > 0 for item in found.items)


@examples(0.6)
@given(st.data())
def test_a_damaged_image_is_refused_or_explained(data: st.DataObject) -> None:
    whole_one = image(data.draw(st.sampled_from(sorted(KINDS))))
    damaged = data.draw(changed_bytes(whole_one))
    explained(*((whole_one, damaged) if data.draw(st.booleans()) else (damaged, whole_one)))


@examples(0.6)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 400), st.booleans(), NUMBERS)
def test_any_number_at_any_place_of_its_tables_is_borne(
    kind: str, at: int, front: bool, number: int
) -> None:
    data = bytearray(image(kind))
    at = at % 93 if front else len(data) - 4 - at  # the superblock, or the last tables
    data[at : at + 4] = number.to_bytes(4, "little")
    explained(image(kind), bytes(data))


def test_a_folder_that_is_in_itself_is_refused(tmp_path: Path) -> None:
    data = bytearray(image("plain"))
    root = int.from_bytes(data[32:34], "little")
    entry = data.rindex(b"loop") - 8  # offset, number, type and length come before the name
    data[entry : entry + 2] = root.to_bytes(2, "little")
    (tmp_path / "image").write_bytes(data)
    with pytest.raises(ImageError, match="twice"):
        examine(
            whole(tmp_path / "image", tmp_path / "rdiff"), tmp_path / "image", tmp_path / "image"
        )


@pytest.mark.parametrize("what", ["time", "memory"])
def test_what_takes_too_much_ends_as_an_error(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are those of a process: a fork gets them, and meets them."""
    (tmp_path / "image").write_bytes(image("plain"))

    def too_much(image: Squashfs) -> Iterator[tuple[str, int]]:
        while True:
            yield "/x" * (100_000 if what == "memory" else 0), next(walk(image))[1]

    walk = Squashfs.walk
    monkeypatch.setattr(explain, "_SECONDS", 1)
    monkeypatch.setattr(explain, "_MEMORY", 100 << 20 if what == "memory" else 1 << 30)
    monkeypatch.setattr(Squashfs, "walk", too_much)
    child = os.fork()
    if not child:
        try:
            files = tmp_path / "rdiff", tmp_path / "image", tmp_path / "image"
            explain._limited(whole(files[1], files[0]), *files[1:], print)
        except ImageError as error:
            os._exit(7 if (what == "time") == ("processor" in str(error)) else 8)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(("kind", "pack"), [(1, zlib.compress), (4, lzma.compress)])
def test_a_block_that_becomes_too_large_is_not_unpacked(
    kind: int, pack: Callable[[bytes], bytes]
) -> None:
    unpack = decompressor(kind)
    assert unpack(pack(bytes(8192)), 8192) == bytes(8192)
    for large in (pack(bytes(8193)), pack(bytes(1 << 24)), pack(bytes(100))[:-5]):
        with pytest.raises(ValueError, match=r"cut short|larger"):
            unpack(large, 8192)


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown way"):
        decompressor(9)
