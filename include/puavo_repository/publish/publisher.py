"""The steps of publishing a mirror to one remote, each of which can be done again at any time.

``upload``, ``switch``, ``clean``. A step looks for itself: it takes the remote's
lock, reads the journal and surveys under it, acts, and gives the lock back. Nothing that another
step saw decides what it does.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from puavo_repository.errors import RepositoryError, StorageError, StorageRefusedError
from puavo_repository.formats import metadata
from puavo_repository.mirror.description import Description, publishable
from puavo_repository.mirror.published import mirror_id
from puavo_repository.progress import NO_WATCHER, Watcher, format_bytes
from puavo_repository.publish.clean import Pruned, prune
from puavo_repository.publish.locked import LockedRemote, check_place, locked
from puavo_repository.publish.options import Options
from puavo_repository.publish.plan import Plan
from puavo_repository.publish.send import Uplink
from puavo_repository.publish.survey import Facts, check_owner, listing, make_plan, survey
from puavo_repository.publish.switch import Switch, Switched
from puavo_repository.publish.transfer import Transferred
from puavo_repository.publish.upload import Transfers, Uploaded
from puavo_repository.remote import journal
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.generations import FOLDER
from puavo_repository.remote.lock import PublisherLock
from puavo_repository.remote.pool import Pool
from puavo_repository.remote.sftp.tree import SftpTree
from puavo_repository.remote.target import Target
from puavo_repository.remote.throttle import Throttle
from puavo_repository.remote.tree import Kind, RemoteStat, RemoteTree

logger = logging.getLogger(__name__)

SPARE = 64 << 20  # bytes that must stay free on the remote


def open_tree(target: Target) -> RemoteTree:
    """Connect to a target."""
    return SftpTree(target) if target.host else FolderTree(target)


class Publisher:
    """The steps of publishing a mirror to one remote.

    Args:
        mirror_dir: The local mirror.
        target: The remote.
        options: How.
        watcher: Told of each file that is sent.
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
        self._mirror_dir = mirror_dir
        self._throttle = Throttle(self.options.bandwidth)
        self._watcher = watcher

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def look(self) -> tuple[Facts, Plan]:
        """Survey both sides and plan, for a person to read; nothing is changed.

        Raises:
            PublishError: There is nothing to publish, or the remote is not for this mirror.
        """
        local = publishable(self._mirror_dir)
        with self.pool.tree() as tree:
            check_place(tree, self._own_folders())
            facts = self._survey(tree, local, journal.load(tree), thorough=False)
            self._check_owner(tree, facts, local, acts=False)
            return facts, self._plan(tree, facts, local)

    def upload(self, told: Callable[[Transferred], object] = lambda _placed: None) -> Uploaded:
        """Bring every file there that is missing; clients are not told of any yet.

        Args:
            told: Called with each file that arrived.

        Returns:
            What could not be brought there. The others are there.

        Raises:
            LockedError: Somebody else publishes.
            PublishError: There is nothing to publish, or the remote is not for this mirror.
            StorageRefusedError: There is too little space, or the server refuses.
        """
        local = publishable(self._mirror_dir)
        with self.hold() as remote:
            facts = self._facts(remote, local)
            self._check_owner(remote.tree, facts, local)
            plan = self._plan(remote.tree, facts, local)
            if self._need(remote.tree, facts, plan) > 0:
                facts, plan = self._make_room(remote, facts, local)
            for folder in ("rdiffs", "meta"):
                remote.tree.make_folder(folder)
            for item in plan.transfers:
                if not item.replaces:
                    facts.journal.intend(item.path, item.size, item.sha256)
            if plan.transfers or facts.news:
                remote.save()
            token, watcher = remote.lock.token, self._watcher
            uplink = Uplink(self.pool, self._throttle, remote.parts, token, remote.check, watcher)
            done = Transfers(self._mirror_dir, remote, uplink, told).run(plan.transfers)
            done.failed |= plan.problems or {}
            return done

    def switch(self) -> tuple[int, Switched]:
        """Tell clients of what is in place, and look whether all of it is.

        Returns:
            The generation that clients see, and what was done.

        Raises:
            LockedError: Somebody else publishes, or has taken over: nothing more was written.
            MassDeleteError: Too many files would lose their description.
            StorageError: A file that clients are told of is missing or wrong.
        """
        local = publishable(self._mirror_dir)
        with self.hold() as remote:
            facts = self._facts(remote, local)
            self._check_owner(remote.tree, facts, local)
            plan = self._plan(remote.tree, facts, local)
            switch = Switch(remote, local, facts, self.options.removal, only=self.options.only)
            try:
                done = switch.run([item for item in plan.transfers if item.replaces])
                self._verify(remote.tree, facts)
            except BaseException:
                with contextlib.suppress(RepositoryError):  # the first error is what counts
                    remote.save()
                raise
            remote.save()
            return facts.journal.generation, done

    def clean(self) -> Pruned:
        """Remove what no metadata names, when its grace is over.

        Raises:
            LockedError: Somebody else publishes, or has taken over: nothing more was removed.
            MassDeleteError: More would go than was agreed on. Nothing was removed.
        """
        if self.options.only is not None:
            return Pruned()
        local = publishable(self._mirror_dir)
        with self.hold() as remote:
            facts = self._facts(remote, local)
            self._check_owner(remote.tree, facts, local)
            return self._clean(remote, facts, local)

    def force_recheck(self, files: Mapping[str, tuple[int, str]]) -> None:
        """Have the next run compare files whatever the journal says of them.

        Args:
            files: Size in bytes and sha256 that each should have, by path.
        """
        with self.hold() as remote:
            for path, (size, digest) in files.items():
                remote.journal.force_recheck(path, size, digest)
            remote.save()

    def clear_dead_lock(self) -> None:
        """Remove what somebody who died left of a lock, where nothing else is to be done."""
        with contextlib.suppress(RepositoryError), self.pool.tree() as tree:
            if publisher_lock.lock_debris(tree):
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
            try:
                with locked(tree) as remote:
                    check_place(tree, self._own_folders())  # the lock shows a server's folder
                    yield remote
            finally:
                with contextlib.suppress(RepositoryError):
                    tree.remove_folder(FOLDER)  # empty where the remote was refused

    def _own_folders(self) -> list[Path]:
        return [self._mirror_dir, *self.options.own_folders]

    def _facts(self, remote: LockedRemote, local: Description) -> Facts:
        return self._survey(remote.tree, local, remote.journal, thorough=True)

    def _survey(
        self, tree: RemoteTree, local: Description, record: journal.Journal, *, thorough: bool
    ) -> Facts:
        allowed = self.options.allow_rolled_back
        return survey(tree, local, record, allow_rolled_back=allowed, thorough=thorough)

    def _plan(self, tree: RemoteTree, facts: Facts, local: Description) -> Plan:
        assemble, only = self.options.assemble, self.options.only
        return make_plan(tree, local, facts, assemble=assemble, only=only)

    def _check_owner(
        self, tree: RemoteTree, facts: Facts, local: Description, *, acts: bool = True
    ) -> None:
        mirror = mirror_id(self._mirror_dir, make=acts)
        if self.options.allow_other_mirror:
            facts.journal.mirror, facts.news = mirror, facts.news or facts.journal.mirror != mirror
        check_owner(tree, facts, local, mirror)

    def _need(self, tree: RemoteTree, facts: Facts, plan: Plan) -> int:
        """Return how many bytes are missing on the server's disk for a plan, 0 or less for none."""
        need, free = sum(item.size for item in plan.transfers), tree.free_space()
        if not need or free is None:
            return 0
        there = sum(found.size for path, found in facts.listing.items() if path.endswith(".part"))
        return need - there + SPARE - free

    def _make_room(
        self, remote: LockedRemote, facts: Facts, local: Description
    ) -> tuple[Facts, Plan]:
        """Remove what may go before anything is sent to a disk that is too small for both.

        First what no metadata names and whose grace is over; then the mirror's old files are taken
        out of the metadata, so that they may go too, at once or when their grace is over.

        Raises:
            StorageRefusedError: That is not enough.
        """
        logger.info("%s: too full for all that is new; room is made first", remote.tree.name)
        self._clean(remote, facts, local)
        gone = facts.named() - facts.kept(local)
        if self._missing(remote, facts, local) > 0 and gone and self.options.only is None:
            Switch(remote, local, facts, self.options.removal).withdraw(gone)
            self._clean(remote, facts, local)
        facts = self._facts(remote, local)
        plan = self._plan(remote.tree, facts, local)
        missing = self._need(remote.tree, facts, plan)
        if missing > 0:
            free = remote.tree.free_space() or 0
            raise StorageRefusedError(
                remote.tree.name,
                "the server's disk is too full for what is to be published",
                expected=f"{format_bytes(missing + free)} free",
                found=format_bytes(free),
                remedy="Free some space there, or publish fewer images",
            )
        return facts, plan

    def _missing(self, remote: LockedRemote, facts: Facts, local: Description) -> int:
        return self._need(remote.tree, facts, self._plan(remote.tree, facts, local))

    def _clean(self, remote: LockedRemote, facts: Facts, local: Description) -> Pruned:
        before = facts.journal.render()
        try:
            return prune(remote, facts, local, self.options.removal)
        finally:
            if facts.journal.render() != before:
                remote.save()

    def _verify(self, tree: RemoteTree, facts: Facts) -> None:
        """Look whether every file that our metadata there names is there, with its size."""
        only, there = self.options.only, listing(tree, facts.named())
        wrong = [
            file.path
            for path, document in facts.documents.items()
            for file in metadata.described_files(document)
            if facts.is_ours(path) and not _is_there(there.get(file.path), file.size)
        ]
        for path in wrong:
            if only is None or path in only:
                raise StorageError(f"{tree.name}/{path}", "is not as the metadata there says")
        facts.journal.verified = not wrong


def _is_there(found: RemoteStat | None, size: int) -> bool:
    return found is not None and (found.kind, found.size) == (Kind.FILE, size)
