from __future__ import annotations

import logging

import pytest
import rich.progress

from puavo_repository.cli.terminal import TerminalWatcher
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
        return [task.fields["count"] for task in shown.tasks if task.visible]

    watcher.begin("upload", 20, 4)(10)
    watcher.begin("a", 5)(5)
    watcher.begin("b", 5)(4)
    watcher.begin("c", 5)
    assert seen() == ["0 of 4", "b", "c"]
    watcher.begin("a", 5)(1)
    watcher.begin("d", 5)
    assert seen() == ["0 of 4", "a", "b", "c", "d"], "one that is begun again is shown again"


def test_a_stage_that_has_nothing_to_do_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        LoggedWatcher().begin("rdiffs", 0, 0)
        LoggedWatcher().begin("rdiffs/x.rdiff", 5)
    assert caplog.messages == ["rdiffs: 0 files, 0 B"]
