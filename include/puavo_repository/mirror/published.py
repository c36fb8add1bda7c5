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

from puavo_repository.mirror import files
from puavo_repository.mirror.records import FOLDER, REMOTES, Record, Records

_ID = re.compile(rb"[0-9a-f]{32}\n")


@dataclass(frozen=True)
class Published(Record):
    """What is known of one remote, named by its address; times are in seconds since the epoch."""

    generation: int = 0  # counts the changes of what its clients see
    changed: float | None = None  # when a run last found another generation there
    verified: float | None = None  # when a run last found everything there
    files: Mapping[str, str] = field(default_factory=dict)  # that clients see: sha256 by path
    problems: Mapping[str, str] = field(default_factory=dict)  # of the last run, by file or step
    restored: int | None = None  # generation that a rollback put back, while clients see it
    checked: float | None = None  # when a run last looked at it
    reached: bool = True  # by the last run

    @property
    def address(self) -> str:
        """The remote's URL, or the id of its Airflow connection."""
        return unquote(self.name)

    @classmethod
    def from_dict(cls, name: str, values: dict[str, Any]) -> Self:
        """Read what ``to_dict`` returned, or returned before it had the last three values."""
        return super().from_dict(name, {"checked": values["verified"], **values})


def mirror_id(mirror: Path, *, make: bool) -> str:
    """Return the random id of a mirror, by which a remote knows whose clients it has.

    Where there is none, one is made or it is empty. One that was lost does no harm: see
    ``survey.check_owner``.
    """
    path = mirror / FOLDER / "id"
    found = files.read(path) or b""
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
    """Keep what a run left on a remote, whose ``address`` holds no password.

    ``generation`` is what its clients see now, 0 where nothing is published there; ``files``, None
    where it could not be reached: then what was known of it stays, whatever else is given.
    ``restored`` counts until clients see another generation.
    """
    found = replace(known(mirror, address), problems=dict(problems), reached=files is not None)
    if files is not None:
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
        )
    records(mirror).put(found)
    return found
