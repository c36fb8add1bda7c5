"""The command with a delta engine that dies at one series: ``python -m delta.crashing HOW …``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from puavo_repository import cli
from puavo_repository.delta.anchor_engine import AnchorEngine
from puavo_repository.delta.engine import ImageIndexer, Progress, Side, Sink, no_progress
from puavo_repository.settings import Settings

VICTIM = "-amxa-"


class _CrashingIndexer:
    """Dies of the first bytes."""

    def update(self, block: memoryview) -> None:
        ctypes.string_at(0)

    def save(self, path: Path, identity: str) -> None: ...


@dataclass(frozen=True)
class Crashing:
    """An engine that dies, or goes on for ever, at images of one series.

    Attributes:
        how: ``segv``, ``abort``, ``kill``, ``exit``, ``hang``, ``index`` or ``sigterm``.
    """

    how: str
    name: str = "crashing"
    threads: int = 1

    def indexer(self, size: int) -> ImageIndexer | None:
        return _CrashingIndexer() if self.how == "index" else None

    def delta(
        self, source: Side, target: Side, sink: Sink, progress: Progress = no_progress
    ) -> None:
        if VICTIM in source.path.name and self.how != "index":
            sink(memoryview(b"half an rdiff"))
            self._die(progress)
        AnchorEngine(threads=1).delta(source, target, sink, progress)

    def _die(self, progress: Progress) -> None:
        if self.how == "segv":
            ctypes.string_at(0)
        elif self.how == "abort":
            os.write(2, b"corrupted size vs. prev_size\n")
            os.abort()
        elif self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "exit":
            os._exit(3)
        while self.how == "hang":
            progress(0)
            time.sleep(0.01)


if __name__ == "__main__":
    engine = Crashing(sys.argv[1])
    Settings.delta_engine = lambda _: engine  # type: ignore[method-assign]
    sys.exit(cli.main(sys.argv[2:]))
