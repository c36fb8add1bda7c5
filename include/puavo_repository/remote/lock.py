"""One publisher a remote mirror at a time, agreed on over nothing but a server's files.

A lock file names its holder by a token that no other step ever has. It is written under another
name and then renamed to its own, which must be free. Its holder rewrites it three times a minute.
It is taken over when its holder is a process of this machine that is gone, or when nobody rewrote
it for two minutes: by then Airflow knows as well that a worker is lost. Both times are the
server's: the lock's own, and that of a file made just now, so that no clock but the server's
counts.

A holder may be asleep while its lock is taken over. So ``check`` asks the server before each write
that others rely on, and whoever is not sure of the lock writes nothing. Correctness does not rest
on it alone: see ``transfer`` and ``switch``.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from puavo_repository.errors import (
    ConnectionLostError,
    LockedError,
    PermanentError,
    RepositoryError,
    StorageError,
    StorageRefusedError,
)
from puavo_repository.remote.documents import read_whole, write_whole
from puavo_repository.remote.tree import OpenMode, RemoteTree

logger = logging.getLogger(__name__)

FOLDER = ".puavo-publish"
PATH = f"{FOLDER}/publisher.lock"
BEAT = 20.0  # seconds between two signs of life
EXPIRY = 2 * 60  # seconds, on the server's clock, after which a silent holder counts as gone
_NOW = ".now."  # begins the name of a file by which the server tells the time
_retired: set[str] = set()  # tokens of this process that do not publish any more


@dataclass(frozen=True)
class Holder:
    """Who publishes."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    token: str  # of one step, in one process: no other ever has it
    host: str  # name of the machine
    machine: str  # identity of its boot and process namespace, in which ``process`` has meaning
    process: int  # its id
    started: str  # its start, in clock ticks since the boot: ids are used again

    @classmethod
    def this_process(cls) -> Holder:
        """Return a holder for one step of this process."""
        token, process = secrets.token_hex(8), os.getpid()
        return cls(token, _host(), _machine(), process, _started(process))

    def is_gone(self) -> bool:
        """Say whether this is a process of this machine that has ended, or retired."""
        here = bool(self.process) and self.machine == _machine()
        return here and (_started(self.process) != self.started or self.token in _retired)

    def retire(self) -> None:
        """Give up every lock, also those that a broken connection keeps from being released."""
        _retired.add(self.token)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


_HOLDER = TypeAdapter(Holder)


def _host() -> str:
    return socket.gethostname().encode(errors="backslashreplace").decode()  # whatever it is


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()} {_host()}"
    except OSError:
        return secrets.token_hex(8)  # nobody's: such a lock only expires


def _started(process: int) -> str:
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[19]  # proc(5): field 22, starttime
    except (OSError, IndexError):
        return ""


class PublisherLock:
    """The lock of one remote mirror, for one step."""

    def __init__(self, tree: RemoteTree, holder: Holder | None = None) -> None:
        self._tree = tree
        self._holder = holder or Holder.this_process()
        self.token = self._holder.token
        self.using = threading.RLock()  # held while ``tree`` is used: by one thread at a time
        self._text = _HOLDER.dump_json(self._holder)
        self._lost = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for a block, alive all the while, and give it back; see ``acquire``.

        An error that stays is a ``LockedError`` where the lock was lost in the block.
        """
        ended = threading.Event()
        try:
            self.acquire()  # it may fail when the lock is ours already: its answer was lost
            threading.Thread(target=self._keep_alive, args=(ended,), daemon=True).start()
            try:
                yield
            except PermanentError:
                # Where another has taken over, it is what that one does that was in the way.
                with suppress(ConnectionLostError, StorageError, StorageRefusedError):
                    self.check()
                raise
        finally:
            ended.set()
            self._holder.retire()
            with suppress(RepositoryError):  # it ends by itself: this holder retired
                self.release()

    def acquire(self) -> None:
        """Take the lock, or raise ``LockedError``; its folder is made if it is missing."""
        self._tree.make_folder(FOLDER)
        for _ in range(3):
            if self._create():
                return
            found = read_whole(self._tree, PATH)
            if found is None:
                continue  # it was just given back
            holder, there = _parse(found), self._tree.stat(PATH)
            now = server_time(self._tree, self.token)
            gone = there is None or (holder is not None and holder.is_gone())
            # One of the future too: the server's clock was set back, and nobody rewrote it since.
            expired = there is not None and now is not None and abs(now - there.mtime) > EXPIRY
            if not gone and not expired:
                raise LockedError(
                    self._tree.name,
                    f"somebody else is publishing: {holder or 'it has not said who'}",
                    remedy=f"Wait for it to end. If it is gone, its lock ends within "
                    f"{EXPIRY // 60} minutes; or remove {PATH} there",
                )
            self._take_away(found)
        raise LockedError(self._tree.name, "somebody else is publishing at the same moment")

    def check(self, tree: RemoteTree | None = None) -> None:
        """Raise ``LockedError`` where the lock is not ours, right before others rely on a write.

        ``tree`` is what to ask over, if not over the lock's own connection.
        """
        with nullcontext() if tree else self.using:
            self._lost = self._lost or not self._is_ours(tree or self._tree)
        if self._lost:
            raise LockedError(
                self._tree.name,
                "another publisher has taken over, because this one was silent for too long",
                remedy="Nothing more was written. Run again when the other one is done",
            )

    def write(self, path: str, content: bytes) -> None:
        """Write a small file as ``write_whole`` does, if the lock is ours when it gets its name."""
        with self.using:
            write_whole(self._tree, path, content, self.check)

    def remove(self, path: str) -> None:
        """Remove a file, if the lock is ours."""
        with self.using:
            self.check()
            self._tree.remove(path)

    def beat(self, tree: RemoteTree) -> int:
        """Give a sign of life; return the server's time in seconds.

        The lock is opened first and looked at again after: what is written to then is ours, even
        if its name is taken away just now. Else it is a ``LockedError``. One that was just given
        back is not made again, which would be nobody's and keep all others out.
        """
        self.check(tree)
        with tree.open(PATH, OpenMode.CHANGE) as file:
            self.check(tree)
            file.write(0, self._text)
        found = tree.stat(PATH)
        return found.mtime if found else 0

    def release(self) -> None:
        """Give it back if it is ours; over a new connection where a signal or fault broke this."""
        try:
            if self._is_ours(self._tree):
                self._tree.remove(PATH)
        except RepositoryError:
            with closing(self._tree.another()) as tree:
                if self._is_ours(tree):
                    tree.remove(PATH)

    def _is_ours(self, tree: RemoteTree) -> bool:
        holder = _parse(read_whole(tree, PATH) or b"")
        return holder is not None and holder.token == self.token

    def _keep_alive(self, ended: threading.Event) -> None:
        """Give signs of life, each over a connection of its own."""
        while not ended.wait(BEAT) and not self._lost:
            try:
                with closing(self._tree.another()) as tree:
                    self.beat(tree)
            except RepositoryError as error:
                if ended.is_set():
                    return  # it was given back meanwhile
                logger.warning("no sign of life for the publisher's lock: %s", error)

    def _create(self) -> bool:
        """Say whether the lock was free and is ours now; then what dead publishers left goes."""
        aside = f"{PATH}.{self.token}"
        with self._tree.open(aside, OpenMode.CREATE) as file:
            file.write(0, self._text)
        try:
            self._tree.rename_exclusive(aside, PATH)
        except RepositoryError:
            if self._tree.stat(PATH) is None and self._tree.stat(aside) is not None:
                raise
            self._tree.remove(aside)  # unless somebody who took the lock cleared it away
            if not self._is_ours(self._tree):  # else only the answer was wrong, or was lost
                return False
        for path in lock_debris(self._tree):
            if path != PATH:
                self._tree.remove(path)
        return True

    def _take_away(self, content: bytes) -> None:
        """Remove a stale lock, but not one that somebody else took in the meantime."""
        aside = f"{PATH}.{self.token}.old"
        try:
            self._tree.rename(PATH, aside)
        except RepositoryError:
            return  # somebody was faster
        if read_whole(self._tree, aside) != content and self._tree.stat(PATH) is None:
            self._tree.rename(aside, PATH)
        else:
            self._tree.remove(aside)


def _parse(content: bytes) -> Holder | None:
    """Read a lock; None for one that no publisher wrote."""
    try:
        return _HOLDER.validate_json(content)
    except ValueError:
        return None


def lock_debris(tree: RemoteTree) -> list[str]:
    """Return the lock, and the files of whoever had it or died on the way to it."""
    lock = PATH.rpartition("/")[2]
    return [
        f"{folder}/{name}"
        for folder in (FOLDER, f"{FOLDER}/generations")
        for name in tree.list(folder)
        # A part is a record whose writer died before the record had its name.
        if name.startswith((lock, _NOW)) or (name.startswith(".") and name.endswith(".part"))
    ]


def server_time(tree: RemoteTree, token: str) -> int | None:
    """Return the seconds on the server's clock, which tells them only as times of files.

    None where somebody who just took the lock removed the file.
    """
    path = f"{FOLDER}/{_NOW}{token}"
    tree.remove(path)
    with tree.open(path, OpenMode.CREATE):
        pass
    found = tree.stat(path)
    tree.remove(path)
    return found.mtime if found else None
