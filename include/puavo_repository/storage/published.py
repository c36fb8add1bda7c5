"""What the last publishing run left on each remote, kept beside the local mirror.

::

    .puavo-repository/remotes/<address>.json

The journal on the remote is what counts there; this is what can be shown here without asking it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from puavo_repository.formats import metadata
from puavo_repository.storage.mirror import Mirror
from puavo_repository.storage.state import Records


@dataclass(frozen=True)
class Published:
    """What is known of one remote.

    Attributes:
        name: Its address in a form that can be a file name; see ``address``.
        generation: Counts the changes of what its clients see.
        changed: When a run last found another generation there, in seconds since the epoch.
        verified: When a run last found everything there, None if none ever did.
        files: What it held then: sha256 by path.
        problems: What the last run could not do, by file or step.
    """

    name: str
    generation: int = 0
    changed: float | None = None
    verified: float | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The remote's URL, or the id of its Airflow connection."""
        return unquote(self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "generation": self.generation,
            "changed": self.changed,
            "verified": self.verified,
            "files": dict(self.files),
            "problems": dict(self.problems),
        }

    @classmethod
    def from_dict(cls, name: str, values: dict[str, Any]) -> Published:
        """Read what ``to_dict`` returned."""
        return cls(
            name,
            int(values["generation"]),
            values["changed"],
            values["verified"],
            dict(values["files"]),
            dict(values["problems"]),
        )


def records(mirror: Path) -> Records[Published]:
    """Return the records of a mirror."""
    return Records(Mirror(mirror).state.folder / "remotes", Published.from_dict)


def remember(mirror: Path, address: str, generation: int, problems: Mapping[str, str]) -> Published:
    """Keep what a run left on a remote.

    Args:
        mirror: The local mirror.
        address: The remote, without any password.
        generation: What its clients see now; 0 where it could not be reached.
        problems: What could not be done; none means that the remote holds the whole mirror.
    """
    known, name = records(mirror), quote(address, safe="")
    found = known.get(name) or Published(name)
    now = time.time()
    if generation and generation != found.generation:
        found = replace(found, generation=generation, changed=now)
    if not problems:
        found = replace(found, verified=now, files=described(mirror))
    found = replace(found, problems=dict(problems))
    known.put(found)
    return found


def described(mirror: Path) -> dict[str, str]:
    """Return what the local metadata describes: sha256 by path."""
    return {
        file.path: file.digests.get("sha256", "")
        for document in Mirror(mirror).documents().values()
        for file in metadata.described_files(document)
    }
