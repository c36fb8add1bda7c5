from __future__ import annotations

import logging

import pytest
import rich.progress
from rich.console import Console

from puavo_repository.cli.terminal import TerminalWatcher, _columns
from puavo_repository.progress import LoggedWatcher


def test_a_stage_that_has_nothing_to_do_is_no_file_that_is_published() -> None:
    shown = rich.progress.Progress(disable=True)
    watcher = TerminalWatcher(shown)
    watcher.begin("rdiffs", 0, 0)
    watcher.begin("rdiffs/x.rdiff", 5)
    told = [(task.description, task.fields["count"]) for task in shown.tasks]
    assert told == [("rdiffs", "0 of 0"), ("publish", "x.rdiff")]


def test_the_bars_of_files_that_are_done_make_room_for_the_next() -> None:
    shown = rich.progress.Progress(disable=True)
    watcher = TerminalWatcher(shown)

    def seen() -> list[str]:
        return [task.fields["count"] for task in shown.tasks]

    watcher.begin("upload", 20, 4)(10)
    first = watcher.begin("a", 5)
    first(5)
    watcher.begin("b", 5)(4)
    watcher.begin("c", 5)
    assert seen() == ["0 of 4", "b", "c"]
    first(0)  # nobody minds that its bar is gone
    watcher.begin("a", 5)(1)
    watcher.begin("d", 5)
    assert seen() == ["0 of 4", "b", "c", "a", "d"], "one that is begun again is shown again"


def test_a_stage_that_has_nothing_to_do_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        LoggedWatcher().begin("rdiffs", 0, 0)
        LoggedWatcher().begin("rdiffs/x.rdiff", 5)
    assert caplog.messages == ["rdiffs: 0 files, 0 B"]


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_of_a_long_name_has_one_line(width: int) -> None:
    console = Console(width=width)
    shown = rich.progress.Progress(*_columns(), console=console, expand=True, disable=True)
    name = "puavo-os-amxa-buster-2021-04-13-193910--2022-01-20-173248-amd64.rdiff"
    shown.add_task("publish", total=894_100, count=name)
    with console.capture() as text:
        console.print(shown.get_renderable())
    (line,) = text.get().splitlines()
    assert "0.0/894.1 kB" in line
    assert "puavo-os-amxa-buster-2021-04-13" in line
