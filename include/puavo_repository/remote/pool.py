"""Connections to one remote, opened when they are needed and used again."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from puavo_repository.errors import ConnectionLostError, StoppedError
from puavo_repository.remote.tree import RemoteTree

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Lends connections to threads, each to one thread at a time."""

    def __init__(self, connect: Callable[[], RemoteTree], limit: int) -> None:
        self.limit = limit  # connections that one file may use at most
        self._connect = connect
        self._idle: list[RemoteTree] = []
        self._all: list[RemoteTree] = []
        self._lock = threading.Lock()
        self._aborted = False
        _pools.add(self)

    @property
    def sent(self) -> int:
        """Bytes sent over all connections."""
        with self._lock:
            return sum(tree.sent for tree in self._all)

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
                with self._lock:
                    idle, self._idle = self._idle, []
                _close(idle)
                self._check()
            raise
        self.give(tree)

    def take(self) -> RemoteTree:
        """Return a connection that is not known to be dead: ``give`` it back, or close it.

        Raises:
            StoppedError: The work was aborted.
        """
        self._check()
        with self._lock:
            while self._idle:
                tree = self._idle.pop()
                if tree.is_alive:
                    return tree
                tree.close()
        tree = self._connect()
        with self._lock:
            self._all.append(tree)
        try:
            self._check()  # an abort meanwhile did not know of it
        except StoppedError:
            tree.close()
            raise
        return tree

    def give(self, tree: RemoteTree) -> None:
        """Take a connection back."""
        with self._lock:
            self._idle.append(tree)

    def abort(self) -> None:
        """End what is under way: connections break, and only the main thread gets new ones.

        It needs them to put things in order. This takes no lock and does not wait, so a
        signal's handler may call it.
        """
        self._aborted = True
        # To close one waits for its threads, which may wait for what the handler interrupted.
        threading.Thread(target=_close, args=(list(self._all),), daemon=True).start()

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            _close(self._all)
            self._idle.clear()

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
