"""Airflow on this machine for one person, as ``make airflow`` starts it.

Starts ``airflow standalone`` with its output in a file, says where to log in and how when it is
up, and ends all of it on Ctrl-C. Everything else is Airflow's own environment, see the Makefile.

The tasks have an API server of their own. Airflow's waits for SQLite inside its event loop: a
click that meets the open transaction of a task in the same process would stop both until SQLite
gives up, and the click would be lost ("database is locked").
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

LOGIN = "admin"
_PATIENCE = 180  # seconds until it has to be up
_GRACE = 20  # seconds to end by itself
_PARTS = ("metadatabase", "scheduler", "dag_processor", "triggerer")


def main() -> int:
    """Run Airflow until it ends or somebody ends it."""
    home, url = Path(os.environ["AIRFLOW_HOME"]), os.environ["AIRFLOW__API__BASE_URL"]
    if _taken(url):
        say(
            f"{url} is in use already: stop what runs there, or choose another: make airflow PORT=…"
        )
        return 1
    home.mkdir(parents=True, exist_ok=True)
    log = home / "standalone.log"
    log.unlink(missing_ok=True)
    say(f"Starting Airflow; its output is in {log}")
    signal.signal(signal.SIGTERM, _interrupt)
    tasks_port = str(_free_port())
    tasks_url = f"http://127.0.0.1:{tasks_port}/execution/"
    airflow = _start(log, "standalone", AIRFLOW__CORE__EXECUTION_API_SERVER_URL=tasks_url)
    started = [airflow]
    try:
        if _wait(airflow, lambda: _healthy(url)):
            # Only now: the first start of Airflow makes its database and its secrets.
            tasks = ["api-server", "--apps", "execution", "--host", "127.0.0.1"]
            started.append(_start(log, *tasks, "--port", tasks_port))
            # A task that finds no server fails after some seconds, for no fault of its own.
            if _wait(started[-1], lambda: _taken(tasks_url)):
                _announce(home, url)
                return airflow.wait()
        say(f"Airflow did not come up; the end of {log}:\n{_tail(log)}")
        return 1
    except KeyboardInterrupt:
        say("Stopping Airflow")
        return 0
    finally:
        for process in started:
            _end(process)


def say(text: str) -> None:
    """Tell the person at the terminal."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _taken(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((urlsplit(url).hostname or "", urlsplit(url).port or 80)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(log: Path, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
    """Start a part of Airflow in a session of its own, with its output at the end of the log."""
    with log.open("a") as output:
        return subprocess.Popen(
            ["airflow", *arguments],
            env={**os.environ, **more},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes], is_up: Callable[[], bool]) -> bool:
    """Wait until a part of Airflow is at work; return whether it came to that."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if is_up():
            return True
        time.sleep(0.5)
    return False


def _healthy(url: str) -> bool:
    """Tell whether every part of Airflow is at work."""
    try:
        with urllib.request.urlopen(f"{url}/api/v2/monitor/health", timeout=5) as answer:  # noqa: S310
            found = json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return False
    return all((found.get(part) or {}).get("status") == "healthy" for part in _PARTS)


def _announce(home: Path, url: str) -> None:
    passwords = json.loads((home / "simple_auth_manager_passwords.json.generated").read_text())
    say(
        f"\n  Airflow is up:  {url}\n"
        f"  The repository: {url}/plugin/puavo-repository\n"
        f"  Log in as       {LOGIN}\n"
        f"  with password   {passwords[LOGIN]}\n\n"
        "  Ctrl-C ends it.\n"
    )


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def _end(airflow: subprocess.Popen[bytes]) -> None:
    """End all of it: the parts run in the session of the first process."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(airflow.pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline:
            airflow.poll()
            try:
                os.killpg(airflow.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.2)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
