"""Where nobody reads what the command says, it does its work and its exit status is right."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from support.repository import V1, V2, Repository, environment, name


def shell(repository: Repository, redirection: str, *options: str) -> tuple[int, str]:
    """Run the command in a shell; return its exit status, and what came out of the shell."""
    command = [sys.executable, "-m", "puavo_repository.cli", *repository.arguments(*options)]
    line = f"{shlex.join(command)} {redirection}; exit ${{PIPESTATUS[0]}}"
    run = ["bash", "-c", line]
    done = subprocess.run(run, env=environment(), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.alike(2)
@pytest.mark.parametrize(
    ("redirection", "broken"),
    [
        (">&-", False),
        ("2>&-", True),
        ("<&- >&- 2>&-", True),
        ("2>&1 | true", True),
        ("| true", False),
    ],
)
def test_a_stream_that_nobody_reads_changes_nothing(
    repository: Repository, redirection: str, broken: bool
) -> None:
    repository.add(name(V1))
    if broken:
        (repository.images / name(V2)).write_bytes(b"")
    status, said = shell(repository, redirection)
    assert status == broken
    assert "Traceback" not in said
    assert "Exception" not in said
    repository.check()
    assert [image["filename"] for image in repository.meta()] == [name(V1)]


def test_nothing_else_gets_the_number_of_a_stream_that_was_closed() -> None:
    code = """
import os, sys
from puavo_repository.cli import main, mirrors, process
process.protect_streams()
sys.exit(any(os.readlink(f"/proc/self/fd/{number}") != os.devnull for number in range(3)))
"""
    line = f"{shlex.join([sys.executable, '-c', code])} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", line], env=environment(), check=False).returncode == 0


def test_a_report_that_cannot_be_written_is_an_error(repository: Repository) -> None:
    repository.add(name(V1))
    status, said = shell(repository, ">/dev/full", "--json")
    assert status == 1
    assert "standard output: No space left on device" in said
    assert "Traceback" not in said
    assert "Exception" not in said


def test_a_signal_that_another_thread_gets_ends_the_main_one_at_once() -> None:
    code = """
import os, signal, threading, time
from puavo_repository.cli import process
process.end_on_signals()
def get_it():
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(60)
threading.Timer(0.5, get_it).start()
begun = time.monotonic()
try:
    threading.Event().wait(30)
except KeyboardInterrupt:
    print("ended" if time.monotonic() - begun < 20 else "late", flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout == "ended\n", done.stderr
