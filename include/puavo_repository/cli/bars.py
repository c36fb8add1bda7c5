"""How far the work is: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import rich.progress
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import TaskID, TextColumn

from puavo_repository.cli.printed import say
from puavo_repository.progress import LoggedWatcher, Progress, Watcher


class ErrorsOnce(Watcher):
    """Tells each error when it happens, above the bars, and not again where a report names it."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._lock = Lock()

    def fail(self, error: str) -> None:
        """Tell it, unless that was done."""
        with self._lock:
            if error not in self._told:
                self._told.add(error)
                say(f"error: {error}")


class Lines(ErrorsOnce, LoggedWatcher):
    """Lines alone, where there is no terminal."""


class Bars(ErrorsOnce):
    """One bar a stage, and one a file that is published."""

    def __init__(self, bars: rich.progress.Progress) -> None:
        super().__init__()
        self._bars = bars
        self._shown: dict[str, TaskID] = {}
        self._counts: dict[str, tuple[int, int]] = {}  # files that are done, and all, of a stage

    def begin(self, name: str, total: int, files: int | None = None) -> Progress:
        """Show a bar, or begin it again."""
        if files is None:
            kind, count = "publish", name.rpartition("/")[2]
        else:
            kind, count = name, f"0 of {files}"
        with self._lock:
            self._counts[name] = 0, files or 0
            bar = self._shown.get(name)
            if bar is None:
                bar = self._shown[name] = self._bars.add_task(kind, total=total, count=count)
            else:
                self._bars.reset(bar, total=total, count=count)
        return functools.partial(self._bars.advance, bar)

    def finish(self, stage: str) -> None:
        """Count a file."""
        with self._lock:
            done, files = self._counts[stage]
            self._counts[stage] = done + 1, files
            self._bars.update(self._shown[stage], count=f"{done + 1} of {files}")


@contextmanager
def shown() -> Iterator[Watcher]:
    """Show progress on stderr, and log there, while the block runs."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        yield Lines()
        return
    logging.basicConfig(
        format="%(message)s",
        level=logging.WARNING,
        handlers=[RichHandler(console=console, show_time=False, show_path=False)],
    )
    columns = (
        TextColumn("{task.description:<12}"),
        rich.progress.BarColumn(bar_width=None),
        TextColumn("{task.fields[count]}"),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, expand=True) as bars:
        yield Bars(bars)
