"""How far the work is: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from puavo_repository.progress import LoggedWatcher


class Bars:
    """One bar a stage, and one a file that is published."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage: TaskID | None = None
        self._files: dict[str, TaskID] = {}
        self._finished = 0
        self._lock = Lock()

    def begin(self, stage: str, items: int, total: int) -> None:
        """Show a bar for a stage."""
        self._finished = 0
        self._stage = self._progress.add_task(stage, total=total, count=f"0 of {items}")

    def advance(self, done: int) -> None:
        """Move it."""
        if self._stage is not None:
            self._progress.advance(self._stage, done)

    def finish(self, name: str) -> None:  # noqa: ARG002
        """Count a file."""
        with self._lock:
            self._finished += 1
            if self._stage is not None:
                items = self._progress.tasks[self._stage].fields["count"].rpartition(" ")[2]
                self._progress.update(self._stage, count=f"{self._finished} of {items}")

    def transferred(self, path: str, done: int, size: int) -> None:
        """Show how much of a file the server has."""
        with self._lock:
            if path not in self._files:
                name = path.rpartition("/")[2]
                self._files[path] = self._progress.add_task("publish", total=size, count=name)
            self._progress.update(self._files[path], completed=done)


@contextmanager
def shown() -> Iterator[Bars | LoggedWatcher]:
    """Show progress on stderr, and log there, while the block runs."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        yield LoggedWatcher()
        return
    logging.basicConfig(
        format="%(message)s",
        level=logging.WARNING,
        handlers=[RichHandler(console=console, show_time=False, show_path=False)],
    )
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[count]}"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield Bars(progress)
