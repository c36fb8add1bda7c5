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


def test_a_stage_that_has_nothing_to_do_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        LoggedWatcher().begin("rdiffs", 0, 0)
        LoggedWatcher().begin("rdiffs/x.rdiff", 5)
    assert caplog.messages == ["rdiffs: 0 files, 0 B"]
