"""A server whose power is cut: what was not put on its disk is lost, in pieces."""

from __future__ import annotations

import os
import random
import secrets
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from campaign.disturbed import Run, run
from campaign.faults.fault import OfPublish
from campaign.nights import publish_in_pieces
from puavo_repository.remote.journal import FOLDER as JOURNAL
from support.mirrors import walk

BLOCK = 4096  # bytes
CHANGES = ("replace", "link", "unlink", "mkdir", "rmdir")


@dataclass(frozen=True)
class PowerCut:
    """SIGKILL just before the N-th step that changes a file system, and what a disk has then.

    Bytes that were not synced since they were written are zeros, or the file ends before them.
    Names change in order: all before the last sync of anything are safe, as journals of file
    systems have it, and of those after it the last ones are as they were.

    Attributes:
        step: Which.
        seed: Decides what is lost.
        remote: The folder that is the server's disk.
        lazy: Whether the folders are not synced, as no SFTP server does it.
    """

    step: int
    seed: int
    remote: Path
    lazy: bool

    def arm(self, tell: Callable[[str], object]) -> None:
        disk = _Disk(self.remote)
        lock, taken = threading.RLock(), 0

        def counted(step: Callable[..., Any], note: Callable[..., object]) -> Callable[..., Any]:
            def do(*arguments: Any, **more: Any) -> Any:
                nonlocal taken
                with lock:
                    taken += 1
                    if taken == self.step:
                        disk.cut(random.Random(self.seed))
                        tell("killed")
                        os.kill(os.getpid(), signal.SIGKILL)
                    note(*arguments)
                    return step(*arguments, **more)

            return do

        def synced(descriptor: int) -> None:
            if not (self.lazy and disk.is_folder(descriptor)):
                disk.synced(descriptor)

        notes: dict[str, Callable[..., object]] = {
            "pwrite": lambda file, data, at: disk.wrote(file, at, len(data)),
            "copy_file_range": lambda _source, file, size, _start, at: disk.wrote(file, at, size),
            "fsync": synced,
            **{name: partial(disk.changes, name) for name in CHANGES},
        }
        for name, note in notes.items():
            setattr(os, name, counted(getattr(os, name), note))
        from campaign.disturbed import atexit_of_run

        atexit_of_run.append(lambda: tell(f"steps {taken}"))


class _Disk:
    """Knows what of a folder is not on the disk yet."""

    def __init__(self, remote: Path) -> None:
        self._remote = os.path.realpath(remote)
        self._stash = Path(f"{remote}.lost")
        self._stash.mkdir(exist_ok=True)
        self._loose: dict[int, list[tuple[int, int]]] = {}  # written since, by inode
        self._undo: list[Callable[[], object]] = []
        self._real = {name: getattr(os, name) for name in CHANGES}

    def is_folder(self, descriptor: int) -> bool:
        return os.path.isdir(f"/proc/self/fd/{descriptor}")  # noqa: PTH112

    def wrote(self, descriptor: int, at: int, length: int) -> None:
        self._loose.setdefault(os.fstat(descriptor).st_ino, []).append((at, length))

    def synced(self, descriptor: int) -> None:
        self._loose.pop(os.fstat(descriptor).st_ino, None)
        self._undo.clear()

    def changes(self, name: str, *paths: Any) -> None:
        places = [os.fspath(path) for path in paths if not isinstance(path, int)]
        last = places[-1]
        if not last.startswith(self._remote):
            return
        kept = self._keep(last) if name in {"replace", "unlink"} else None
        real = self._real

        def undo() -> None:
            if name == "replace":
                real["replace"](last, places[0])
            elif name == "link":
                real["unlink"](last)
            elif name == "mkdir":
                real["rmdir"](last)
            elif name == "rmdir":
                real["mkdir"](last)
            if kept is not None:
                real["replace"](kept, last)

        self._undo.append(undo)

    def _keep(self, path: str) -> str | None:
        """Keep what loses its name."""
        aside = str(self._stash / secrets.token_hex(8))
        try:
            self._real["link"](path, aside, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return aside

    def cut(self, chance: random.Random) -> None:
        for _ in range(chance.randint(0, len(self._undo))):
            try:
                self._undo.pop()()
            except OSError:
                break  # a folder that has become full: its name was on the disk with what is in it
        for folder, _, names in os.walk(self._remote):
            for name in names:
                path = Path(folder, name)
                loose = self._loose.get(path.stat().st_ino, [])
                if loose and path.stat().st_size:
                    self._lose(path, loose, chance)

    def _lose(self, path: Path, loose: list[tuple[int, int]], chance: random.Random) -> None:
        with path.open("r+b") as stream:
            for at, length in loose:
                for block in range(at // BLOCK * BLOCK, at + length, BLOCK):
                    if chance.random() < 0.4:
                        begin, end = max(block, at), min(block + BLOCK, at + length)
                        stream.seek(begin)
                        stream.write(bytes(end - begin))
            if chance.random() < 0.3:
                stream.truncate(chance.choice(loose)[0])


class ServerPowerCut(OfPublish):
    """At a random step of publishing."""

    _usual = 100  # steps of a run

    @property
    def step(self) -> Callable[..., Run]:
        return partial(run, publish_in_pieces, self.nights.mirror, self.target)

    def strike(self) -> Run:
        lazy = self.chance.random() < 0.5
        step, seed = self.chance.randint(1, self._usual), self.chance.randrange(1 << 30)
        with self.watch.closed():  # a disk does not forget in one moment
            done = self.step(disturbance=PowerCut(step, seed, self.nights.remote, lazy))
        if done.steps:
            self._usual = max(10, done.steps)
        wrong = walk(self.nights.remote)
        trace = f"Traceback: after the power cut: {wrong}" if wrong else ""
        return Run(done.status, done.struck, done.steps, done.unexpected + trace)

    def mend(self) -> Run:
        """Run again when the lock has ended; it may be empty, so nobody knows whose it was."""
        for lock in self.nights.remote.glob(f"{JOURNAL}/publisher.lock"):
            os.utime(lock, (0, time.time() - 16 * 60))
        done = self.step()
        return done if done.status else super().mend()
