"""The step ``clean``: what we put there and no metadata names goes, late and never too much."""

import logging
import time
from collections.abc import Set

from puavo_repository.errors import MassDeleteError
from puavo_repository.progress import count, format_bytes
from puavo_repository.publish.plan import CKSUMS, FileState, RemoteState, Row, is_meta, is_part
from puavo_repository.publish.publisher import LockedRemote, Publisher
from puavo_repository.publish.survey import sha256_of
from puavo_repository.remote.journal import Moment
from puavo_repository.remote.tree import Kind
from puavo_repository.settings import once

logger = logging.getLogger(__name__)
DAY = 24 * 3600.0  # seconds


def clean(publisher: Publisher) -> None:
    """Remove what no metadata names, when its grace is over.

    Raises:
        LockedError: Somebody else publishes, or has taken over: nothing more was removed.
        MassDeleteError: More would go than was agreed on. Nothing was removed.
    """
    if publisher.only is None:
        with publisher.step() as (remote, state):
            remove_unnamed(remote, state)


def remove_unnamed(remote: LockedRemote, state: RemoteState) -> None:
    """Do that under the lock; the report says what is gone, and of what the grace is not over."""
    before = state.journal.render()
    try:
        due = _due(remote, state)
        images = {path for path in state.journal.files if path.endswith(".img") and "/" not in path}
        # One image that goes, with its rdiffs, where others stay, is never too much.
        if not len(images & due) == 1 < len(images):
            guard(remote, state, due)
        for path in sorted(due):
            _remove(remote, state.row(path))
        _remove_parts(remote, state)
    finally:
        if state.journal_changed or state.journal.render() != before:
            remote.save()


def _due(remote: LockedRemote, state: RemoteState) -> set[str]:
    """Return the files of ours that no metadata names, when their grace is over."""
    # Some of what the mirror describes may be there before the remote's metadata says so.
    named, journal = state.published().keys() | state.local.files.keys(), state.journal
    now = Moment(remote.lock.beat(remote.tree), int(time.time()))
    waiting, due, grace = list[str](), set[str](), remote.publisher.options.grace_days * DAY
    for path, entry in list(journal.files.items()):
        if path == CKSUMS or is_meta(path):
            continue
        if path in named:
            journal.set_unnamed(path, None)
        elif not entry.ours:
            del journal.files[path]  # it is no business of ours any more
        else:
            since = entry.unnamed
            if since is None or since.age(now) < 0:
                # Since a moment that is still to come: some clock was wrong then. It is put right.
                since = now
                journal.set_unnamed(path, since)
            (due.add if since.age(now) >= grace else waiting.append)(path)
    remote.publisher.report.waiting = waiting
    return due


def _remove(remote: LockedRemote, row: Row) -> None:
    tree, path, entry = remote.tree, row.path, remote.journal.files[row.path]
    found = row.found = tree.stat(path)
    if entry.mtime is None and found is not None and found.is_file(entry.size):
        # We meant to send it, and do not know whether we did.
        came = sha256_of(tree, path, entry.size) == entry.sha256
        if came:  # noted before it is removed: a kill in between would leave it as one to come
            remote.journal.placed(path, entry.size, entry.sha256, found.mtime)
            remote.save()
    if row.is_as_left:
        remote.lock.remove(path)
        row.found = None
        remote.publisher.report.pruned[path] = entry.size
        logger.info("%s/%s: removed, %s", tree.name, path, format_bytes(entry.size))
    elif found is not None:  # else somebody was faster
        logger.warning("%s/%s: somebody changed it, so it is left there", tree.name, path)
    # Only now: what could not be removed must stay known as ours, or it would stay for ever.
    del remote.journal.files[path]


def _remove_parts(remote: LockedRemote, state: RemoteState) -> None:
    """Remove parts that nobody goes on with; under the lock, so nobody is writing them."""
    known, kept = remote.parts.known, set[str]()
    for path, part in known.items():
        row = state.row(path)
        if part.sha256 == row.sha256 and row.state is not FileState.PRESENT:
            kept |= {path, part.name}
    remote.parts.forget(known.keys() - kept)
    for path, row in state.rows.items():
        plain = row.found is not None and row.found.kind is Kind.FILE
        if plain and is_part(path) and path not in kept:
            remote.lock.remove(path)
            row.found = None


def guard(remote: LockedRemote, state: RemoteState, paths: Set[str]) -> None:
    """Raise a ``MassDeleteError`` where more would be lost than was agreed on."""
    options = remote.publisher.options
    sizes = {row.path: row.entry.size for row in state.rows.values() if row.found and row.entry}
    going = {path: sizes[path] for path in paths & sizes.keys()}
    every, lost, most = sum(sizes.values()), sum(going.values()), options.max_delete
    if lost > most * every and not options.allow_mass_delete:
        raise MassDeleteError(
            remote.tree.name,
            f"{count(len(going), 'file')} would go, "
            f"{format_bytes(lost)} of {format_bytes(every)} there",
            expected=f"at most {most:.0%} at once",
            remedy=f"If that is meant, publish {once('allow_mass_delete')}",
        )
