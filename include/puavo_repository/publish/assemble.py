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

from puavo_repository.errors import DeltaError
from puavo_repository.formats import rdiff as rdiff_format
from puavo_repository.formats.rdiff import Copy, Literal
from puavo_repository.publish.plan import Transfer
from puavo_repository.remote.tree import Access, RemoteFile, RemoteTree

logger = logging.getLogger(__name__)

SEAMS = 64  # how many places where two ranges meet are looked at afterwards


def assemble(
    tree: RemoteTree,
    item: Transfer,
    part: str,
    local_rdiff: Path,
    done: Callable[[int], None],
) -> list[int]:
    """Have the server write a part from its base and its rdiff, from the begin, onto its disk.

    That the remote has the very files, the plan took from the journal (size and time); whoever
    calls this proves the result.

    Args:
        tree: The remote.
        item: The image, with base and rdiff.
        part: Where to write it; there is nothing yet.
        local_rdiff: The same rdiff here.
        done: Told how many bytes of the image are there.

    Returns:
        Offsets at which ranges meet, some of them: where a mistake would show.

    Raises:
        DeltaError: The rdiff is damaged, or does not make this image.
        StorageError, StorageRefusedError: The server cannot do it, or has no such file any more.
    """
    with (
        tree.open(item.base, Access.READ) as base,
        tree.open(item.rdiff, Access.READ) as rdiff,
        tree.open(part, Access.CREATE) as out,
    ):
        seams = _copy_ranges(item, local_rdiff, base, rdiff, out, done)
        out.sync()
    return random.SystemRandom().sample(seams, min(SEAMS, len(seams)))


def _copy_ranges(
    item: Transfer,
    local_rdiff: Path,
    base: RemoteFile,
    rdiff: RemoteFile,
    out: RemoteFile,
    done: Callable[[int], None],
) -> list[int]:
    seams, at, there = [], 0, 0

    def copied(count: int) -> None:
        nonlocal there
        there += count
        done(there)

    for piece in _joined(rdiff_format.commands(local_rdiff)):
        source = base if isinstance(piece, Copy) else rdiff
        out.copy(source, piece.position, piece.length, at, copied)
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
