"""What the stages have called by ``contained``, as it needs compiled code and librsync.

An image is read; an rdiff is written, and proven by applying it as clients do.
"""

import os
from pathlib import Path

from puavo_repository.delta.engine import DeltaEngine, Image, Side, check_at_rest
from puavo_repository.delta.librsync import patch
from puavo_repository.errors import DeltaError, ProofError, as_storage_error
from puavo_repository.formats.metadata import Digests
from puavo_repository.mirror import files
from puavo_repository.mirror.digests import BLOCK_SIZE, Digester, digest_file
from puavo_repository.mirror.files import Identity
from puavo_repository.progress import Progress, no_progress


def read_image(
    path: Path, identity: Identity, engine: DeltaEngine, anchors: Path, progress: Progress
) -> Digests:
    """Read an image once: its checksums, and its index for the delta engine, kept at ``anchors``.

    Raises:
        ImageChangingError: It is not the one with this ``identity``, or was written meanwhile.
        StorageError, StorageRefusedError: It cannot be read, or the index not written.
    """
    indexer = engine.indexer(identity.size)
    with as_storage_error(path), path.open("rb", buffering=0) as image:
        os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        with Digester([indexer.update] if indexer else []) as digester:
            while block := image.read(BLOCK_SIZE):
                digester.update(block)
                progress(len(block))
            digests = digester.digests()
        found = Identity.of(os.fstat(image.fileno()))
    for seen in (found, found._replace(size=digests.size)):
        check_at_rest(path, identity, seen, "while it was read")
    if indexer is not None:
        indexer.save(anchors, str(identity), identity.size)
    return digests


def write_rdiff(
    engine: DeltaEngine, source: Side, target: Side, part: Path, progress: Progress
) -> Digests:
    """Write an rdiff to ``part``, digested in the same pass, and make it durable.

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


def prove(source: Path, target: Path, rdiff: Path, progress: Progress = no_progress) -> None:
    """Prove an rdiff: applied with librsync to ``source``, it gives ``target`` byte for byte.

    ``progress`` is told of the bytes of the target that were compared.

    Raises:
        ProofError: It does not; the text says where.
        ImageChangingError: It does not, and one of the images was written to meanwhile.
        StorageError, StorageRefusedError: A file cannot be read.
    """
    from puavo_repository.formats.rdiff import command_blocks  # compiled code, slow to load

    position = 0

    def compare(block: memoryview) -> None:
        nonlocal position
        wanted = image.bytes_at(position, len(block))
        if wanted != block:  # one comparison of memory, as ``wanted`` is a bytearray
            pairs = enumerate(zip(bytes(block), wanted, strict=False))
            same = next((i for i, (a, b) in pairs if a != b), len(wanted))
            where = f"the first difference is at byte {position + same}"
            raise ProofError(rdiff, f"applied, it does not give {target.name}: {where}")
        position += len(block)
        progress(len(block))

    with Image.open(source) as basis, Image.open(target) as image:
        try:
            for _ in command_blocks(rdiff):
                pass  # only commands that clients can read
            patch(source, rdiff, compare)
            if image.bytes_at(position, 1):
                problem = f"applied, it does not give all of {target.name}"
                expected, found = f"{image.size} bytes", f"{position} bytes"
                raise ProofError(rdiff, problem, expected=expected, found=found)
        except DeltaError as error:
            for one in (basis, image):
                one.check_unchanged()  # the rdiff may be right, and the image was another one
            if isinstance(error, ProofError):
                raise
            problem = f"this rdiff cannot be applied: {error.problem}"
            raise ProofError(rdiff, problem, found=error.found) from error
