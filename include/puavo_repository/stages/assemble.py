"""A new image made on the server, for the bytes of its rdiff.

An rdiff is COPY ranges of the old image, which the server has, and LITERAL ranges, which lie at
known offsets in the rdiff, which the server has too: it was just published for the clients. So
``copy-data`` requests (OpenSSH's ``PROTOCOL``, 4.10) put the new image together there, over
plain SFTP without a shell, and only the requests travel: 62 bytes a range, which differ in so
few that the compressed connection they go over makes 11 of them.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from puavo_repository.errors import DeltaError, PublishError
from puavo_repository.formats import rdiff as rdiff_format
from puavo_repository.formats.rdiff import Copy, Literal
from puavo_repository.stages.compare import same_bytes, samples
from puavo_repository.stages.publish_plan import Transfer
from puavo_repository.storage.remote import Access, Kind, RemoteFile, RemoteTree

logger = logging.getLogger(__name__)

SEAMS = 64  # how many places where two ranges meet are looked at afterwards


def assemble(
    tree: RemoteTree,
    item: Transfer,
    mirror_dir: Path,
    begin: int,
    done: Callable[[int], None],
) -> list[int]:
    """Have the server write the part of an image from its base and its rdiff.

    Args:
        tree: The remote.
        item: The image, with base and rdiff.
        mirror_dir: The local mirror, which has the rdiff and perhaps the base.
        begin: Bytes of the part that are there already.
        done: Told how many bytes of the image are there.

    Returns:
        Offsets at which ranges meet, some of them: where a mistake would show.

    Raises:
        PublishError: Base or rdiff are not there, or not the right ones.
        DeltaError: The rdiff is damaged, or does not make this image.
        StorageError: The server cannot do it.
    """
    for path in (item.base, item.rdiff):
        _check_source(tree, path, mirror_dir / path)
    with (
        tree.open(item.base, Access.READ) as base,
        tree.open(item.rdiff, Access.READ) as rdiff,
        tree.open(item.part, Access.WRITE) as part,
    ):
        seams = _copy_ranges(item, mirror_dir / item.rdiff, base, rdiff, part, begin, done)
        part.sync()
    return random.SystemRandom().sample(seams, min(SEAMS, len(seams)))


def _copy_ranges(
    item: Transfer,
    local_rdiff: Path,
    base: RemoteFile,
    rdiff: RemoteFile,
    part: RemoteFile,
    begin: int,
    done: Callable[[int], None],
) -> list[int]:
    seams, at, there = [], 0, begin

    def copied(count: int) -> None:
        nonlocal there
        there += count
        done(there)

    for piece in _joined(rdiff_format.commands(local_rdiff)):
        skip = min(piece.length, max(0, begin - at))  # what an earlier attempt made of it
        if skip < piece.length:
            source = base if isinstance(piece, Copy) else rdiff
            part.copy(source, piece.position + skip, piece.length - skip, at + skip, copied)
            seams.append(at)
        at += piece.length
    if at != item.size:
        raise DeltaError(
            local_rdiff, "makes another image", expected=f"{item.size} bytes", found=f"{at} bytes"
        )
    return seams


def _joined(parts: Iterable[Copy | Literal]) -> Iterator[Copy | Literal]:
    """Make one range of those that follow each other in the same file."""
    last: Copy | Literal | None = None
    for part in parts:
        if type(last) is type(part) and last.position + last.length == part.position:
            last = type(part)(last.position, last.length + part.length)
            continue
        if last is not None:
            yield last
        last = part
    if last is not None:
        yield last


def _check_source(tree: RemoteTree, path: str, local: Path) -> None:
    """Make sure that the remote has the very file that an assembly reads.

    The plan took it from the journal (size and time); some of its bytes are compared too where
    the mirror still has it.
    """
    found = tree.stat(path)
    if found is None or found.kind is not Kind.FILE:
        raise PublishError(f"{tree.name}/{path}", "is not there to assemble from")
    if local.exists() and (
        local.stat().st_size != found.size or not same_bytes(tree, path, local, samples(found.size))
    ):
        raise PublishError(f"{tree.name}/{path}", "is not the file to assemble from")
