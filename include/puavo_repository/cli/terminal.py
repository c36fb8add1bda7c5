"""What people at a terminal, or in a task's log, read: how far the work is, and what came of it."""

import functools
import itertools
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

from rich import progress
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Column

from puavo_repository.errors import printable
from puavo_repository.progress import LoggedWatcher, Progress, Watcher

PROGRAM = "puavo-update-repository"
_FILE = "publish"  # a file's bar


def say(text: str) -> None:
    """Tell a person who runs the command what is not part of its result."""
    sys.stderr.write(f"{PROGRAM}: {printable(text)}\n")


def print_lines(lines: Iterable[str]) -> None:
    """Print the result for a person."""
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)


def print_json(values: dict[str, Any]) -> None:
    """Print the result for a program."""
    sys.stdout.write(json.dumps(values, indent=2) + "\n")


class TerminalWatcher(LoggedWatcher):
    """Tells each error once, when it happens: a report that names it again may come, or not.

    With bars, one a stage and one a file that is being published, they say how far the work is;
    else lines in the log do.
    """

    def __init__(self, bars: progress.Progress | None = None) -> None:
        self._bars = bars
        # Of each stage: its bar, and what to show there as each of its files is done.
        self._shown: dict[str, tuple[progress.TaskID, Iterator[str]]] = {}
        self._told: set[str] = set()
        self._lock = Lock()

    def fail(self, error: str) -> None:
        """Tell it, above the bars, unless that was done."""
        with self._lock:
            if error not in self._told:
                self._told.add(error)
                say(f"error: {error}")

    def begin(self, name: str, total: int, files: int | None = None) -> Progress:
        """Show a bar, or begin it again."""
        if self._bars is None:
            return super().begin(name, total, files)
        count = name.rpartition("/")[2] if files is None else f"0 of {files}"
        with self._lock:
            if name in self._shown:
                bar, _ = self._shown[name]
                self._bars.reset(bar, total=total, count=count)
            else:
                self._make_room(self._bars)
                kind = _FILE if files is None else name
                bar = self._bars.add_task(kind, total=total, count=count)
            counts = (f"{done} of {files}" for done in itertools.count(1))
            self._shown[name] = bar, counts
            return functools.partial(self._advance, self._bars, bar)

    def _make_room(self, bars: progress.Progress) -> None:
        """Take away the bars of files that are done: a terminal has few lines."""
        done = {bar.id for bar in bars.tasks if bar.finished and bar.description == _FILE}
        for bar in done:
            bars.remove_task(bar)
        self._shown = {name: one for name, one in self._shown.items() if one[0] not in done}

    def _advance(self, bars: progress.Progress, bar: progress.TaskID, done: int) -> None:
        with suppress(KeyError):  # it may be gone
            bars.advance(bar, done)

    def finish(self, stage: str) -> None:
        """Count a file."""
        with self._lock:
            if self._bars is not None:
                bar, counts = self._shown[stage]
                self._bars.update(bar, count=next(counts))


@contextmanager
def shown() -> Iterator[Watcher]:
    """Show progress on stderr, and log there, while the block runs."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        yield TerminalWatcher()
        return
    handler = RichHandler(console=console, show_time=False, show_path=False)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[handler])
    with progress.Progress(*_columns(), console=console, expand=True) as bars:
        yield TerminalWatcher(bars)


def _columns() -> tuple[progress.ProgressColumn, ...]:
    """Return what a bar's one line has; where it is short, the bar gives way, then the name."""
    return (
        progress.TextColumn("{task.description:<12}"),
        progress.BarColumn(bar_width=None, table_column=Column(width=10, ratio=1)),
        progress.TextColumn("{task.fields[count]}", table_column=Column(overflow="ellipsis")),
        progress.DownloadColumn(table_column=Column(no_wrap=True)),
        progress.TransferSpeedColumn(table_column=Column(no_wrap=True)),
        progress.TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
