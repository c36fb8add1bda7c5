"""A new image made on the server, for the bytes of its rdiff.

An rdiff is COPY ranges of the old image, which the server has, and LITERAL ranges, which lie at
known offsets in the rdiff, which the server has too: it was just published for the clients. So
``copy-data`` requests (OpenSSH's ``PROTOCOL``, 4.10) put the new image together there, over
plain SFTP without a shell, and only the requests travel: 62 bytes a range, which differ in so
few that the compressed connection which they go over makes 11 of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from puavo_repository.errors import DeltaError
from puavo_repository.progress import Progress
from puavo_repository.publish.plan import Transfer
from puavo_repository.remote.tree import Piece, RemoteTree

SEAMS = 64  # how many places where two ranges meet are looked at afterwards


def assemble(
    tree: RemoteTree, item: Transfer, part: str, local_rdiff: Path, progress: Progress
) -> list[int]:
    """Have the server write a part from its base and its rdiff, from the begin, onto its disk.

    That the remote has the very files, the plan took from the journal (size and time); whoever
    calls this proves the result.

    Args:
        tree: The remote.
        item: The image, with base and rdiff.
        part: Where to write it; there is nothing yet.
        local_rdiff: The same rdiff here.
        progress: Told of the bytes that were copied.

    Returns:
        Offsets at which ranges meet, some of them: where a mistake would show.

    Raises:
        DeltaError: The rdiff is damaged, or does not make this image.
        StorageError, StorageRefusedError: The server cannot do it, or has no such file any more.
    """
    seams, at = [], 0

    def pieces() -> Iterator[Piece]:
        nonlocal at
        for piece in _pieces(item, local_rdiff):
            seams.append(at)
            at += piece.length
            yield piece
        if at != item.size:
            expected, found = f"{item.size} bytes", f"{at} bytes"
            raise DeltaError(local_rdiff, "makes another image", expected=expected, found=found)

    tree.assemble(part, pieces(), progress)
    return random.SystemRandom().sample(seams, min(SEAMS, len(seams)))


def _pieces(item: Transfer, local_rdiff: Path) -> Iterator[Piece]:
    """Yield the ranges of an rdiff; one for those that follow each other in the same file."""
    from puavo_repository.formats import rdiff  # compiled code, slow to load

    last = Piece(item.base, 0, 0)
    for command in rdiff.commands(local_rdiff):
        path = item.base if isinstance(command, rdiff.Copy) else item.rdiff
        if (path, command.position) == (last.path, last.offset + last.length):
            last = last._replace(length=last.length + command.length)
            continue
        if last.length:
            yield last
        last = Piece(path, command.position, command.length)
    if last.length:
        yield last
