"""The command with a delta engine that dies at one series: ``python -m delta.crashing HOW …``."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from puavo_repository.compiled import Bytes
from puavo_repository.delta import AnchorEngine
from puavo_repository.delta.engine import Between, Side, Sink
from puavo_repository.delta.index import Indexer
from puavo_repository.errors import ImageError
from puavo_repository.progress import Progress, no_progress

VICTIM, MARK = "-amxa-", b"this image kills"


class _CrashingIndexer(Indexer):
    """Dies of an image that has ``MARK`` in it."""

    def next_block(self, data: Bytes, size: int) -> None:
        if MARK in data[:size].tobytes():
            ctypes.string_at(0)

    def save(self, path: Path, identity: str, size: int) -> None: ...


@dataclass(frozen=True)
class Crashing:
    """An engine that dies, or goes on for ever, at images of one series.

    Attributes:
        how: ``segv``, ``abort``, ``kill``, ``exit``, ``hang`` or ``index``.
    """

    how: str
    name: str = "crashing"
    mark: str = "crashing"
    threads: int = 1

    def indexer(self, size: int) -> Indexer | None:
        return _CrashingIndexer(512, 1) if self.how == "index" else None

    def delta(
        self,
        source: Side,
        target: Side,
        sink: Sink,
        progress: Progress = no_progress,
        _between: Between | None = None,
    ) -> None:
        if VICTIM in source.path.name and self.how != "index":
            sink(memoryview(b"half an rdiff"))
            die(self.how, progress)
        AnchorEngine(threads=1).delta(source, target, sink, progress)


def die(how: str, progress: Progress) -> None:
    """End this process so, or go on for ever."""
    if how == "segv":
        ctypes.string_at(0)
    elif how == "abort":
        os.write(2, b"corrupted size vs. prev_size\n")
        os.abort()
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    while how == "hang":
        progress(0)
        time.sleep(0.01)


def double(number: int, _progress: Progress) -> int:
    return 2 * number


def fail(subject: Path, problem: str, expected: str, found: str, remedy: str, _: Progress) -> None:
    raise ImageError(subject, problem, expected=expected, found=found, remedy=remedy)


def run_out_of_space(_progress: Progress) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def raise_what_cannot_be_told(_progress: Progress) -> None:
    class UnspeakableError(Exception): ...

    raise UnspeakableError


class HalfToldError(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


def raise_what_cannot_be_made_again(_progress: Progress) -> None:
    raise HalfToldError("one", "other")


def count_to(number: int, progress: Progress) -> None:
    for _ in range(number):
        progress(1)
    logging.getLogger(__name__).info("counted to %d", number)


def tell_pid_for_ever(progress: Progress) -> None:
    time.sleep(0.2)
    progress(os.getpid())
    time.sleep(1000)


def tell_pid_and_much(progress: Progress) -> bytes:
    time.sleep(0.2)
    progress(os.getpid())
    return bytes(10_000_000)


def count_for_ever(progress: Progress) -> None:
    while True:
        progress(1)
        time.sleep(0.05)


def die_with_helper(_progress: Progress) -> None:
    time.sleep(3)
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def helper_of_this(_progress: Progress) -> int:
    """Return the process that forked this one."""
    return os.getppid()


def likely_to_be_killed(_progress: Progress) -> int:
    """Return how the kernel weighs this process where memory runs out."""
    return int(Path("/proc/self/oom_score_adj").read_text())


def main(how: str, arguments: list[str]) -> int:
    """Run the command with such an engine.

    What the command imports is imported here: each process that is forked for a piece of work
    imports this module, which would take half a second of each.
    """
    from puavo_repository.cli import main as cli
    from puavo_repository.settings import Settings

    with mock.patch.object(Settings, "delta_engine", return_value=Crashing(how)):
        return cli.main(arguments)


if __name__ == "__main__":
    # Imported: what is in __main__ cannot be told to another process.
    from delta import crashing

    sys.exit(crashing.main(sys.argv[1], sys.argv[2:]))
