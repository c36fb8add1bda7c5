"""A remote in the hands of one step: its lock, and the journal as it was read under it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from puavo_repository.remote import journal
from puavo_repository.remote.journal import Journal
from puavo_repository.remote.lock import PublisherLock
from puavo_repository.remote.parts import Parts
from puavo_repository.remote.tree import RemoteTree


@dataclass(frozen=True)
class Held:
    """A remote whose lock this step holds.

    Attributes:
        tree: The remote.
        lock: Its lock; it is kept alive.
        journal: What we put there, read after the lock was taken.
        parts: What is on its way there.
        using: Held while ``tree`` is used, which is for one thread at a time.
    """

    tree: RemoteTree
    lock: PublisherLock
    journal: Journal
    parts: Parts
    using: threading.RLock

    def check(self) -> None:
        """Make sure that the lock is still ours, right before a write that others rely on.

        Raises:
            LockedError: It was taken over.
        """
        with self.using:
            self.lock.check()

    def save(self) -> None:
        """Write the journal, if the lock is still ours.

        Raises:
            LockedError: It was taken over; nothing was written.
        """
        with self.using:
            journal.save(self.tree, self.journal, self.check)


@contextmanager
def held(tree: RemoteTree) -> Iterator[Held]:
    """Hold a remote for a block.

    Raises:
        LockedError: Somebody else publishes.
    """
    lock, using = PublisherLock(tree), threading.RLock()
    with lock.held():
        yield Held(tree, lock, journal.load(tree), Parts(tree, lock.check, using), using)
