"""Airflow on this machine for one person, as ``make airflow`` starts it and Ctrl-C ends it.

Everything else is Airflow's own environment, see the Makefile.

The tasks have an API server of their own. Airflow's waits for SQLite inside its event loop: a
click that meets the open transaction of a task in the same process would stop both until SQLite
gives up, and the click would be lost ("database is locked").
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO
from urllib.parse import urlsplit

LOGIN = "admin"
_PATIENCE = 180  # seconds until it has to be up
_GRACE = 20  # seconds to end by itself
_PARTS = ("metadatabase", "scheduler", "dag_processor", "triggerer")


def main() -> int:
    """Run Airflow until it ends or somebody ends it."""
    home, url = Path(os.environ["AIRFLOW_HOME"]), os.environ["AIRFLOW__API__BASE_URL"]
    if _listens(url):
        _say(f"{url} is in use already: stop what runs there, or choose: make airflow PORT=…")
        return 1
    home.mkdir(parents=True, exist_ok=True)
    log = home / "standalone.log"
    _say(f"Starting Airflow; its output is in {log}")
    on_ends(interrupted)  # a terminal that is closed, too, is as Ctrl-C
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])  # free
    tasks_url = f"http://127.0.0.1:{port}/execution/"
    os.environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] = tasks_url
    started: list[subprocess.Popen[bytes]] = []
    told_to_end: list[int] = []
    try:
        with log.open("wb") as output:
            if not (home / "airflow.cfg").exists():
                # The secrets that both servers share are made here, with the first database;
                # whatever comes later, such as another Airflow, `standalone` sees to itself.
                migrate = ["airflow", "db", "migrate"]
                subprocess.run(migrate, stdout=output, stderr=output, check=False)
            # Each in a session of its own, which ends as a whole; none is started and not noted.
            on_ends(lambda number, _frame: told_to_end.append(number))
            started.append(_start(output, "standalone"))
            started.append(_start(output, "api-server", "--apps", "execution", "--port", port))
        on_ends(interrupted)
        if told_to_end:
            interrupted(told_to_end[0], None)
        if not _comes_up(started, url, tasks_url):
            end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            _say(f"Airflow did not come up; the end of {log}:\n{end}")
            return 1
        passwords = json.loads((home / "simple_auth_manager_passwords.json.generated").read_text())
        _say(
            f"\n  Airflow is up:  {url}\n"
            f"  The repository: {url}/plugin/puavo-repository\n"
            f"  Log in as       {LOGIN}\n"
            f"  with password   {passwords[LOGIN]}\n\n"
            "  Ctrl-C ends it.\n"
        )
        return started[0].wait()
    except KeyboardInterrupt:
        _say(f"Stopping Airflow; what it runs has {_GRACE} s to end")
        return 0
    finally:
        on_ends(signal.SIG_IGN)
        for process in started:
            _end(process)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def on_ends(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Have every signal that ends this process handled so; what ``nohup`` ignores stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def interrupted(_number: int, _frame: FrameType | None) -> None:
    """End the program as Ctrl-C does, once: while it ends, nothing interrupts it again."""
    on_ends(signal.SIG_IGN)
    raise KeyboardInterrupt


def _listens(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((urlsplit(url).hostname or "", urlsplit(url).port or 80)) == 0


def _start(output: BinaryIO, *part: str) -> subprocess.Popen[bytes]:
    """Start a part of Airflow in a session of its own, which ends as a whole."""
    command, null = ["airflow", *part], subprocess.DEVNULL
    return subprocess.Popen(
        command, stdin=null, stdout=output, stderr=output, start_new_session=True
    )


def _comes_up(started: list[subprocess.Popen[bytes]], url: str, tasks_url: str) -> bool:
    """Wait until every part of Airflow is at work."""
    deadline, health = time.monotonic() + _PATIENCE, f"{url}/api/v2/monitor/health"
    while time.monotonic() < deadline and all(one.poll() is None for one in started):
        with suppress(OSError, ValueError), urllib.request.urlopen(health, timeout=5) as answer:  # noqa: S310
            found = json.load(answer)
            healthy = [(found.get(part) or {}).get("status") == "healthy" for part in _PARTS]
            if all(healthy) and _listens(tasks_url):
                return True
        time.sleep(0.5)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part of Airflow with all that it started."""
    with suppress(ProcessLookupError):
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(process.pid, number)
            deadline = time.monotonic() + _GRACE
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
