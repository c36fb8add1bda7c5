"""Removing what we put on a remote and no metadata names any more, late and never too much."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from puavo_repository.errors import MassDeleteError
from puavo_repository.stages.publish_plan import mega
from puavo_repository.stages.publish_survey import CKSUMS, Facts
from puavo_repository.storage.generations import GENERATIONS_KEPT
from puavo_repository.storage.journal import Moment
from puavo_repository.storage.remote import Kind, RemoteTree

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cleaning:
    """When and how much may be removed.

    Attributes:
        grace: Seconds a file stays after the last metadata named it: a client may be in the
            middle of it.
        share: Largest share of our bytes there that may go at once.
        allow_mass_delete: Whether more may go this once.
        pause: Seconds between withdrawing a file from the metadata and replacing it, for the
            clients that have just read the metadata.
        generations: How many generations can be gone back to.
    """

    grace: float = 3 * 24 * 3600.0
    share: float = 0.3
    allow_mass_delete: bool = False
    pause: float = 30.0
    generations: int = GENERATIONS_KEPT


@dataclass
class Pruned:
    """What cleaning did.

    Attributes:
        removed: Files that are gone, with their bytes.
        waiting: Files whose grace is not over.
    """

    removed: dict[str, int] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def prune(
    tree: RemoteTree,
    facts: Facts,
    keep: Collection[str],
    cleaning: Cleaning,
    now: Moment,
    check: Callable[[], None],
) -> Pruned:
    """Remove what we put there and no metadata names, when its grace is over.

    Args:
        tree: The remote; its lock is held.
        facts: What it has; the journal in it is brought up to date.
        keep: Files that the local metadata names: some may be there before the remote's do.
        cleaning: When and how much may be removed.
        now: The moment, on both clocks.
        check: Called before each removal; raises where the lock was lost.

    Raises:
        MassDeleteError: More would go than was agreed on. Nothing was removed.
    """
    named, record, result = facts.named().union(keep), facts.journal, Pruned()
    due = []
    for path, entry in list(record.files.items()):
        if path == CKSUMS or path.startswith("meta/"):
            continue
        if path in named:
            record.name(path, None)
        elif facts.listing.get(path) is None and entry.mtime is not None:
            del record.files[path]  # somebody removed it
        elif entry.unnamed is None or entry.unnamed.age(now) < 0:
            # Since a moment that is still to come: some clock was wrong then. It is put right.
            record.name(path, now)
            result.waiting.append(path)
            if cleaning.grace <= 0:
                due.append(path)
        elif entry.unnamed.age(now) >= cleaning.grace:
            due.append(path)
        else:
            result.waiting.append(path)
    guard(tree.name, facts, set(due), cleaning)
    for path in due:
        check()
        _remove(tree, facts, path, result)
    _sweep(tree, facts, now, cleaning, check)
    return result


def _remove(tree: RemoteTree, facts: Facts, path: str, result: Pruned) -> None:
    entry, found = facts.journal.files[path], tree.stat(path)
    if found is None:
        pass  # somebody was faster
    elif found.kind is not Kind.FILE or (entry.mtime is not None and not entry.agrees(found)):
        logger.warning("%s/%s: somebody changed it, so it is left there", tree.name, path)
    else:
        tree.remove(path)
        result.removed[path] = entry.size
        logger.info("%s/%s: removed, %s", tree.name, path, mega(entry.size))
    # Only now: what could not be removed must stay known as ours, or it would stay for ever.
    del facts.journal.files[path]
    if path in result.waiting:
        result.waiting.remove(path)


def _sweep(
    tree: RemoteTree, facts: Facts, now: Moment, cleaning: Cleaning, check: Callable[[], None]
) -> None:
    """Remove parts of ours that nobody continued for as long as the grace."""
    for path, found in facts.listing.items():
        name = path.rpartition("/")[2]
        words = name.rsplit(".", 2)
        ours = len(words) == 3 and words[2] == "part" and len(words[1]) == 16
        old = now.server - found.mtime >= max(cleaning.grace, 3600.0)
        if name.startswith(".") and ours and found.kind is Kind.FILE and old:
            check()
            tree.remove(path)


def guard(remote: str, facts: Facts, paths: set[str], cleaning: Cleaning) -> None:
    """Stop where more would be lost than was agreed on.

    Raises:
        MassDeleteError: That is so.
    """
    there = facts.journal.files.keys() & facts.listing.keys()
    every = sum(facts.journal.files[path].size for path in there)
    lost = sum(facts.journal.files[path].size for path in paths & there)
    if lost > cleaning.share * every and not cleaning.allow_mass_delete:
        raise MassDeleteError(
            remote,
            f"{len(paths & there)} files would go, {mega(lost)} of {mega(every)} there",
            expected=f"at most {cleaning.share:.0%} at once",
            remedy="If that is meant, publish once with allow_mass_delete",
        )
