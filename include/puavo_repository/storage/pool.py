"""Connections to one remote, opened when they are needed and used again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from puavo_repository.storage.remote import RemoteTree


class Pool:
    """Lends connections to threads, one to one thread.

    Args:
        connect: Opens one.
        limit: How many one file may use at most.
    """

    def __init__(self, connect: Callable[[], RemoteTree], limit: int) -> None:
        self.limit = limit
        self._connect = connect
        self._idle: list[RemoteTree] = []
        self._all: list[RemoteTree] = []
        self._lock = threading.Lock()

    @property
    def sent(self) -> int:
        """Bytes sent over all connections."""
        with self._lock:
            return sum(tree.sent for tree in self._all)

    def take(self) -> RemoteTree:
        """Return a connection; it is given back, or closed after an error."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        tree = self._connect()
        with self._lock:
            self._all.append(tree)
        return tree

    def give(self, tree: RemoteTree) -> None:
        """Take a connection back."""
        with self._lock:
            self._idle.append(tree)

    @contextmanager
    def tree(self) -> Iterator[RemoteTree]:
        """Lend a connection for a block; one on which anything failed is not used again."""
        tree = self.take()
        try:
            yield tree
        except BaseException:
            tree.close()
            raise
        self.give(tree)

    @contextmanager
    def requests(self, tree: RemoteTree) -> Iterator[RemoteTree]:
        """Open a compressed connection beside one for a block of nothing but requests."""
        opened = tree.another(compressed=True)
        with self._lock:
            self._all.append(opened)
        try:
            yield opened
        finally:
            opened.close()

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for tree in self._all:
                tree.close()
            self._idle.clear()
