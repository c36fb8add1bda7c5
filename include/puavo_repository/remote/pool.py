"""Connections to one remote, opened when they are needed and used again."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from puavo_repository.errors import ConnectionLostError, StoppedError
from puavo_repository.remote.tree import RemoteTree

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Lends connections to threads, each to one thread at a time."""

    def __init__(self, connect: Callable[[], RemoteTree], limit: int) -> None:
        self.limit = limit  # connections that one file may use at most
        self._connect = connect
        self._idle: deque[RemoteTree] = deque()  # whose appends and pops need no lock
        self._all: list[RemoteTree] = []
        self._aborted = False
        _pools.add(self)

    @property
    def sent(self) -> int:
        """Bytes sent over all connections."""
        return sum(tree.sent for tree in list(self._all))

    @contextmanager
    def tree(self) -> Iterator[RemoteTree]:
        """Lend a connection for a block; one on which anything failed is not used again.

        Raises:
            StoppedError: The work was aborted, whatever error that led to here.
        """
        tree = self.take()
        try:
            yield tree
        except BaseException as error:
            tree.close()
            if isinstance(error, ConnectionLostError):
                # Those that wait may be lost as well. A server that went away without a word
                # shows only when it is asked: a retry would find one after another.
                _close(self._waiting())
                self._check()
            raise
        self.give(tree)

    def take(self) -> RemoteTree:
        """Return a connection that is not known to be dead: ``give`` it back, or close it.

        Raises:
            StoppedError: The work was aborted.
        """
        self._check()
        for tree in self._waiting():
            if tree.is_alive:
                return tree
            tree.close()
        tree = self._connect()
        self._all.append(tree)
        try:
            self._check()  # an abort meanwhile did not know of it
        except StoppedError:
            tree.close()
            raise
        return tree

    def give(self, tree: RemoteTree) -> None:
        """Take a connection back."""
        self._idle.append(tree)

    def abort(self) -> None:
        """End what is under way: connections break, and only the main thread gets new ones.

        It needs them to put things in order. This does not wait, so a signal's handler may call it.
        """
        self._aborted = True
        # To close one waits for its threads, which may wait for what the handler interrupted.
        threading.Thread(target=_close, args=(list(self._all),), daemon=True).start()

    def close(self) -> None:
        """Close every connection."""
        self._idle.clear()
        _close(list(self._all))

    def _waiting(self) -> Iterator[RemoteTree]:
        with suppress(IndexError):
            while True:
                yield self._idle.pop()

    def _check(self) -> None:
        if self._aborted and threading.current_thread() is not threading.main_thread():
            raise StoppedError("the remote", "the run is being ended; what was sent is kept")


def _close(trees: Iterable[RemoteTree]) -> None:
    for tree in trees:
        tree.close()


def abort_all() -> None:
    """Abort the work of every pool of this process; see ``Pool.abort``."""
    for pool in list(_pools):
        pool.abort()
