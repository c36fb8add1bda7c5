"""What the last runs left on each remote; what counts is the journal there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote

from puavo_repository.mirror import space
from puavo_repository.mirror.store import FOLDER, Record, Records


@dataclass(frozen=True)
class Published(Record):
    """What is known of one remote, named by its address; times are in seconds since the epoch."""

    generation: int = 0  # counts the changes of what its clients see
    changed: float | None = None  # when a run last found another generation there
    verified: float | None = None  # when a run last found everything there
    files: Mapping[str, str] = field(default_factory=dict)  # that clients see: sha256 by path
    documents: Mapping[str, str] | None = None  # metadata that tells them, the same; None: unknown
    problems: Mapping[str, str] = field(default_factory=dict)  # of the last run, by file or step
    restored: int | None = None  # generation that a rollback put back, while clients see it
    series: int = 0  # so many series alone were put back; 0 for all
    checked: float | None = None  # when a run last looked at it
    reached: bool = True  # by the last run
    free: Mapping[str, int] = field(default_factory=dict)  # bytes there, by day; see ``space``

    @property
    def address(self) -> str:
        """The remote's URL, or the id of its Airflow connection."""
        return unquote(self.name)

    @classmethod
    def from_dict(cls, name: str, values: dict[str, Any]) -> Self:
        """Read what ``to_dict`` returned, or returned before it had the last three values."""
        return super().from_dict(name, {"checked": values["verified"], **values})


def remotes(mirror: Path) -> Records[Published]:
    """Return where they are kept."""
    return Records(mirror / FOLDER / "remotes", Published.from_dict)


def known(mirror: Path, address: str) -> Published:
    """Return what is known of a remote; of one that no run looked at yet, nothing."""
    name = quote(address, safe="")
    return remotes(mirror).get(name) or Published(name)


def remember(
    mirror: Path,
    address: str,
    generation: int,
    *,
    files: Mapping[str, str] | None,
    problems: Mapping[str, str],
    documents: Mapping[str, str] | None = None,
    restored: int | None = None,
    series: int = 0,
    free: int | None = None,
) -> Published:
    """Keep what a run left on a remote, whose ``address`` holds no password.

    Its clients see ``generation``, 0 where there is none, and ``files``, named by ``documents``;
    where the files are None it could not be reached, and what was known stays. ``restored``, of so
    many ``series`` alone, counts until they see another, and ``free`` is the bytes that its disk
    has left, if the server tells.
    """
    found = replace(known(mirror, address), problems=dict(problems), reached=files is not None)
    if files is not None:
        now = time.time()
        same = generation == found.generation
        kept = same and restored is None
        found = replace(
            found,
            generation=generation,
            changed=found.changed if same else now,
            verified=found.verified if problems else now,
            files=dict(files),
            documents=documents,
            restored=found.restored if kept else restored,
            series=found.series if kept else series,
            checked=now,
            free=found.free if free is None else space.noted(found.free, free, now),
        )
    remotes(mirror).put(found)
    return found
