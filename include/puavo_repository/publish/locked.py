"""A remote under lock, as one step has it, and which folders are no place to publish to."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from puavo_repository.errors import PublishError
from puavo_repository.mirror.records import FOLDER as STATE
from puavo_repository.progress import Watcher
from puavo_repository.publish.options import Options
from puavo_repository.publish.report import PublishReport
from puavo_repository.remote import journal
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.journal import Journal
from puavo_repository.remote.lock import PublisherLock
from puavo_repository.remote.parts import Parts
from puavo_repository.remote.pool import Pool
from puavo_repository.remote.throttle import Throttle
from puavo_repository.remote.tree import RemoteTree, read_whole


@dataclass(frozen=True)
class LockedRemote:
    """A remote whose lock this step holds, and what its transfers share."""

    mirror_dir: Path  # the local mirror
    options: Options
    pool: Pool  # further connections
    throttle: Throttle
    watcher: Watcher  # told of each file that is sent
    tree: RemoteTree
    report: PublishReport  # what the step did
    lock: PublisherLock  # kept alive
    journal: Journal  # what we put there, read after the lock was taken
    parts: Parts  # what is on its way there
    using: threading.RLock  # held while ``tree`` is used, which is for one thread at a time

    def check(self) -> None:
        """Raise ``LockedError`` where the lock was taken over: right before each named write."""
        with self.using:
            self.lock.check()

    def save(self) -> None:
        """Write the journal, if the lock is still ours; else raise ``LockedError``."""
        with self.using:
            journal.save(self.tree, self.journal, self.check)


def check_place(tree: RemoteTree, own: Iterable[Path]) -> None:
    """Refuse a remote that is, holds or lies in a folder of our own: images, mirror.

    A server's folder may be one of this machine's. That shows by the publisher's lock, if it is
    held: it is seen here too.

    Raises:
        PublishError: That is so.
    """
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
        try:
            if (place / publisher_lock.PATH).read_bytes() == content:
                return place.resolve()
        except OSError:
            continue  # not there, or not for us: then it is no folder of ours
    return None
