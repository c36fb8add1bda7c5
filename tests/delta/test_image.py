"""An image in memory: what is not there any more is an error, and no crash."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
import threading
from pathlib import Path

import pytest

from delta.guarded import in_child
from delta.pairs import noise
from puavo_repository.delta.image import Image
from puavo_repository.errors import ImageChangingError, StorageError

SIZE = 40 * mmap.PAGESIZE + 5


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(noise(1, SIZE))
    return path


@pytest.mark.parametrize("size", [0, 1, mmap.PAGESIZE, SIZE])
def test_its_bytes_are_there_and_some_around_them_can_be_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(noise(1, size))
    with Image.open(path) as image:
        assert image.data[:size].tobytes() == noise(1, size)
        assert ctypes.string_at(image.address - 128, 128) == bytes(128)
        assert ctypes.string_at(image.address + size, 128) == bytes(128)
        assert image.view(size - 1 if size else 0, 100).tobytes() == noise(1, size)[-1:]
        image.check()


def test_bytes_are_compared_up_to_the_first_other_one_or_the_end(image: Path) -> None:
    content = image.read_bytes()
    other = bytearray(content[100:300])
    other[77] ^= 1
    with Image.open(image) as opened:
        assert opened.same(memoryview(bytearray(content[100:300])), 100) == 200
        assert opened.same(memoryview(other), 100) == 77
        assert opened.same(memoryview(bytearray(content[-5:] + b"more")), SIZE - 5) == 5
        assert opened.same(memoryview(b"more"), SIZE) == 0


def test_what_is_cut_off_is_empty_and_an_error_in_the_end(image: Path) -> None:
    with Image.open(image) as opened:
        os.truncate(image, mmap.PAGESIZE)
        assert opened.data[: mmap.PAGESIZE].any()
        assert not opened.data[mmap.PAGESIZE :].any()
        with pytest.raises(ImageChangingError, match="image: this image changed"):
            opened.check()


def test_what_the_disk_does_not_give_is_its_error_where_the_image_is_the_same(image: Path) -> None:
    content, before = image.read_bytes(), image.stat()
    with Image.open(image) as opened:
        os.truncate(image, 0)
        assert opened.data[5] == 0
        image.write_bytes(content)
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(StorageError, match="image: Input/output error"):
            opened.check()


def test_it_holds_for_threads_and_each_image_by_itself(image: Path, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        path.write_bytes(noise(1, SIZE))
    seen: list[bool] = []

    def look(path: Path) -> None:
        with Image.open(path) as opened:
            opened.same(memoryview(bytearray(SIZE)), 0)
            ready.wait()
            cut.wait()
            seen.append(bool(opened.data.any()))

    ready, cut = threading.Barrier(len(paths) + 1), threading.Event()
    threads = [threading.Thread(target=look, args=[path]) for path in paths]
    with Image.open(image) as untouched:
        for thread in threads:
            thread.start()
        ready.wait()
        for path in paths[1:]:
            os.truncate(path, 0)
        cut.set()
        for thread in threads:
            thread.join()
        untouched.check()
    assert sorted(seen) == [False] * 4 + [True]


def test_the_same_signal_of_other_memory_ends_the_process_as_before(image: Path) -> None:
    def look() -> None:
        faulthandler.disable()
        with Image.open(image), image.open("r+b") as stream:
            other = mmap.mmap(stream.fileno(), 0)
            os.truncate(image, 0)
            other[5]

    with pytest.raises(AssertionError, match=f"status -{signal.SIGBUS}"):
        in_child(look)


@pytest.mark.parametrize("how", ["anywhere", "in order"])
def test_what_was_looked_at_does_not_stay_in_memory(tmp_path: Path, how: str) -> None:
    path = tmp_path / "large"
    size = 64 << 20
    path.write_bytes(noise(1, size))

    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        kinds = [line.split() for line in lines if line.startswith(("RssFile", "RssShmem"))]
        return sum(int(size) << 10 for _, size, _ in kinds)

    with Image.open(path) as opened:
        before, most = resident(), 0
        for start in range(0, size, 1 << 20):
            opened.data[start : start + (1 << 20)].sum()
            if how == "anywhere":
                opened.seen(1 << 20)
            else:
                opened.past(start)
            most = max(most, resident() - before)
    assert most < 16 << 20
