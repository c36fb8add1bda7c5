"""Connections to one remote, opened when they are needed and used again, and their bandwidth."""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from puavo_repository.errors import ConnectionLostError, StoppedError
from puavo_repository.language import _
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import RemoteTree

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_WORD = re.compile(r"(?ai)(?:(\d{1,2})-(\d{1,2})=)?(\d{1,15}(?:\.\d+)?)([kmg]?)")
_BURST = 0.25  # seconds of the rate that may pass at once
_LONGEST_WAIT = 0.5  # seconds after which a waiting connection is looked at again
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def open_tree(target: Target) -> RemoteTree:
    """Connect to a target."""
    if not target.host:
        return FolderTree(target)
    from puavo_repository.remote.sftp.tree import SftpTree  # the SSH library is slow to load

    return SftpTree(target)


class Pool:
    """Lends connections to threads, each to one thread at a time.

    Once it is aborted, every thread but the main one gets a ``StoppedError`` instead, whatever
    error its connection had.
    """

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
        """Lend a connection for a block; one on which anything failed is not used again."""
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
        """Return a connection that is not known to be dead: ``give`` it back, or close it."""
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


@dataclass
class Bandwidth:
    """How many bytes a second may be sent, over all connections that share it.

    Written by hand because paramiko has none, and one outside (``tc``) needs root.
    """

    rate: int = 0  # bytes a second; 0 for no limit
    # (first hour, hour it ends at, bytes a second), local time; the first match counts.
    hours: tuple[tuple[int, int, int], ...] = ()
    # When all that was admitted so far has passed at the rate.
    _free_at: float = field(default=0.0, init=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Bandwidth:
        """Read ``2M``, or ``0 7-19=500k``: no limit, but 500 kB a second from 7 to 19.

        What is neither raises a ``ValueError``.
        """
        rate, hours = 0, []
        for word in text.replace(",", " ").split():
            match = _WORD.fullmatch(word)
            if match is None:
                raise ValueError(
                    _("holds %(word)s, which is no rate such as 2M or 7-19=500k", word=repr(word))
                )
            found = int(float(match[3]) * _UNITS[match[4].lower()])
            if match[1] is None:
                rate = found
            elif int(match[1]) > 23 or int(match[2]) > 24:
                raise ValueError(
                    _("holds %(word)s, which is no time of day such as 7-19=…", word=repr(word))
                )
            else:
                hours.append((int(match[1]), int(match[2]), found))
        return cls(rate, tuple(hours))

    def at(self, hour: int) -> int:
        """Return the limit in force at an hour (0 to 23)."""
        for first, end, rate in self.hours:
            if first <= hour < end or (end <= first and (hour >= first or hour < end)):
                return rate
        return self.rate

    def admit(self, count: int, before_wait: Callable[[], None]) -> None:
        """Return when ``count`` bytes may be sent.

        ``before_wait`` is called before a wait and during a long one. What it raises, for a
        connection that was closed or lost, ends the wait.
        """
        rate = self.at(time.localtime().tm_hour)
        if not rate:
            return
        now = time.monotonic()
        with self._lock:
            self._free_at = max(self._free_at, now - _BURST) + count / rate
            free_at = self._free_at
        while free_at > time.monotonic():
            before_wait()
            time.sleep(max(0.0, min(_LONGEST_WAIT, free_at - time.monotonic())))
