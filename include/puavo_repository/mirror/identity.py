"""Which mirror this is: a random id beside it, so that a remote knows whose clients it has."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from puavo_repository.errors import as_storage_error
from puavo_repository.mirror import files
from puavo_repository.mirror.records import FOLDER

_ID = re.compile(rb"[0-9a-f]{32}\n")


def mirror_id(mirror: Path, *, make: bool) -> str:
    """Return the id of a mirror.

    One that was lost with the mirror's records does no harm: see ``publish_survey.check_owner``.

    Args:
        mirror: The mirror.
        make: Whether one is made where there is none; else it is empty.

    Raises:
        StorageError, StorageRefusedError: It cannot be read or written.
    """
    path = mirror / FOLDER / "id"
    with as_storage_error(path):
        found = path.read_bytes() if path.exists() else b""
    if not _ID.fullmatch(found):
        if not make:
            return ""
        found = f"{secrets.token_hex(16)}\n".encode()
        files.write(path, found)
    return found.decode().strip()
