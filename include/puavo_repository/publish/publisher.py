"""One remote mirror, as the steps of publishing have it.

Each step (``upload``, ``switch``, ``clean``) looks for itself: it takes the remote's lock, reads
the journal and surveys under it (``Publisher.step``), acts, and gives the lock back. Nothing that
another step saw decides what it does, so each can be done again at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puavo_repository.errors import PermanentError, PublishError, RepositoryError, StorageError
from puavo_repository.mirror.description import publishable
from puavo_repository.mirror.store import FOLDER as STATE
from puavo_repository.progress import NO_WATCHER, Watcher, format_bytes
from puavo_repository.publish.plan import Plan, RemoteState, make_plan, sha256
from puavo_repository.publish.survey import survey
from puavo_repository.remote import journal
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.documents import read_whole
from puavo_repository.remote.journal import Journal, Parts
from puavo_repository.remote.lock import PublisherLock
from puavo_repository.remote.pool import Bandwidth, Pool, open_tree
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import RemoteTree
from puavo_repository.settings.model import Model

logger = logging.getLogger(__name__)
_NAMED = 10  # failures in an error at most


@dataclass
class PublishReport:
    """What publishing to one remote did, or would do; the steps fill it."""

    target: str  # the remote's URL
    dry_run: bool = False
    plan: list[str] = field(default_factory=list)  # lines for people; the last one sums up
    generation: int = 0  # the one that clients see now
    uploaded: dict[str, int] = field(default_factory=dict)  # bytes of the files that travelled
    assembled: dict[str, int] = field(default_factory=dict)  # of those made there from others
    present: int = 0  # files that were there already
    switched: list[str] = field(default_factory=list)  # metadata files written or removed
    withdrawn: list[str] = field(default_factory=list)  # not described while they were replaced
    waiting_for: dict[str, list[str]] = field(default_factory=dict)  # files, by metadata file
    pruned: dict[str, int] = field(default_factory=dict)  # bytes of the files that were removed
    waiting: list[str] = field(default_factory=list)  # unnamed files whose grace is not over
    foreign: int = 0  # files there that are not ours
    failed: dict[str, str] = field(default_factory=dict)  # why, by file or step
    files: Mapping[str, str] | None = None  # sha256 of what clients see; None: nobody could look
    # The metadata that tells clients of them, the same; without that of others.
    documents: Mapping[str, str] | None = None
    free: int | None = None  # bytes that its disk has left; None where the server does not tell
    bytes_sent: int = 0  # given to the connections
    seconds: float = 0.0
    transient: bool = False  # whether trying again later may help some file that failed
    server_lost: bool = False  # while files were sent

    def saw(self, state: RemoteState, plan: Plan | None = None) -> None:
        """Take note of what clients are told, as it was found just now, and what is to be done."""
        self.generation, self.files = state.journal.generation, state.published()
        ours = (r for r in state.documents() if r.is_ours or r.path in state.local.documents)
        self.documents = {row.path: sha256(row.content or b"") for row in ours}
        self.free = state.free
        if plan:
            self.plan, self.present, self.foreign = plan.lines(), plan.present, plan.foreign

    def left(self, state: RemoteState, plan: Plan) -> None:
        """Take note of what is still to be done, as it was found just now."""
        self.saw(state, plan)
        if not self.dry_run:
            missing = {item.path: "is not on the remote" for item in plan.transfers}
            missing |= dict.fromkeys(plan.documents, "is not published")
            self.failed = {**missing, **plan.problems, **self.failed}

    def checked(self, problem: str = "not everything is published") -> None:
        """Raise if something failed; the rest is done. The first failures are named, all logged.

        It is a ``StorageError`` where trying again later may help some of it.
        """
        failed = [f"{subject}: {why}" for subject, why in self.failed.items()]
        if not self.ok:
            logger.error("%s: %s: %s", self.target, problem, "; ".join(failed))
            kind = StorageError if self.transient else PublishError
            raise kind(self.target, problem, found="; ".join(failed[:_NAMED]))

    @property
    def ok(self) -> bool:
        """Whether everything asked for is done."""
        return not (self.failed or self.waiting_for)

    @property
    def seen(self) -> bool:
        """Whether somebody could look at what clients see now."""
        return self.files is not None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without what clients are told of: that is in the metadata."""
        hidden = {"files", "documents", "transient", "server_lost"}
        return {name: value for name, value in vars(self).items() if name not in hidden}

    def lines(self) -> list[str]:
        """Return the report as lines for people."""
        up, made = sum(self.uploaded.values()), sum(self.assembled.values())
        stands = f"generation {self.generation}" if self.seen else "how it stands is not known"
        done = (
            f"{stands}, {len(self.uploaded)} uploaded ({format_bytes(up)}), "
            f"{len(self.assembled)} assembled there ({format_bytes(made)}), {self.present} present"
            f", {len(self.pruned)} removed; {format_bytes(self.bytes_sent)} sent in "
            f"{self.seconds:.0f} s"
        )
        if not self.seen and not self.bytes_sent:
            done = "nothing was sent"
        return [
            f"{self.target}: {done}",
            *(f"{subject}: {problem}" for subject, problem in self.failed.items()),
            *(f"{path} {waits}" for path, waits in self.waits().items()),
        ]

    def waits(self) -> dict[str, str]:
        """Return what each metadata file that stays as it is waits for, in words."""
        waits = self.waiting_for.items()
        return {path: f"waits for {', '.join(files[:3])}" for path, files in waits}


@dataclass(frozen=True)
class LockedRemote:
    """A remote whose lock a step holds."""

    publisher: Publisher
    tree: RemoteTree
    lock: PublisherLock  # kept alive; its ``check`` is asked right before each named write
    journal: Journal  # what we put there, read after the lock was taken
    parts: Parts  # what is on its way there

    def save(self) -> None:
        """Write the journal, if the lock is still ours; else raise ``LockedError``."""
        self.lock.write(journal.PATH, self.journal.render())


class Publisher(AbstractContextManager["Publisher"]):
    """What the steps of publishing a mirror to one remote share."""

    def __init__(
        self,
        mirror_dir: Path,  # the local mirror
        target: Target,
        options: Model | None = None,
        watcher: Watcher = NO_WATCHER,  # told of each file that is sent, from any thread
        *,
        # All that is published, metadata and CKSUMS too, by path; what is there is not trusted.
        only: Collection[str] | None = None,
    ) -> None:
        self.mirror_dir = mirror_dir
        self.options = options or Model()
        self.only = only
        self.watcher = watcher
        self.pool = Pool(lambda: open_tree(target), self.options.connections)
        self.throttle = Bandwidth.parse(self.options.bandwidth)
        self.report = PublishReport(target.name)  # what the steps did

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def look(self) -> tuple[RemoteState, Plan]:
        """Survey both sides and plan, for a person to read; nothing is changed."""
        local = publishable(self.mirror_dir)
        with self.pool.tree() as tree:
            self._check_place(tree)
            state = survey(tree, local, journal.load(tree), self.options, acts=False)
            with suppress(PermanentError, StorageError):  # a server may refuse to tell
                state.free = tree.free_space()
            return state, self.plan(tree, state)

    @contextmanager
    def step(self) -> Iterator[tuple[LockedRemote, RemoteState]]:
        """Take the lock, then survey: what every step begins with."""
        local = publishable(self.mirror_dir)
        with self.hold() as remote:
            yield remote, survey(remote.tree, local, remote.journal, self.options)

    @contextmanager
    def hold(self) -> Iterator[LockedRemote]:
        """Hold the remote's lock for a block, with the journal as it is read under it."""
        with self.pool.tree() as tree:
            self._check_place(tree)
            lock = PublisherLock(tree)
            try:
                with lock.held():
                    self._check_place(tree)  # the lock shows a server's folder
                    yield LockedRemote(self, tree, lock, journal.load(tree), Parts(tree, lock))
            finally:
                with suppress(RepositoryError):
                    tree.remove_folder(journal.FOLDER)  # empty where the remote was refused

    def plan(self, tree: RemoteTree, state: RemoteState) -> Plan:
        """Plan what to do on a remote as it was surveyed."""
        can_copy = tree.can_copy and self.only is None
        return make_plan(state, can_copy=can_copy, only=self.only)

    def _check_place(self, tree: RemoteTree) -> None:
        """Refuse a remote that is, holds or lies in a folder of our own: images, mirror.

        A server's folder may be one of this machine's. That shows by the publisher's lock, if it
        is held: it is seen here too.
        """
        own = filter(None, (self.mirror_dir, self.options.image_dir))
        folders = [folder.resolve() for folder in own]
        found = ["itself a mirror that is prepared"] if tree.stat(STATE) is not None else []
        if here := tree.local_path or _seen_here(tree, folders):
            near = (one for one in folders if here.is_relative_to(one) or one.is_relative_to(here))
            found += map(str, near)
        if found:
            raise PublishError(
                tree.name,
                f"is, holds or lies in our own folder: {found[0]}",
                expected="a folder for what is published and nothing else",
                remedy="Choose another folder, beside the image directory and the mirror",
            )


def _seen_here(tree: RemoteTree, folders: list[Path]) -> Path | None:
    """Return the folder of this machine that a server's tree is, if it is one."""
    content = read_whole(tree, publisher_lock.PATH)
    places = [Path(tree.root), *folders, *(above for one in folders for above in one.parents)]
    for place in places if content else ():
        with suppress(OSError):  # not there, or not for us: then it is no folder of ours
            if (place / publisher_lock.PATH).read_bytes() == content:
                return place.resolve()
    return None
