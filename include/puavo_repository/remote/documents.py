"""Small files on a remote that are read and written as a whole: metadata, CKSUMS, our records."""

import contextlib
import secrets
from collections.abc import Callable

from puavo_repository.errors import RepositoryError
from puavo_repository.remote.tree import Kind, OpenMode, Range, RemoteTree

LARGEST_DOCUMENT = 64 << 20  # bytes; one of ours is never that large


def read_whole(tree: RemoteTree, path: str) -> bytes | None:
    """Return a document's content, or None where there is no such file, or too large a one."""
    found = tree.stat(path)
    if found is None or found.kind is not Kind.FILE or found.size > LARGEST_DOCUMENT:
        return None
    with tree.open(path, OpenMode.READ, found) as file:
        return b"".join(file.read([Range(0, found.size)]))


def write_whole(
    tree: RemoteTree, path: str, content: bytes, check: Callable[[], object] = lambda: None
) -> None:
    """Write a small file so that a reader finds the old content or the new, never a part.

    ``check`` is called when all is on the disk, right before it gets its name. Each try has a part
    of its own: who lost the lock may write the same.
    """
    folder, slash, name = path.rpartition("/")
    part = f"{folder}{slash}.{name}.{secrets.token_hex(8)}.part"
    try:
        with tree.open(part, OpenMode.CREATE) as file:
            file.write(0, content)
            file.sync()
        check()
        tree.rename(part, path)
    except RepositoryError:
        with contextlib.suppress(RepositoryError):
            tree.remove(part)
        raise
