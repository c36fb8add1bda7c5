"""The steps of publishing a mirror to one remote, each of which can be done again at any time."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from puavo_repository.errors import RepositoryError, StorageError, StorageRefusedError
from puavo_repository.formats import metadata
from puavo_repository.progress import TransferProgress, no_transfer_progress
from puavo_repository.stages.compare import same_bytes, samples
from puavo_repository.stages.history import Step, steps
from puavo_repository.stages.prune import Pruned, prune
from puavo_repository.stages.publish_options import Options
from puavo_repository.stages.publish_plan import Plan, Transfer, mega
from puavo_repository.stages.publish_report import PublishReport
from puavo_repository.stages.publish_snapshot import Snapshot, snapshot
from puavo_repository.stages.publish_survey import (
    Facts,
    check_not_inside,
    make_plan,
    survey,
)
from puavo_repository.stages.rollback import RolledBack, roll_back
from puavo_repository.stages.switch import Switch, Switched
from puavo_repository.stages.transfer import Placed, transfer
from puavo_repository.stages.upload import Ways
from puavo_repository.storage import journal, publisher_lock
from puavo_repository.storage.folder import FolderTree
from puavo_repository.storage.journal import Moment
from puavo_repository.storage.pool import Pool
from puavo_repository.storage.publisher_lock import Holder, PublisherLock
from puavo_repository.storage.remote import Kind, RemoteTree
from puavo_repository.storage.sftp import SftpTree
from puavo_repository.storage.target import Target
from puavo_repository.storage.throttle import Throttle

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
        holder: Who publishes; several processes of one run give the same.
        progress: Told of the bytes that the server has.
    """

    def __init__(
        self,
        mirror_dir: Path,
        target: Target,
        options: Options | None = None,
        holder: Holder | None = None,
        progress: TransferProgress = no_transfer_progress,
    ) -> None:
        self.options = options or Options()
        self._mirror_dir = mirror_dir
        self._target = target
        self._holder = holder or Holder.this_process()
        self.pool = Pool(lambda: open_tree(target), self.options.connections)
        throttle = Throttle(self.options.bandwidth, self.options.share)
        self._ways = Ways(self.pool, throttle, progress)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def look(self) -> tuple[Snapshot, Facts, Plan]:
        """Survey both sides and plan; nothing is changed."""
        local = snapshot(self._mirror_dir)
        with self.pool.tree() as tree:
            check_not_inside(tree, local)
            facts = self._survey(tree, local)
            assemble, only = self.options.assemble, self.options.only
            return local, facts, make_plan(tree, local, facts, assemble=assemble, only=only)

    def prepare(self, facts: Facts, plan: Plan) -> None:
        """Make sure that the plan can be followed, and enter what it intends into the journal.

        Raises:
            LockedError: Somebody else publishes.
            StorageRefusedError: There is too little space, or the server refuses.
        """
        with self.pool.tree() as tree:
            self._lock(tree).acquire()
            need = sum(item.size for item in plan.transfers)
            free = tree.free_space()
            there = sum(
                found.size for path, found in facts.listing.items() if path.endswith(".part")
            )
            if free is not None and need - there + SPARE > free and need:
                raise StorageRefusedError(
                    tree.name,
                    "the server's disk is too full for what is to be published",
                    expected=f"{mega(need - there + SPARE)} free",
                    found=mega(free),
                    remedy="Free some space there, or publish fewer images",
                )
            for folder in ("rdiffs", "meta"):
                tree.make_folder(folder)
            for item in plan.transfers:
                if not item.replaces:
                    facts.journal.intend(item.path, item.size, item.sha256)
            journal.save(tree, facts.journal)

    def transfer(self, item: Transfer) -> Placed:
        """Bring one file to the remote."""
        begun = time.monotonic()
        placed = transfer(item, self._mirror_dir, self._ways)
        seconds = time.monotonic() - begun
        rate = item.size / 1e6 / max(seconds, 1e-3)
        logger.info("%s: %s, %s, %.0f MB/s", item.path, placed.how.value, mega(item.size), rate)
        return placed

    def switch(self, done: list[Placed], transfers: Sequence[Transfer]) -> Switched:
        """Tell clients of what is in place.

        Args:
            done: Files that this run proved.
            transfers: What was planned; of these, files that replace one get their place here.
        """
        local = snapshot(self._mirror_dir)
        with self.pool.tree() as tree:
            lock = self._lock(tree)
            lock.acquire()
            facts = self._survey_after(tree, local, done)
            waiting = [item for item in transfers if item.replaces]
            switch = Switch(
                tree, local, facts, self.options.cleaning, lock.check, only=self.options.only
            )
            try:
                return switch.run(waiting, done)
            finally:
                journal.save(tree, facts.journal)

    def prune(self) -> Pruned:
        """Remove what no metadata names, when its grace is over."""
        if self.options.only is not None:
            return Pruned()
        local = snapshot(self._mirror_dir)
        with self.pool.tree() as tree:
            lock = self._lock(tree)
            lock.acquire()
            facts = self._survey(tree, local)
            now = Moment(lock.beat(tree), int(time.time()))
            before = facts.journal.render()
            try:
                return prune(tree, facts, local.wanted, self.options.cleaning, now, lock.check)
            finally:
                if facts.journal.render() != before:
                    journal.save(tree, facts.journal)

    def verify(self, fresh: list[str]) -> int:
        """Look whether every file that the remote's metadata names is there; end the run.

        Args:
            fresh: Files of this run: some ranges of them are read back once more.

        Returns:
            The generation that was found right.

        Raises:
            StorageError: A file is missing or wrong.
        """
        local = snapshot(self._mirror_dir)
        with self.pool.tree() as tree:
            facts, only = self._survey(tree, local), self.options.only
            wrong = [
                file.path
                for document in facts.documents.values()
                for file in metadata.described_files(document)
                if (found := facts.listing.get(file.path)) is None
                or (found.kind, found.size) != (Kind.FILE, file.size)
            ]
            for path in wrong:
                if only is None or path in only:
                    raise StorageError(f"{tree.name}/{path}", "is not as the metadata there says")
            for path in fresh:
                size = local.wanted[path].size if path in local.wanted else 0
                if not same_bytes(tree, path, self._mirror_dir / path, samples(size)[:4]):
                    raise StorageError(f"{tree.name}/{path}", "was changed on the server")
            if not facts.journal.verified and not wrong:
                facts.journal.verified = True
                journal.save(tree, facts.journal)
            return facts.journal.generation

    def conclude(self, report: PublishReport) -> PublishReport:
        """Look once more, and report as failed what is still to be done; end the run."""
        _, facts, plan = self.look()
        report.generation, report.foreign = facts.journal.generation, plan.foreign
        report.present, report.plan = plan.present, plan.lines()
        if not report.dry_run:
            report.failed |= {item.path: "is not on the remote" for item in plan.transfers}
            report.failed |= dict.fromkeys(plan.documents, "is not published")
            report.failed |= dict(plan.problems or {})
            self.end()
        return report

    def steps(self) -> list[Step]:
        """Return the generations that can be gone back to, the current one first."""
        with self.pool.tree() as tree:
            return steps(tree)

    def roll_back(self, to: int | None, series: Collection[str] = ()) -> RolledBack:
        """Give clients the metadata of an earlier generation; see ``rollback.roll_back``."""
        with self.pool.tree() as tree:
            lock = self._lock(tree)
            lock.acquire()
            try:
                with self.alive():
                    return roll_back(
                        tree,
                        lock.check,
                        to,
                        series,
                        token=self._holder.token,
                        generations_kept=self.options.cleaning.generations,
                    )
            finally:
                with contextlib.suppress(RepositoryError):
                    self.end()

    def distrust(self, files: Mapping[str, tuple[int, str]]) -> None:
        """Have the next run compare files that the journal believes in; see ``Journal.distrust``.

        Args:
            files: Size in bytes and sha256 that each should have, by path.
        """
        with self.pool.tree() as tree:
            self._lock(tree).acquire()
            try:
                record = journal.load(tree)
                for path, (size, digest) in files.items():
                    record.distrust(path, size, digest)
                journal.save(tree, record)
            finally:
                with contextlib.suppress(RepositoryError):
                    self.end()

    def end(self) -> None:
        """Give the remote's lock back."""
        self._holder.retire()
        with self.pool.tree() as tree:
            self._lock(tree).release()

    def tidy(self) -> None:
        """Remove what somebody who died left of a lock, where nothing else is to be done."""
        with contextlib.suppress(RepositoryError), self.pool.tree() as tree:
            if publisher_lock.left_behind(tree):
                lock = self._lock(tree)
                lock.acquire()
                lock.release()

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Keep the remote's lock alive during a block."""
        with self.pool.tree() as tree:
            ended = self._lock(tree).keep_alive()
        try:
            yield
        finally:
            ended.set()

    def _lock(self, tree: RemoteTree) -> PublisherLock:
        return PublisherLock(tree, self._holder)

    def _survey(self, tree: RemoteTree, local: Snapshot) -> Facts:
        return survey(tree, local, allow_rolled_back=self.options.allow_rolled_back)

    def _survey_after(self, tree: RemoteTree, local: Snapshot, done: list[Placed]) -> Facts:
        """Survey the remote, trusting what this run proved a moment ago."""
        record = journal.load(tree)
        for placed in done:
            if placed.mtime is not None:
                record.placed(placed.path, placed.size, placed.sha256, placed.mtime)
        if done:
            journal.save(tree, record)
        return self._survey(tree, local)
