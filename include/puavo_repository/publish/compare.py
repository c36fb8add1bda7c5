"""Telling a remote file from another by reading some of it back, or all."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Iterator
from itertools import tee
from pathlib import Path

from puavo_repository.errors import PublishError, as_storage_error
from puavo_repository.progress import Progress, no_progress
from puavo_repository.remote.tree import Range, RemoteTree

SAMPLE = 4 << 10  # bytes of one sampled range
EDGE = 64 << 10  # bytes compared at both ends
STRIDE = 16 << 20  # one sample in each stretch of this size
MOST_SAMPLES = 256
WHOLE = 1 << 20  # a file up to this size is compared whole
BLOCK = 1 << 20  # bytes of one range when everything is compared


def check_local(path: Path, size: int) -> None:
    """Raise ``PublishError`` where a local file is not there with its size."""
    with as_storage_error(path):
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            found = -1
    if found != size:
        raise PublishError(
            path,
            "is not the file that the metadata describes",
            expected=f"{size} bytes",
            found=f"{found} bytes" if found >= 0 else "no file",
            remedy="Prepare the mirror again",
        )


def samples(size: int, also: Iterable[int] = ()) -> list[Range]:
    """Choose ranges by which a file is told from another: both ends, random ones between.

    Args:
        size: Of the file, in bytes.
        also: Further offsets around which to look, such as seams.
    """
    if size <= WHOLE:
        return [Range(0, size)] if size else []
    stride = max(STRIDE, size // MOST_SAMPLES)
    chance = random.SystemRandom()
    inner = (min(size - SAMPLE, at + chance.randrange(stride)) for at in range(0, size, stride))
    around = (min(max(0, at - SAMPLE // 2), size - SAMPLE) for at in also)
    ends = (Range(0, EDGE), Range(size - EDGE, EDGE))
    return [*ends, *(Range(at, SAMPLE) for at in sorted({*inner, *around}))]


def every_range(size: int) -> Iterator[Range]:
    """Cut a file into ranges that cover it; one by one, since a server may lie about its size."""
    return (Range(at, min(BLOCK, size - at)) for at in range(0, size, BLOCK))


def same_bytes(tree: RemoteTree, path: str, local: Path, ranges: Iterable[Range]) -> bool:
    """Say whether a remote file has the local one's bytes in some ranges."""
    with as_storage_error(local), local.open("rb", buffering=0) as stream:
        asked, wanted = tee(ranges)
        here = (os.pread(stream.fileno(), r.length, r.offset) for r in wanted)
        return all(a == b for a, b in zip(tree.read(path, asked), here, strict=True))


def sha256_of(tree: RemoteTree, path: str, size: int, progress: Progress = no_progress) -> str:
    """Read a remote file whole and return its sha256."""
    digest = hashlib.sha256()
    for block in tree.read(path, every_range(size)):
        digest.update(block)
        progress(len(block))
    return digest.hexdigest()
