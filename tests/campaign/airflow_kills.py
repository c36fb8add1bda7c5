"""Kills in the middle of a run of the real DAG, under a real Airflow that is told to notice soon.

A task that is killed is tried again. A scheduler takes all of its workers with it; it is started
again, as the service's unit does. A worker alone is not killed here: the LocalExecutor does not
survive that, see docs/operations.md.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from campaign.disturbed import Run
from campaign.faults import Fault
from support.airflow_server import PREPARE, running_airflow

PATIENCE = 400.0  # seconds for a run with all that is tried again
# The defaults are 300 s, 10 s, 300 s and 30 s: minutes until anything is noticed.
SOON = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
}


class AirflowKilled(Fault):
    """A task is killed while a run is on its way."""

    again = 1

    @contextmanager
    def ready(self) -> Iterator[None]:
        nights, self._schedulers = self.nights, list[subprocess.Popen[bytes]]()
        with running_airflow(
            self.log.parent / "airflow",
            PUAVO_REPOSITORY_RETRIES="4",
            PUAVO_REPOSITORY_IMAGE_DIR=str(nights.repository.images),
            PUAVO_REPOSITORY_MIRROR_DIR=str(nights.mirror),
            PUAVO_REPOSITORY_PUAVO_OS=str(nights.repository.puavo_os),
            **SOON,
        ) as self.airflow:
            try:
                yield
            finally:
                for scheduler in self._schedulers:
                    for process in (*descendants(scheduler.pid), scheduler.pid):
                        kill(process)
                    scheduler.wait()

    def strike(self) -> Run:
        done = len(self.airflow.runs(PREPARE))
        self.airflow.trigger(PREPARE)
        # Not too seldom in the moment in which the first task is handed out.
        time.sleep(max(0.0, self.chance.uniform(-5, 15)))
        struck = self._kill()
        return Run(0 if self._ended(done + 1) == "success" else 1, struck)

    def mend(self) -> Run:
        """Do the next night's run, if this one did not come to its end by itself."""
        runs = self.airflow.runs(PREPARE)
        if runs[0]["state"] == "success":
            return Run(0)
        self.airflow.trigger(PREPARE)
        return Run(0 if self._ended(len(runs) + 1) == "success" else 1)

    def _ended(self, count: int) -> str:
        return str(self.airflow.ended(PREPARE, count, PATIENCE)[0]["state"])

    def _kill(self) -> bool:
        run = quote(self.airflow.runs(PREPARE)[0]["dag_run_id"], safe="")
        for _ in range(200):  # of 50 ms or so: to ask takes that long
            path = f"/api/v2/dags/{PREPARE}/dagRuns/{run}/taskInstances?state=running"
            tasks = self.airflow.call("GET", path)["task_instances"]
            found = [task["pid"] for task in tasks if task["pid"]]
            if found:
                for one in found if self.chance.random() < 0.2 else [self.chance.choice(found)]:
                    kill(one)
                return True
        return False


class SchedulerKilled(AirflowKilled):
    """With all of its workers, as the service's unit has it, and started again."""

    def _kill(self) -> bool:
        roots = [self.airflow.process.pid, *(one.pid for one in self._schedulers)]
        every = {process for root in roots for process in (root, *descendants(root))}
        scheduler = next(one for one in every if command(one).endswith("airflow scheduler"))
        environment = Path(f"/proc/{scheduler}/environ").read_bytes().split(b"\0")
        pairs = (line.decode().partition("=") for line in environment if line)
        for victim in (scheduler, *descendants(scheduler)):
            kill(victim)
        log = (self.log.parent / "scheduler.log").open("ab")
        self._schedulers.append(
            subprocess.Popen(
                ["airflow", "scheduler"],
                env={name: value for name, _, value in pairs},
                stdout=log,
                stderr=log,
            )
        )
        return True


def command(process: int) -> str:
    """Return the command line of a process, as ps has it; empty where it is gone."""
    done = subprocess.run(
        ["ps", "-o", "args=", "-p", str(process)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def descendants(process: int) -> list[int]:
    """Return the processes that a process started, and those that they did."""
    done = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = {int(pid): int(parent) for pid, parent in map(str.split, done.stdout.splitlines())}
    found, line = [], [process]
    while line:
        line = [child for child, parent in parents.items() if parent in line]
        found += line
    return found


def kill(process: int) -> None:
    """Kill one process."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return
