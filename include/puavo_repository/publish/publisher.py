"""The steps of publishing a mirror to one remote, each of which can be done again at any time.

``upload``, ``switch``, ``clean``. A step looks for itself: it takes the remote's lock, reads the
journal and surveys under it, acts, and gives the lock back. Nothing that another step saw decides
what it does.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from puavo_repository.errors import RepositoryError, StorageRefusedError
from puavo_repository.mirror.description import Description, publishable
from puavo_repository.mirror.published import mirror_id
from puavo_repository.progress import NO_WATCHER, Watcher, format_bytes
from puavo_repository.publish.clean import clean
from puavo_repository.publish.locked import LockedRemote, check_place
from puavo_repository.publish.options import Options
from puavo_repository.publish.plan import Plan, make_plan
from puavo_repository.publish.report import PublishReport
from puavo_repository.publish.state import RemoteState
from puavo_repository.publish.survey import check_owner, survey
from puavo_repository.publish.switch import Switch, check_published
from puavo_repository.publish.upload import Upload
from puavo_repository.remote import journal
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.journal import Journal
from puavo_repository.remote.lock import PublisherLock, lock_debris
from puavo_repository.remote.parts import Parts
from puavo_repository.remote.pool import Pool
from puavo_repository.remote.sftp.tree import SftpTree
from puavo_repository.remote.target import Target
from puavo_repository.remote.throttle import Bandwidth, Throttle
from puavo_repository.remote.tree import RemoteTree

logger = logging.getLogger(__name__)

SPARE = 64 << 20  # bytes that must stay free on the remote


def open_tree(target: Target) -> RemoteTree:
    """Connect to a target."""
    return SftpTree(target) if target.host else FolderTree(target)


class Publisher:
    """The steps of publishing a mirror to one remote; ``report`` tells what they did.

    Args:
        mirror_dir: The local mirror.
        target: The remote.
        options: How.
        watcher: Told of each file that is sent, from any thread.
    """

    def __init__(
        self,
        mirror_dir: Path,
        target: Target,
        options: Options | None = None,
        watcher: Watcher = NO_WATCHER,
    ) -> None:
        self.options = options or Options()
        self.pool = Pool(lambda: open_tree(target), self.options.connections)
        self.report = PublishReport(target.url)
        self._mirror_dir = mirror_dir
        self._throttle = Throttle(Bandwidth.parse(self.options.bandwidth))
        self._watcher = watcher

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def look(self) -> tuple[RemoteState, Plan]:
        """Survey both sides and plan, for a person to read; nothing is changed.

        Raises:
            PublishError: There is nothing to publish, or the remote is not for this mirror.
        """
        local = publishable(self._mirror_dir)
        with self.pool.tree() as tree:
            check_place(tree, self._own_folders())
            state = self._survey(tree, local, journal.load(tree), acts=False)
            return state, self._plan(tree, state)

    def upload(self) -> None:
        """Bring every file there that is missing; clients are not told of any yet.

        What could not be brought there is in the report. The others are there.

        Raises:
            LockedError: Somebody else publishes.
            PublishError: There is nothing to publish, or the remote is not for this mirror.
            StorageRefusedError: There is too little space, or the server refuses.
        """
        with self._step() as (remote, state):
            plan = self._plan(remote.tree, state)
            if _bytes_missing(remote, state, plan) > 0:
                state, plan = self._make_room(remote, state)
            for folder in ("rdiffs", "meta"):
                remote.tree.make_folder(folder)
            for item in plan.transfers:
                if not item.replaces:
                    remote.journal.intend(item.path, item.size, item.sha256)
            if plan.transfers or state.journal_changed:
                remote.save()
            self.report.transient = False
            self.report.failed = dict(plan.problems)
            Upload(remote).run(plan.transfers)

    def switch(self) -> None:
        """Tell clients of what is in place, and look whether all of it is.

        Raises:
            LockedError: Somebody else publishes, or has taken over: nothing more was written.
            MassDeleteError: Too many files would lose their description.
            StorageError: A file that clients are told of is missing or wrong.
        """
        with self._step() as (remote, state):
            plan = self._plan(remote.tree, state)
            try:
                Switch(remote, state).run(plan.transfers)
                check_published(remote.tree, state, self.options.only)
            except BaseException:
                with contextlib.suppress(RepositoryError):  # the first error is what counts
                    remote.save()
                raise
            remote.save()

    def clean(self) -> None:
        """Remove what no metadata names, when its grace is over.

        Raises:
            LockedError: Somebody else publishes, or has taken over: nothing more was removed.
            MassDeleteError: More would go than was agreed on. Nothing was removed.
        """
        if self.options.only is None:
            with self._step() as (remote, state):
                self.report.pruned, self.report.waiting = clean(remote, state)

    def force_recheck(self, files: Mapping[str, tuple[int, str]]) -> None:
        """Have the next run compare files whatever the journal says of them.

        ``files``: size in bytes and sha256 that each should have, by path.
        """
        with self.hold() as remote:
            for path, (size, digest) in files.items():
                remote.journal.force_recheck(path, size, digest)
            remote.save()

    def clear_dead_lock(self) -> None:
        """Remove what somebody who died left of a lock, where nothing else is to be done."""
        with contextlib.suppress(RepositoryError), self.pool.tree() as tree:
            if lock_debris(tree):
                with PublisherLock(tree).held():
                    pass

    @contextlib.contextmanager
    def hold(self) -> Iterator[LockedRemote]:
        """Hold the remote's lock for a block, with the journal as it is read under it.

        Raises:
            LockedError: Somebody else publishes.
            PublishError: The remote is a folder of our own.
        """
        with self.pool.tree() as tree:
            check_place(tree, self._own_folders())
            lock, using = PublisherLock(tree), threading.RLock()
            try:
                with lock.held():
                    check_place(tree, self._own_folders())  # the lock shows a server's folder
                    yield LockedRemote(
                        mirror_dir=self._mirror_dir,
                        options=self.options,
                        pool=self.pool,
                        throttle=self._throttle,
                        watcher=self._watcher,
                        tree=tree,
                        report=self.report,
                        lock=lock,
                        journal=journal.load(tree),
                        parts=Parts(tree, lock.check, using),
                        using=using,
                    )
            finally:
                with contextlib.suppress(RepositoryError):
                    tree.remove_folder(journal.FOLDER)  # empty where the remote was refused

    @contextlib.contextmanager
    def _step(self) -> Iterator[tuple[LockedRemote, RemoteState]]:
        """Take the lock, then survey: what every step begins with."""
        local = publishable(self._mirror_dir)
        with self.hold() as remote:
            yield remote, self._survey(remote.tree, local, remote.journal, acts=True)

    def _own_folders(self) -> list[Path]:
        return [self._mirror_dir, *self.options.own_folders]

    def _survey(
        self, tree: RemoteTree, local: Description, record: Journal, *, acts: bool
    ) -> RemoteState:
        allowed = self.options.allow_rolled_back
        state = survey(tree, local, record, allow_rolled_back=allowed, thorough=acts)
        mirror = mirror_id(self._mirror_dir, make=acts)
        if self.options.allow_other_mirror and record.mirror != mirror:
            record.mirror, state.journal_changed = mirror, True
        check_owner(tree, state, mirror)
        return state

    def _plan(self, tree: RemoteTree, state: RemoteState) -> Plan:
        can_copy = tree.can_copy and self.options.assemble
        return make_plan(state, can_copy=can_copy, only=self.options.only)

    def _make_room(self, remote: LockedRemote, state: RemoteState) -> tuple[RemoteState, Plan]:
        """Remove what may go before anything is sent to a disk that is too small for both.

        First what no metadata names and whose grace is over; then the mirror's old files are taken
        out of the metadata, so that they may go too, at once or when their grace is over.

        Raises:
            StorageRefusedError: That is not enough.
        """
        tree = remote.tree
        logger.info("%s: too full for all that is new; room is made first", tree.name)
        clean(remote, state)
        gone = state.published().keys() - state.kept()
        still = _bytes_missing(remote, state, self._plan(tree, state))
        if still > 0 and gone and self.options.only is None:
            Switch(remote, state).withdraw(gone)
            clean(remote, state)
        state = self._survey(tree, state.local, remote.journal, acts=True)
        plan = self._plan(tree, state)
        missing = _bytes_missing(remote, state, plan)
        if missing > 0:
            free = tree.free_space() or 0
            raise StorageRefusedError(
                tree.name,
                "the server's disk is too full for what is to be published",
                expected=f"{format_bytes(missing + free)} free",
                found=format_bytes(free),
                remedy="Free some space there, or publish fewer images",
            )
        return state, plan


def _bytes_missing(remote: LockedRemote, state: RemoteState, plan: Plan) -> int:
    """Return how many bytes are missing on the server's disk for a plan, 0 or less for none.

    The part of a file that is to be sent is gone on with, or removed first. Others only take room.
    """
    need, free = sum(item.size for item in plan.transfers), remote.tree.free_space()
    if not need or free is None:
        return 0
    parts = filter(None, (remote.parts.get(item.path) for item in plan.transfers))
    there = sum(found.size for part in parts if (found := state.row(part.name).found))
    return need - there + SPARE - free
