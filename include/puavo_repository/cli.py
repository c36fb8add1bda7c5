"""The command ``puavo-update-repository``: its options, its progress bars, its exit status."""

from __future__ import annotations

import argparse
import getpass
import json
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from types import FrameType
from typing import Any, NoReturn

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

from puavo_repository import prepare, settings
from puavo_repository.errors import RepositoryError, SettingsError, printable
from puavo_repository.stages.report import Report, render, render_plan

PROGRAM = "puavo-update-repository"
_EXIT_FAILED, _EXIT_INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when everything asked for is done, 1 when something failed and the rest is done,
        2 for bad usage or settings, 130 when it was interrupted.
    """
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        return _run(options)
    except RepositoryError as error:
        _complain(error)
        return error.exit_status
    except KeyboardInterrupt:
        _say("interrupted; what was done is kept, and the next run goes on from there")
        return _EXIT_INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    chosen = settings.load(
        {
            "image_dir": options.image_dir,
            "mirror_dir": options.mirror_dir,
            "repository": options.repository,
            "puavo_os": options.puavo_os,
            "no_config": options.no_config or None,
            "remote": options.upload,
        }
    )
    if options.dry_run:
        plan = prepare.dry_run(chosen)
        if options.json:
            _print_json(plan.to_dict())
        else:
            render_plan(plan)
        for failure in plan.failures:
            _say(f"error: {failure.message}")
        return _EXIT_FAILED if plan.failures else 0
    with _progress() as bars:
        found = prepare.prepare(chosen, bars, f"{PROGRAM} of {_user()}")
    if options.json:
        _print_json(found.to_dict())
    else:
        render(found)
    return _conclude(found)


def _conclude(found: Report) -> int:
    for failure in found.failures:
        _say(f"error: {failure.message}")
    return 0 if found.ok else _EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s [OPTIONS] IMAGE_DIR [MIRROR_DIR]",
        description="Maintains a repository of all Puavo images from IMAGE_DIR in MIRROR_DIR: "
        "links, proven rdiffs, checksums and metadata. No root is needed.",
        epilog="Exit status: 0 everything is done; 1 some image or rdiff failed, the rest is "
        "done; 2 bad usage or settings. Settings come from defaults.mk, then from the "
        "environment (PUAVO_REPOSITORY_*), then from these options.",
    )
    add = parser.add_argument
    add("image_dir", metavar="IMAGE_DIR", nargs="?", help="folder with the images")
    add("mirror_dir", metavar="MIRROR_DIR", nargs="?", help="default: IMAGE_DIR/mirror")
    add(
        "-r",
        "--repository",
        metavar="HOSTNAME",
        help=f"host (or full URL) that clients will use; default {settings.DEFAULT_REPOSITORY}",
    )
    add(
        "-p",
        "--puavo-os",
        metavar="DIR",
        help="where config/images/ and defaults.mk live; default /puavo-os, or "
        "IMAGE_DIR/puavo-os where that is missing",
    )
    add(
        "-n",
        "--no-config",
        "--no-files",
        action="store_true",
        help="leave configuration files as they are",
    )
    add(
        "-u",
        "--upload",
        metavar="URL",
        help="publish afterwards: sftp://user@host[:port]/path or file:///path",
    )
    add("--dry-run", action="store_true", help="print the plan, change nothing")
    add("--json", action="store_true", help="the report as JSON on stdout")
    return parser


class _Bars:
    """Progress bars on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._lock = Lock()
        self._files = 0

    def begin(self, stage: str, items: int, total: int) -> None:
        """Show a bar for the stage."""
        self._files = 0
        self._task = self._progress.add_task(stage, total=total, items=items, files=0)

    def advance(self, done: int) -> None:
        """Move it."""
        if self._task is not None:
            self._progress.advance(self._task, done)

    def finish(self, name: str) -> None:  # noqa: ARG002
        """Count a file."""
        with self._lock:
            self._files += 1
            if self._task is not None:
                self._progress.update(self._task, files=self._files)


class _Silence:
    """No bars where nobody looks; the stages log a line a file."""

    def begin(self, stage: str, items: int, total: int) -> None:
        """Say what comes."""
        logging.getLogger(__name__).info("%s: %d files, %.0f MB", stage, items, total / 1e6)

    def advance(self, done: int) -> None:
        """Say nothing."""

    def finish(self, name: str) -> None:
        """Say nothing: the stage did."""


@contextmanager
def _progress() -> Iterator[prepare.Watcher]:
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
        yield _Silence()
        return
    logging.basicConfig(
        format="%(message)s",
        level=logging.WARNING,
        handlers=[RichHandler(console=console, show_time=False, show_path=False)],
    )
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.fields[files]} of {task.fields[items]}"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bars(progress)


def _print_json(values: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(values, indent=2) + "\n")


def _complain(error: RepositoryError) -> None:
    _say(f"error: {error}")
    if isinstance(error, SettingsError):
        _say(f"See '{PROGRAM} --help'")


def _say(text: str) -> None:
    sys.stderr.write(f"{PROGRAM}: {printable(text)}\n")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "an unknown user"


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
