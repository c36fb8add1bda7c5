"""Kills in the middle of a run of the real DAG, under a real Airflow that is told to notice soon.

A task that is killed is tried again, and so is that of a worker that is killed, whether it has
begun with it or not. A scheduler takes all of its workers with it; it is started again, as the
service's unit does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """A task, a worker or the scheduler is killed while a run is on its way."""

    again = 1
    victim = "airflow worker -- 0"  # the process of a task has its id in its title

    @contextmanager
    def ready(self) -> Iterator[None]:
        nights, self._schedulers = self.nights, list[subprocess.Popen[bytes]]()
        with running_airflow(
            self.log.parent / "airflow",
            PUAVO_REPOSITORY_RETRIES="3",
            PUAVO_REPOSITORY_IMAGE_DIR=str(nights.repository.images),
            PUAVO_REPOSITORY_MIRROR_DIR=str(nights.mirror),
            PUAVO_REPOSITORY_PUAVO_OS=str(nights.repository.puavo_os),
            **SOON,
        ) as self.airflow:
            self._home = self.airflow.process.pid
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
        for _ in range(500):  # of 20 ms: to ask takes that long
            found = [p for p in self._processes() if title(p).startswith(self.victim)]
            if found:
                for one in found if self.chance.random() < 0.2 else [self.chance.choice(found)]:
                    kill(one)
                return True
        return False

    def _processes(self) -> list[int]:
        roots = [self._home, *(scheduler.pid for scheduler in self._schedulers)]
        return [process for root in roots for process in (root, *descendants(root))]


class WorkerKilled(AirflowKilled):
    """One worker, or all; that has a task, or waits for one."""

    def _kill(self) -> bool:
        self.victim = "airflow worker -- LocalExecutor: " + self.chance.choice(("0", "0", ""))
        return super()._kill()


class SchedulerKilled(AirflowKilled):
    """With all of its workers, as the service's unit has it, and started again."""

    def _kill(self) -> bool:
        for process in self._processes():
            if title(process).endswith("airflow scheduler"):
                environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
                pairs = (line.decode().partition("=") for line in environment if line)
                for victim in (process, *descendants(process)):
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
        return False


def title(process: int) -> str:
    """Return the command line of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


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
