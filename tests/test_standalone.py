"""Airflow that a person starts leaves nothing behind, however it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.repository import ROOT, environment
from support.servers import free_port

# It says who it is, and takes a second to end.
AIRFLOW = """#!/bin/sh
echo $$ >> pids
trap 'touch told; sleep 1; exit' TERM
while :; do sleep 0.1; done
"""


# Is told to end right after it has started a part, when it has not noted that yet.
INTERRUPTED = """
import os, signal, sys, time
from pathlib import Path
from puavo_repository_airflow import standalone

start = standalone._start

def start_and_end(*given):
    part, pids = start(*given), Path("pids")
    while not (pids.exists() and str(part.pid) in pids.read_text().split()):
        time.sleep(0.05)
    if "api-server" in given:
        os.kill(os.getpid(), signal.SIGTERM)
    return part

standalone._start = start_and_end
sys.exit(standalone.main())
"""

# Is at some point of its way when it is told to end, and takes a second to take all away again.
DISTRIBUTED = """
import sys, time
from contextlib import contextmanager
from pathlib import Path
from support import distributed

def here(*_given, **_more):
    Path("here").touch()
    time.sleep(60)

@contextmanager
def cluster(*_given, **_more):
    try:
        yield here()
    finally:
        time.sleep(1)
        Path("ended").touch()

sys.argv[1:], point = ["2", "namespaces"], sys.argv[1]
distributed.cluster = cluster
if point == "clearing":
    distributed.shutil.rmtree = here
sys.exit(distributed.main())
"""


@contextmanager
def standalone(
    home: Path,
    *before: str,
    program: tuple[str, str] = ("-m", "puavo_repository_airflow.standalone"),
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Start it with programs in place of Airflow's parts; give it, and their processes."""
    airflow = home / "airflow"
    airflow.write_text(AIRFLOW)
    airflow.chmod(0o755)
    (home / "airflow.cfg").touch()
    url = f"http://127.0.0.1:{free_port()}"
    path = f"{home}:{os.environ['PATH']}"
    here = environment(AIRFLOW_HOME=str(home), AIRFLOW__API__BASE_URL=url, PATH=path)
    # Who runs the tests may ignore some: a shell does for what is in the background.
    command = ["env", "--default-signal=INT,HUP,TERM", *before, sys.executable, *program]
    with subprocess.Popen(command, env=here, cwd=home, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while len(parts := started(home)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        try:
            yield process, parts
        finally:
            process.kill()
            for pid in parts:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)


def started(home: Path) -> list[int]:
    """Return the processes of its parts."""
    pids = home / "pids"
    return [int(pid) for pid in pids.read_text().split()] if pids.exists() else []


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT] * 3],
    ids=["ended", "terminal closed", "Ctrl-C again and again"],
)
def test_every_part_ends_with_it(tmp_path: Path, numbers: list[signal.Signals]) -> None:
    with standalone(tmp_path) as (process, parts):
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.3)
        process.wait(30)
        assert [pid for pid in parts if Path(f"/proc/{pid}").exists()] == []


def test_a_part_that_has_just_been_started_ends_as_well(tmp_path: Path) -> None:
    with standalone(tmp_path, program=("-c", INTERRUPTED)) as (process, parts):
        assert process.wait(30) == 0
        assert [pid for pid in parts if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.parametrize("point", ["clearing", "up"])
def test_several_machines_end_in_peace(tmp_path: Path, point: str) -> None:
    given = {"AIRFLOW_HOME": str(tmp_path / "home"), "PUAVO_REPOSITORY_IMAGE_DIR": str(tmp_path)}
    here = environment(**given)
    here["PYTHONPATH"] = f"{ROOT}/tests:{here['PYTHONPATH']}"
    command = ["env", "--default-signal=INT,HUP,TERM", sys.executable, "-c", DISTRIBUTED, point]
    with subprocess.Popen(command, env=here, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "here").exists():
            assert process.poll() is None
            time.sleep(0.05)
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
            time.sleep(0.3)
        assert process.communicate(timeout=30)[1] == b""
    assert process.returncode == 0
    assert (tmp_path / "ended").exists() == (point == "up")


def test_it_outlives_its_terminal_where_that_was_asked_for(tmp_path: Path) -> None:
    with standalone(tmp_path, "nohup") as (process, _):
        process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert process.poll() is None
        assert not (tmp_path / "told").exists(), "its parts were told to end"
