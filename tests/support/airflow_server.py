"""A real Airflow: code in a process beside it, or all of it as ``make airflow`` has it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from support.forks import Forks
from support.repository import ROOT, environment
from support.servers import free_port

PREPARE, PUBLISH = "puavo_repository_prepare", "puavo_repository_publish"
AUDIT, ROLLBACK = "puavo_repository_audit", "puavo_repository_rollback"
USAGE, ALERT = "puavo_repository_usage", "puavo_repository_alert"


def airflow_environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of an Airflow of its own, with the project's DAGs and plugin."""
    return environment(
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
        AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS="admin:admin,vera:viewer,nobody:",
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **more,
    )


_forks: dict[str, Forks] = {}


def beside(airflow: dict[str, str], code: str, *arguments: str, **more: str) -> dict[str, Any]:
    """Run code in a process of its own that has Airflow already.

    Returns:
        The JSON after ``RESULT`` that it printed, and all that it printed as ``log``.
    """
    home = airflow["AIRFLOW_HOME"]
    if home not in _forks:
        _forks[home] = Forks("support.airflow_forks", airflow)
    done = _forks[home].run(code, list(arguments), {**airflow, **more})
    out, err = done.stdout, done.stderr
    results = [line for line in out.splitlines() if line.startswith("RESULT ")]
    assert results, out[-3000:] + err[-6000:]
    return {**json.loads(results[-1].removeprefix("RESULT ")), "log": out + err}


RUN_DAG = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
run = bag.dags[sys.argv[2]].test(run_conf=json.loads(sys.argv[3]))
tasks = [
    (ti.task_id, ti.rendered_map_index or "", str(ti.state)) for ti in run.get_task_instances()
]
print("RESULT " + json.dumps({"state": str(run.state), "tasks": sorted(tasks)}))
"""


def dag_file(dag_id: str) -> str:
    """Return the file that defines a DAG."""
    return str(ROOT / "dags" / f"{dag_id}.py")


def run_dag(
    airflow: dict[str, str], dag_id: str, conf: dict[str, Any], **more: str
) -> dict[str, Any]:
    """Run a DAG in one process, without waiting for retries; return state, tasks and log."""
    more["PUAVO_REPOSITORY_RETRIES"] = "0"
    return beside(airflow, RUN_DAG, dag_file(dag_id), dag_id, json.dumps(conf), **more)


@dataclass
class Airflow:
    """One that runs."""

    url: str
    password: str
    process: subprocess.Popen[Any]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the REST API as admin."""
        return self._call(method, path, body, {"Authorization": f"Bearer {self._token}"})

    @cached_property
    def _token(self) -> str:
        login = {"username": "admin", "password": self.password}
        return str(self._call("POST", "/auth/token", login, {})["access_token"])

    def _call(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(
            self.url + path,
            json.dumps(body).encode() if body is not None else None,
            {"Content-Type": "application/json", **headers},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def trigger(self, dag_id: str, **params: Any) -> str:
        """Start a run; return its id."""
        body = {"logical_date": None, "conf": params}
        return str(self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the runs of a DAG, newest first."""
        found = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns?order_by=-run_after")
        runs: list[dict[str, Any]] = found["dag_runs"]
        return runs

    def ended(self, dag_id: str, count: int = 1, patience: float = 150) -> list[dict[str, Any]]:
        """Wait until so many runs have ended; return them all, newest first."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            found = self.runs(dag_id)
            if sum(run["state"] in {"success", "failed"} for run in found) >= count:
                return found
            time.sleep(1)
        raise AssertionError(f"{dag_id}: {[run['state'] for run in self.runs(dag_id)]}")


@contextmanager
def running_airflow(home: Path, **more: str) -> Iterator[Airflow]:
    """Start all of Airflow by the program behind ``make airflow``, and end all of it."""
    api, worker_log, trigger_log = (free_port() for _ in range(3))
    url = f"http://127.0.0.1:{api}"
    settings = {
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.4",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_log),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_log),
        "PUAVO_REPOSITORY_SCHEDULE": "",
        "PUAVO_REPOSITORY_RETRIES": "0",
        **more,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "puavo_repository_airflow.standalone"],
        env=airflow_environment(home, **settings),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C ends it" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        password = re.search(r"with password +(\S+)", said)
        assert password is not None, said
        yield Airflow(url, password[1], process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
