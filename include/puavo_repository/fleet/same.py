"""Whether files of two images have the same content, however each is packed."""

import hashlib
from collections.abc import Iterator
from itertools import zip_longest

from puavo_repository.formats.squashfs_files import File, Squashfs

_STEP = 1 << 20  # bytes that are compared at a time


def same_content(old: Squashfs, before: File, new: Squashfs, after: File) -> bool:
    """Tell whether two files have the same content.

    Blocks that are stored as the same bytes are not unpacked, and of others no more than up to the
    first difference, where both images have blocks of one size.
    """
    if before.size != after.size:
        return False
    if old.block_size != new.block_size:
        return _digest(old.content(before)) == _digest(new.content(after))
    if before.blocks and _stored_alike(old, before, new, after):
        before, after = (one._replace(blocks=0, size=one.tail) for one in (before, after))
    pairs = zip_longest(old.content(before), new.content(after))
    return all(one == other for one, other in pairs)


def _stored_alike(old: Squashfs, before: File, new: Squashfs, after: File) -> bool:
    words = old.words_of(before.words, before.blocks)
    if old.compression != new.compression or words != new.words_of(after.words, after.blocks):
        return False
    return all(
        old.read(before.start + at, min(_STEP, before.stored - at))
        == new.read(after.start + at, min(_STEP, before.stored - at))
        for at in range(0, before.stored, _STEP)
    )


def _digest(blocks: Iterator[bytes]) -> bytes:
    digest = hashlib.blake2b()
    for block in blocks:
        digest.update(block)
    return digest.digest()
