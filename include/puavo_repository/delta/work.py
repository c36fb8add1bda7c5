"""What is done with compiled code for the stages; they have it called by ``contained``."""

from __future__ import annotations

import os
from pathlib import Path

from puavo_repository.delta.engine import DeltaEngine, Side
from puavo_repository.delta.proof import prove
from puavo_repository.errors import ImageChangingError, storage_error
from puavo_repository.formats.metadata import Digests
from puavo_repository.mirror import files
from puavo_repository.mirror.digests import BLOCK_SIZE, Digester, digest_file
from puavo_repository.mirror.files import Identity
from puavo_repository.progress import Progress, no_progress


def write_rdiff(
    engine: DeltaEngine, source: Side, target: Side, part: Path, progress: Progress
) -> Digests:
    """Write an rdiff, digested in the same pass, and make it durable.

    Args:
        engine: What makes it.
        source: The image that clients have.
        target: The image that they want.
        part: Where it is made.
        progress: Told of the bytes of the target.

    Raises:
        DeltaError, ImageChangingError: See ``DeltaEngine.delta``.
        OSError: It cannot be written.
    """
    with files.create(part, buffering=0) as stream, Digester() as digester:

        def sink(block: memoryview) -> None:
            owned = bytes(block)
            digester.update(owned)
            rest = memoryview(owned)
            while rest:
                rest = rest[os.write(stream.fileno(), rest) :]

        engine.delta(source, target, sink, progress)
        digests = digester.digests()
        os.fsync(stream.fileno())
    return digests


def adopt_rdiff(source: Path, target: Path, rdiff: Path, progress: Progress) -> Digests:
    """Prove an rdiff that another system made; returns its size and checksums."""
    prove(source, target, rdiff, progress)
    return digest_file(rdiff, no_progress)


def read_image(
    path: Path, identity: Identity, engine: DeltaEngine, anchors: Path, progress: Progress
) -> Digests:
    """Read an image once: its checksums, and its index for the delta engine, which is kept.

    Args:
        path: The image.
        identity: It, as it was when it was looked at.
        engine: Whose index it is.
        anchors: Where the index goes.
        progress: Told of the bytes read.

    Raises:
        ImageChangingError: It is another one, or was written meanwhile.
        StorageError, StorageRefusedError: It cannot be read, or the index not written.
    """
    indexer = engine.indexer(identity.size)
    try:
        with path.open("rb", buffering=0) as image:
            os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            with Digester([indexer.update] if indexer else []) as digester:
                while block := image.read(BLOCK_SIZE):
                    digester.update(block)
                    progress(len(block))
                digests = digester.digests()
            found = Identity.of(os.fstat(image.fileno()))
    except OSError as error:
        raise storage_error(path, error) from error
    if found != identity or digests.size != identity.size:
        raise ImageChangingError(
            path,
            "this image changed while it was read",
            expected=f"{identity.size} bytes at rest",
            found=f"{found.size} bytes now",
            remedy="Run again when it is copied completely; best copy it under another name "
            "and rename it then",
        )
    if indexer is not None:
        indexer.save(anchors, str(identity))
    return digests
