"""Publishing to one remote mirror, right at every moment for the clients that read it.

In order: ``survey`` what the remote has, ``plan``, ``prepare`` (space, lock, what is intended
goes into the journal), ``transfer`` each file under a hidden name until it is proven,
``switch`` the metadata, ``prune`` and ``verify``. ``publish`` does all of it for the command;
the DAG's tasks do the same steps, each with a ``Publisher`` of its own.

A run that was interrupted anywhere is simply started again: the plan sees what is there.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from puavo_repository.errors import (
    LockedError,
    MassDeleteError,
    PublishError,
    RepositoryError,
    StorageError,
    StorageRefusedError,
    TransientError,
)
from puavo_repository.formats import metadata
from puavo_repository.stages.publish_plan import How, Plan, Transfer, mega
from puavo_repository.stages.publish_survey import (
    Facts,
    Snapshot,
    check_not_inside,
    make_plan,
    same_bytes,
    samples,
    snapshot,
    survey,
)
from puavo_repository.stages.switch import Cleaning, Pruned, Switch, Switched, prune
from puavo_repository.stages.transfer import Placed, transfer
from puavo_repository.stages.upload import Progress, Ways, no_progress
from puavo_repository.storage import journal
from puavo_repository.storage.folder import FolderTree
from puavo_repository.storage.journal import Moment
from puavo_repository.storage.pool import Pool
from puavo_repository.storage.publisher_lock import Holder, PublisherLock
from puavo_repository.storage.remote import Kind, RemoteTree
from puavo_repository.storage.sftp import SftpTree
from puavo_repository.storage.target import Target
from puavo_repository.storage.throttle import Bandwidth, Throttle

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

ATTEMPTS = 5  # for each step, where a retry may help
FIRST_DELAY = 2.0  # seconds before the second attempt; each later one waits twice as long
SPARE = 64 << 20  # bytes that must stay free on the remote
LARGE = 64 << 20  # bytes; such files go one after another, smaller ones side by side


@dataclass(frozen=True)
class Options:
    """How to publish.

    Attributes:
        connections: How many connections to one remote may be open for transfers.
        bandwidth: How many bytes a second may be sent.
        share: What part of the bandwidth is this process'.
        cleaning: When and how much may be removed.
    """

    connections: int = 6
    bandwidth: Bandwidth = field(default_factory=Bandwidth)
    share: float = 1.0
    cleaning: Cleaning = field(default_factory=Cleaning)


@dataclass
class PublishReport:
    """What publishing to one remote did, or would do.

    Attributes:
        target: The remote's URL.
        dry_run: Whether nothing was changed.
        plan: The plan, as lines for people.
        generation: The generation that clients see now.
        uploaded: Files whose bytes travelled, and their size in bytes.
        assembled: Files that the server made from others, and their size.
        present: How many files were there already.
        switched: Metadata files that were written or removed.
        withdrawn: Files that clients were not told of while they were replaced.
        held: Metadata files left as they are, and the files they wait for.
        pruned: Files that were removed, and their size.
        waiting: Files that no metadata names and whose grace is not over.
        foreign: How many files there are not ours.
        failed: What could not be done, by file or step, and why.
        bytes_sent: Bytes given to the connections.
        seconds: Time it took.
    """

    target: str
    dry_run: bool = False
    plan: list[str] = field(default_factory=list)
    generation: int = 0
    uploaded: dict[str, int] = field(default_factory=dict)
    assembled: dict[str, int] = field(default_factory=dict)
    present: int = 0
    switched: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    held: dict[str, list[str]] = field(default_factory=dict)
    pruned: dict[str, int] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    foreign: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    bytes_sent: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything asked for is done."""
        return not (self.failed or self.held)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as lines for people."""
        up, made = sum(self.uploaded.values()), sum(self.assembled.values())
        done = (
            f"{self.target}: generation {self.generation}, {len(self.uploaded)} uploaded "
            f"({mega(up)}), {len(self.assembled)} assembled there ({mega(made)}), {self.present} "
            f"present, {len(self.pruned)} removed; {mega(self.bytes_sent)} sent in "
            f"{self.seconds:.0f} s"
        )
        return [
            done,
            *(f"{subject}: {problem}" for subject, problem in self.failed.items()),
            *(f"{path} waits for {', '.join(files[:3])}" for path, files in self.held.items()),
        ]


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
        progress: Progress = no_progress,
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
            facts = survey(tree, local)
            return local, facts, make_plan(tree, local, facts)

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

    def switch(self, done: list[Placed], plan: Plan | None = None) -> Switched:
        """Tell clients of what is in place.

        Args:
            done: Files that this run proved.
            plan: The plan they come from.
        """
        local = snapshot(self._mirror_dir)
        with self.pool.tree() as tree:
            lock = self._lock(tree)
            lock.acquire()
            facts = _survey_after(tree, local, done)
            waiting = [item for item in plan.transfers if item.replaces] if plan else []
            switch = Switch(tree, local, facts, self.options.cleaning, lock.check)
            try:
                return switch.run(waiting, done)
            finally:
                journal.save(tree, facts.journal)

    def prune(self) -> Pruned:
        """Remove what no metadata names, when its grace is over."""
        local = snapshot(self._mirror_dir)
        with self.pool.tree() as tree:
            lock = self._lock(tree)
            lock.acquire()
            facts = survey(tree, local)
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
            facts = survey(tree, local)
            for document in facts.documents.values():
                for file in metadata.described_files(document):
                    found = facts.listing.get(file.path)
                    if found is None or found.kind is not Kind.FILE or found.size != file.size:
                        raise StorageError(
                            f"{tree.name}/{file.path}", "is not as the metadata there says"
                        )
            for path in fresh:
                size = local.wanted[path].size if path in local.wanted else 0
                if not same_bytes(tree, path, self._mirror_dir / path, samples(size)[:4]):
                    raise StorageError(f"{tree.name}/{path}", "was changed on the server")
            if not facts.journal.verified:
                facts.journal.verified = True
                journal.save(tree, facts.journal)
            return facts.journal.generation

    def end(self) -> None:
        """Give the remote's lock back."""
        self._holder.retire()
        with self.pool.tree() as tree:
            self._lock(tree).release()

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


def _survey_after(tree: RemoteTree, local: Snapshot, done: list[Placed]) -> Facts:
    """Survey the remote, trusting what this run proved a moment ago."""
    record = journal.load(tree)
    for placed in done:
        if placed.mtime is not None:
            record.placed(placed.path, placed.size, placed.sha256, placed.mtime)
    if done:
        journal.save(tree, record)
    return survey(tree, local)


def publish(
    mirror_dir: Path,
    target: Target,
    options: Options | None = None,
    *,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> PublishReport:
    """Publish a mirror to one remote.

    Args:
        mirror_dir: The local mirror.
        target: The remote.
        options: How.
        dry_run: Whether to plan only.
        progress: Told (path, bytes that the server has, bytes in all), from any thread.

    Returns:
        What was done; single files and steps that failed are in it.

    Raises:
        RepositoryError: Nothing could be done at all.
    """
    begun = time.monotonic()
    report = PublishReport(target.url, dry_run)
    with Publisher(mirror_dir, target, options, progress=progress) as publisher:
        try:
            _publish(publisher, report)
        finally:
            report.bytes_sent = publisher.pool.sent
            report.seconds = time.monotonic() - begun
    return report


def publish_all(
    mirror_dir: Path,
    targets: Sequence[Target],
    options: Options | None = None,
    *,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> list[PublishReport]:
    """Publish to several remotes; what keeps one from being reached is in its report."""
    reports = []
    for target in targets:
        try:
            report = publish(mirror_dir, target, options, dry_run=dry_run, progress=progress)
        except RepositoryError as error:
            logger.error("%s", error)
            report = PublishReport(target.url, dry_run, failed={"connecting": str(error)})
        reports.append(report)
    return reports


def _publish(publisher: Publisher, report: PublishReport) -> None:
    _, facts, plan = _persist(publisher.look)
    report.plan, report.present, report.foreign = plan.lines(), plan.present, plan.foreign
    report.failed = dict(plan.problems or {})
    report.generation = facts.journal.generation
    for line in report.plan:
        logger.info("%s%s", "would: " if report.dry_run else "", line)
    if report.dry_run or (plan.is_empty and facts.journal.verified and not facts.news):
        return
    _persist(lambda: publisher.prepare(facts, plan))
    try:
        with publisher.alive():
            done = _transfer_all(publisher, plan, report)
        _finish(publisher, plan, done, report)
    finally:
        with contextlib.suppress(RepositoryError):
            publisher.end()


def _finish(publisher: Publisher, plan: Plan, done: list[Placed], report: PublishReport) -> None:
    """Switch, prune and verify; what cannot be done is reported, the rest is done."""
    try:
        switched = _persist(lambda: publisher.switch(done, plan))
        report.switched = [*switched.documents, *switched.dropped]
        report.withdrawn, report.held = switched.withdrawn, switched.held
        pruned = _persist(publisher.prune)
        report.pruned, report.waiting = pruned.removed, pruned.waiting
    except MassDeleteError as error:
        report.failed["removing"] = str(error)
    report.generation = _persist(lambda: publisher.verify([placed.path for placed in done]))


def _transfer_all(publisher: Publisher, plan: Plan, report: PublishReport) -> list[Placed]:
    """Bring every file there: small ones side by side, then large ones and images in order."""
    small = [i for i in plan.transfers if i.how is How.UPLOADED and i.size < LARGE]
    rest = [item for item in plan.transfers if item not in small]
    done: list[Placed] = []
    stop: list[RepositoryError] = []

    def one(item: Transfer) -> None:
        if stop:
            report.failed[item.path] = f"not tried: {stop[0]}"
            return
        try:
            placed = _persist(lambda: publisher.transfer(item))
        except RepositoryError as error:
            report.failed[item.path] = str(error)
            if not isinstance(error, PublishError):
                stop.append(error)  # the server, not the file: the others would fail too
            return
        done.append(placed)
        into = report.assembled if placed.how is How.ASSEMBLED else report.uploaded
        into[item.path] = item.size

    with ThreadPoolExecutor(publisher.options.connections) as workers:
        list(workers.map(one, small))
    for item in rest:
        one(item)
    return done


def _persist(step: Callable[[], Result]) -> Result:
    """Do a step, again and again where a retry may help."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return step()
        except LockedError:
            raise
        except TransientError as error:
            delay = FIRST_DELAY * 2**attempt
            logger.warning("%s; again in %.0f s", error, delay)
            time.sleep(delay)
    return step()
