"""Removing what we put on a remote and no metadata names any more, late and never too much."""

from __future__ import annotations

import logging
import time
from collections.abc import Set
from dataclasses import dataclass, field

from puavo_repository.errors import MassDeleteError
from puavo_repository.mirror.description import Description
from puavo_repository.progress import format_bytes
from puavo_repository.publish.compare import sha256_of
from puavo_repository.publish.locked import LockedRemote
from puavo_repository.publish.options import RemovalPolicy
from puavo_repository.publish.plan import Presence, is_part
from puavo_repository.publish.survey import CKSUMS, Facts
from puavo_repository.remote.journal import Entry, Moment
from puavo_repository.remote.tree import Kind, RemoteStat, RemoteTree

logger = logging.getLogger(__name__)


@dataclass
class Pruned:
    """What removal did.

    Attributes:
        removed: Files that are gone, with their bytes.
        waiting: Files whose grace is not over.
    """

    removed: dict[str, int] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)


def prune(held: LockedRemote, facts: Facts, local: Description, removal: RemovalPolicy) -> Pruned:
    """Remove what we put there and no metadata names, when its grace is over.

    Args:
        held: The remote; its journal is brought up to date, and still to be saved.
        facts: What it has.
        local: What the mirror describes: some may be there before the remote's metadata says so.
        removal: When and how much may be removed.

    Raises:
        MassDeleteError: More would go than was agreed on. Nothing was removed.
    """
    named, record, result = facts.named() | local.files.keys(), facts.journal, Pruned()
    now = Moment(held.lock.beat(held.tree), int(time.time()))
    due = []
    for path, entry in list(record.files.items()):
        if path == CKSUMS or path.startswith("meta/"):
            continue
        if path in named:
            record.set_unnamed(path, None)
        elif not entry.ours or (facts.listing.get(path) is None and entry.mtime is not None):
            del record.files[path]  # it is nobody's business of ours any more, or gone
        elif entry.unnamed is None or entry.unnamed.age(now) < 0:
            # Since a moment that is still to come: some clock was wrong then. It is put right.
            record.set_unnamed(path, now)
            result.waiting.append(path)
            if removal.grace <= 0:
                due.append(path)
        elif entry.unnamed.age(now) >= removal.grace:
            due.append(path)
        else:
            result.waiting.append(path)
    if not _is_one_image(set(due), record.files.keys()):
        guard(held.tree.name, facts, set(due), removal)
    for path in due:
        _remove(held, facts, path, result)
    _sweep(held, facts, local)
    result.waiting = [path for path in result.waiting if path in record.files]
    return result


def _is_one_image(due: Set[str], every: Set[str]) -> bool:
    """Say whether one image goes, with its rdiffs, and others stay: that is never too much."""
    images = {path for path in every if path.endswith(".img") and "/" not in path}
    return len(images & due) == 1 < len(images)


def _remove(held: LockedRemote, facts: Facts, path: str, result: Pruned) -> None:
    tree, entry = held.tree, facts.journal.files[path]
    found = tree.stat(path)
    if found is None:
        pass  # somebody was faster
    elif not _is_as_we_left_it(tree, path, entry, found):
        logger.warning("%s/%s: somebody changed it, so it is left there", tree.name, path)
    else:
        held.check()
        tree.remove(path)
        result.removed[path] = entry.size
        logger.info("%s/%s: removed, %s", tree.name, path, format_bytes(entry.size))
    # Only now: what could not be removed must stay known as ours, or it would stay for ever.
    del facts.journal.files[path]


def _is_as_we_left_it(tree: RemoteTree, path: str, entry: Entry, found: RemoteStat) -> bool:
    """Say whether a file is the one that we put there.

    One that we meant to send, and do not know whether we did, is read.
    """
    if entry.mtime is not None:
        return entry.agrees(found)
    same_size = found.kind is Kind.FILE and found.size == entry.size
    return same_size and sha256_of(tree, path, entry.size) == entry.sha256


def _sweep(held: LockedRemote, facts: Facts, local: Description) -> None:
    """Remove the parts of files that nobody wants any more, or that nobody knows how far they are.

    The lock is ours, so nobody is writing them.
    """
    wanted = {path for path in held.parts.paths() if _is_wanted(held, facts, local, path)}
    held.parts.forget(held.parts.paths() - wanted)
    kept = held.parts.names()
    for path, found in facts.listing.items():
        if path not in kept and found.kind is Kind.FILE and is_part(path):
            held.check()
            held.tree.remove(path)


def _is_wanted(held: LockedRemote, facts: Facts, local: Description, path: str) -> bool:
    """Say whether a part will be gone on with: its file is wanted as it is, and not there yet."""
    part, file = held.parts.get(path), local.files.get(path)
    same = part is not None and file is not None and part.sha256 == file.sha256
    return same and facts.presence.get(path) is not Presence.PRESENT


def guard(remote: str, facts: Facts, paths: set[str], removal: RemovalPolicy) -> None:
    """Stop where more would be lost than was agreed on.

    Raises:
        MassDeleteError: That is so.
    """
    there = facts.journal.files.keys() & facts.listing.keys()
    every = sum(facts.journal.files[path].size for path in there)
    lost = sum(facts.journal.files[path].size for path in paths & there)
    if lost > removal.share * every and not removal.allow_mass_delete:
        raise MassDeleteError(
            remote,
            f"{len(paths & there)} files would go, "
            f"{format_bytes(lost)} of {format_bytes(every)} there",
            expected=f"at most {removal.share:.0%} at once",
            remedy="If that is meant, publish once with allow_mass_delete",
        )
