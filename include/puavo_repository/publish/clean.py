"""Removing what we put on a remote and no metadata names any more, late and never too much."""

from __future__ import annotations

import logging
import time
from collections.abc import Set

from puavo_repository.errors import MassDeleteError
from puavo_repository.progress import count, format_bytes
from puavo_repository.publish.compare import sha256_of
from puavo_repository.publish.locked import LockedRemote
from puavo_repository.publish.state import CKSUMS, FileState, RemoteState, Row, is_meta, is_part
from puavo_repository.remote.journal import Moment
from puavo_repository.remote.tree import Kind, RemoteTree

logger = logging.getLogger(__name__)


def clean(remote: LockedRemote, state: RemoteState) -> tuple[dict[str, int], list[str]]:
    """Remove what we put there and no metadata names, when its grace is over.

    Returns:
        Files that are gone, with their bytes; and files whose grace is not over.

    Raises:
        MassDeleteError: More would go than was agreed on. Nothing was removed.
    """
    before = state.journal.render()
    removed: dict[str, int] = {}
    try:
        waiting, due = _unnamed(remote, state)
        if not _is_one_image(set(due), state.journal.files.keys()):
            guard(remote, state, set(due))
        for path in due:
            _remove(remote, state.row(path), removed)
        _remove_parts(remote, state)
        return removed, waiting
    finally:
        if state.journal.render() != before:
            remote.save()


def _unnamed(remote: LockedRemote, state: RemoteState) -> tuple[list[str], list[str]]:
    """Return the files of ours that no metadata names: those whose grace runs, and is over.

    What the local mirror describes counts as named: some of it may be there before the remote's
    metadata says so.
    """
    named, journal = state.published().keys() | state.local.files.keys(), state.journal
    now = Moment(remote.lock.beat(remote.tree), int(time.time()))
    waiting: list[str] = []
    due: list[str] = []
    for path, entry in list(journal.files.items()):
        if path == CKSUMS or is_meta(path):
            continue
        if path in named:
            journal.set_unnamed(path, None)
        elif not entry.ours or (state.row(path).found is None and entry.mtime is not None):
            del journal.files[path]  # it is nobody's business of ours any more, or gone
        else:
            since = entry.unnamed
            if since is None or since.age(now) < 0:
                # Since a moment that is still to come: some clock was wrong then. It is put right.
                since = now
                journal.set_unnamed(path, since)
            (due if since.age(now) >= remote.options.grace else waiting).append(path)
    return waiting, due


def _is_one_image(due: Set[str], every: Set[str]) -> bool:
    """Say whether one image goes, with its rdiffs, and others stay: that is never too much."""
    images = {path for path in every if path.endswith(".img") and "/" not in path}
    return len(images & due) == 1 < len(images)


def _remove(remote: LockedRemote, row: Row, removed: dict[str, int]) -> None:
    tree, path, entry = remote.tree, row.path, remote.journal.files[row.path]
    row.found = tree.stat(path)
    if row.found is None:
        pass  # somebody was faster
    elif not _is_as_we_left_it(tree, row):
        logger.warning("%s/%s: somebody changed it, so it is left there", tree.name, path)
    else:
        remote.check()
        tree.remove(path)
        row.found = None
        removed[path] = entry.size
        logger.info("%s/%s: removed, %s", tree.name, path, format_bytes(entry.size))
    # Only now: what could not be removed must stay known as ours, or it would stay for ever.
    del remote.journal.files[path]


def _is_as_we_left_it(tree: RemoteTree, row: Row) -> bool:
    """Say whether a file is the one that we put there.

    One that we meant to send, and do not know whether we did, is read.
    """
    entry, found = row.entry, row.found
    if entry is None or found is None or entry.mtime is not None:
        return row.is_as_left
    return found.is_file(entry.size) and sha256_of(tree, row.path, entry.size) == entry.sha256


def _remove_parts(remote: LockedRemote, state: RemoteState) -> None:
    """Remove the parts of files that nobody wants any more, or that nobody knows how far they are.

    The lock is ours, so nobody is writing them.
    """
    known = remote.parts.all()
    remote.parts.forget({path for path in known if not _will_be_resumed(remote, state.row(path))})
    kept = {part.name for part in remote.parts.all().values()}
    for path, row in state.rows.items():
        plain = row.found is not None and row.found.kind is Kind.FILE
        if plain and path not in kept and is_part(path):
            remote.check()
            remote.tree.remove(path)
            row.found = None


def _will_be_resumed(remote: LockedRemote, row: Row) -> bool:
    """Say whether a part will be gone on with: its file is wanted as it is, and not there yet."""
    part = remote.parts.get(row.path)
    return part is not None and part.sha256 == row.sha256 and row.state is not FileState.PRESENT


def guard(remote: LockedRemote, state: RemoteState, paths: Set[str]) -> None:
    """Stop where more would be lost than was agreed on.

    Raises:
        MassDeleteError: That is so.
    """
    sizes = {row.path: row.entry.size for row in state.rows.values() if row.found and row.entry}
    going = {path: sizes[path] for path in paths & sizes.keys()}
    every, lost, most = sum(sizes.values()), sum(going.values()), remote.options.max_delete
    if lost > most * every and not remote.options.allow_mass_delete:
        raise MassDeleteError(
            remote.tree.name,
            f"{count(len(going), 'file')} would go, "
            f"{format_bytes(lost)} of {format_bytes(every)} there",
            expected=f"at most {most:.0%} at once",
            remedy="If that is meant, publish once with allow_mass_delete",
        )
