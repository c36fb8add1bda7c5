"""What publishing keeps beside the local mirror: its id, and what it last left on each remote.

::

    .puavo-repository/id
    .puavo-repository/remotes/<address>.json

The journal on the remote is what counts there; this is what can be shown here without asking it.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote

from puavo_repository.errors import as_storage_error
from puavo_repository.mirror import files
from puavo_repository.mirror.records import FOLDER, REMOTES, Record, Records

_ID = re.compile(rb"[0-9a-f]{32}\n")


@dataclass(frozen=True)
class Published(Record):
    """What is known of one remote.

    Attributes:
        name: Its address in a form that can be a file name; see ``address``.
        generation: Counts the changes of what its clients see.
        changed: When a run last found another generation there, in seconds since the epoch.
        verified: When a run last found everything there, None if none ever did.
        files: What its clients are told of: sha256 by path.
        problems: What the last run could not do, by file or step.
        restored: The generation whose metadata a rollback put back, while clients see it.
        checked: When a run last looked at it, None if none ever did.
        reached: Whether the last run could reach it.
    """

    generation: int = 0
    changed: float | None = None
    verified: float | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    restored: int | None = None
    checked: float | None = None
    reached: bool = True

    @property
    def address(self) -> str:
        """The remote's URL, or the id of its Airflow connection."""
        return unquote(self.name)

    @classmethod
    def from_dict(cls, name: str, values: dict[str, Any]) -> Self:
        """Read what ``to_dict`` returned, or returned before it had the last three values."""
        return cls(name, **{"checked": values["verified"], **values})


def mirror_id(mirror: Path, *, make: bool) -> str:
    """Return the random id of a mirror, by which a remote knows whose clients it has.

    One that was lost with the mirror's records does no harm: see ``survey.check_owner``.

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


def records(mirror: Path) -> Records[Published]:
    """Return the records of a mirror."""
    return Records(mirror / FOLDER / REMOTES, Published.from_dict)


def known(mirror: Path, address: str) -> Published:
    """Return what is known of a remote; of one that no run looked at yet, nothing."""
    name = quote(address, safe="")
    return records(mirror).get(name) or Published(name)


def remember(
    mirror: Path,
    address: str,
    generation: int,
    *,
    files: Mapping[str, str] | None,
    problems: Mapping[str, str],
    restored: int | None = None,
) -> Published:
    """Keep what a run left on a remote.

    Args:
        mirror: The local mirror.
        address: The remote, without any password.
        generation: What its clients see now; 0 where nothing is published there.
        files: What the metadata there names, sha256 by path; None where the remote could not be
            reached: then what was known of it stays, whatever else is given.
        problems: What could not be done; none means that all that is named there is there.
        restored: The generation whose metadata a rollback put back. It counts until clients see
            another generation.
    """
    found = known(mirror, address)
    if files is None:
        found = replace(found, reached=False)
    else:
        now = time.time()
        same = generation == found.generation
        found = replace(
            found,
            generation=generation,
            changed=found.changed if same else now,
            verified=found.verified if problems else now,
            files=dict(files),
            restored=found.restored if same and restored is None else restored,
            checked=now,
            reached=True,
        )
    found = replace(found, problems=dict(problems))
    records(mirror).put(found)
    return found
