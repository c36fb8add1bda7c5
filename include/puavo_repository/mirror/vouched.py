"""Which bytes metadata and CKSUMS were given, so that a later change is seen, never published.

Every digit in them reaches all clients, and one that flipped on a disk is still a digit. The
record lies beside the others, as ``.puavo-repository/description.json``; where it is missing,
nothing is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from puavo_repository.mirror.records import Records, State

_NAME = "description"
_ABSENT = ""

Contents = Mapping[str, bytes]
"""Bytes of a file by its path in the mirror."""


@dataclass(frozen=True)
class Vouched:
    """What metadata and CKSUMS may be.

    Attributes:
        name: Of the record.
        digests: sha256 of each content that a file may have, by path; an empty one where it
            may be absent. While one version takes another's place it may be either.
    """

    name: str
    digests: Mapping[str, list[str]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"digests": dict(self.digests)}

    @classmethod
    def from_dict(cls, name: str, values: dict[str, Any]) -> Vouched:
        """Read what ``to_dict`` returned."""
        return cls(name, {path: list(known) for path, known in values["digests"].items()})


def vouch(state: State, *versions: Contents) -> None:
    """Note that each file is as one of these versions has it."""
    paths = sorted({path for version in versions for path in version})
    found = {path: sorted({_digest(version.get(path)) for version in versions}) for path in paths}
    _records(state).put(Vouched(_NAME, found))


def paths(state: State) -> set[str]:
    """Return the paths of the files that were written, or were about to be."""
    known = _records(state).get(_NAME)
    return set(known.digests) if known else set()


def strangers(state: State, contents: Contents) -> list[str]:
    """Return the paths of files that are not, or not there, as they were written."""
    known = _records(state).get(_NAME)
    if known is None:
        return []
    return [
        path
        for path in sorted({*contents, *known.digests})
        if _digest(contents.get(path)) not in known.digests.get(path, (_ABSENT,))
    ]


def _records(state: State) -> Records[Vouched]:
    return Records(state.folder, Vouched.from_dict)


def _digest(content: bytes | None) -> str:
    return _ABSENT if content is None else hashlib.sha256(content).hexdigest()
