"""What the stages have called by ``contained``, as it needs compiled code and librsync.

An image is read; an rdiff is written, and proven by applying it as clients do.
"""

import ctypes
import os
from pathlib import Path
from typing import Any

from puavo_repository.delta.engine import (
    Between,
    DeltaEngine,
    Side,
    Sink,
    check_at_rest,
    no_sink,
)
from puavo_repository.delta.librsync import patch
from puavo_repository.errors import DeltaError, ProofError
from puavo_repository.formats import puavo_conf
from puavo_repository.formats.metadata import Digests
from puavo_repository.mirror import files
from puavo_repository.mirror.digests import IN_USE, Digester
from puavo_repository.mirror.files import Identity
from puavo_repository.progress import Progress, no_progress

_SYNC_FILE_RANGE_WRITE = 2  # see sync_file_range(2)
_WRITE_BACK = 8 << 20  # bytes of an rdiff that go to the disk together


def read_image(
    path: Path, identity: Identity, engine: DeltaEngine, anchors: Path, progress: Progress
) -> tuple[Digests, dict[str, Any]]:
    """Read an image once: its checksums and its ``puavo-conf`` definitions, which are returned.

    Its index for the delta engine is kept at ``anchors``.

    Raises:
        ImageError: It is damaged, or its definitions cannot be used.
        ImageChangingError: It is not the one with this ``identity``, or was written meanwhile.
        StorageError, StorageRefusedError: It cannot be read, or the index not written.
    """
    from puavo_repository.delta.anchors import BLOCK
    from puavo_repository.delta.image import Image

    indexer = engine.indexer(identity.size)
    with Image.open(path) as image:
        check_at_rest(path, identity, image.identity, "while it was read")
        definitions = puavo_conf.read(path)

        def index(_block: memoryview) -> None:
            if indexer is not None:
                indexer.next_block(image.data, image.size)

        with Digester([index]) as digester:
            for start in range(0, image.size, BLOCK):
                block = image.view(start, BLOCK)
                digester.update(block)
                image.past(start - IN_USE * BLOCK)
                progress(len(block))
            digests = digester.digests()
        image.check("while it was read")
    if indexer is not None:
        indexer.save(anchors, str(identity), identity.size)
    return digests, definitions


def write_rdiff(
    engine: DeltaEngine, source: Side, target: Side, part: Path, between: Between | None,
    progress: Progress,
) -> int:  # fmt: skip
    """Write an rdiff to ``part`` and return its size; it goes to the disk meanwhile.

    Raises:
        DeltaError, ImageChangingError: See ``DeltaEngine.delta``.
        OSError: It cannot be written.
    """
    size = begun = 0
    with files.create(part, buffering=0) as stream:

        def sink(block: memoryview) -> None:
            nonlocal size, begun
            while block:
                written = os.write(stream.fileno(), block)
                block, size = block[written:], size + written
            if size - begun >= _WRITE_BACK:
                _begin_write_back(stream.fileno(), begun, size - begun)
                begun = size

        engine.delta(source, target, sink, progress, between)
        _begin_write_back(stream.fileno(), begun, size - begun)
    return size


def _begin_write_back(descriptor: int, start: int, length: int) -> None:
    """Have what was written to a file go to the disk; ``fsync`` waits for the rest of it."""
    offset, flags = ctypes.c_int64, ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
    ctypes.CDLL(None).sync_file_range(descriptor, offset(start), offset(length), flags)


def prove_rdiff(source: Path, target: Path, rdiff: Path, progress: Progress) -> Digests:
    """Prove an rdiff, as ``prove`` does; returns size and checksums of what was proven."""
    with Digester() as digester:
        prove(source, target, rdiff, progress, digester.update)
        return digester.digests()


def prove(
    source: Path, target: Path, rdiff: Path, progress: Progress = no_progress,
    given: Sink = no_sink,
) -> None:  # fmt: skip
    """Prove an rdiff: applied with librsync to ``source``, it gives ``target`` byte for byte.

    ``progress`` is told of the bytes of the target that were compared; ``given`` gets the bytes
    of the rdiff, each once, which it may use until it is called with none.

    Raises:
        ProofError: It does not; the text says where.
        ImageChangingError: It does not, and one of the images was written to meanwhile.
        StorageError, StorageRefusedError: A file cannot be read.
    """
    # Compiled code, slow to load.
    from puavo_repository.delta.image import Image
    from puavo_repository.formats.rdiff import command_blocks

    position = 0

    def compare(block: memoryview) -> None:
        nonlocal position
        if (same := image.same(block, position)) < len(block):
            where = f"the first difference is at byte {position + same}"
            raise ProofError(rdiff, f"applied, it does not give {target.name}: {where}")
        position += len(block)
        image.past(position)
        progress(len(block))

    with Image.open(target) as image:
        try:
            for _ in command_blocks(rdiff):
                pass  # only commands that clients can read
            patch(source, rdiff, compare, given)
            if position < image.size:
                problem = f"applied, it does not give all of {target.name}"
                expected, found = f"{image.size} bytes", f"{position} bytes"
                raise ProofError(rdiff, problem, expected=expected, found=found)
        except DeltaError as error:
            image.check()  # the rdiff may be right, and the target was another one
            if isinstance(error, ProofError):
                raise
            problem = f"this rdiff cannot be applied: {error.problem}"
            raise ProofError(rdiff, problem, found=error.found) from error
        image.check()
