"""The executor that watches its workers: with real processes that are really killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.airflow_server import airflow_environment

# Runs in a process of its own: Airflow reads its settings when it is first imported. Its workers
# are forked, so they do what `work` says in the place of a task of a real DAG.
HARNESS = """
import os, signal, sys, time, uuid
from airflow.executors.base_executor import BaseExecutor
from airflow.executors.workloads import BundleInfo, ExecuteTask
from airflow.executors.workloads.task import TaskInstanceDTO
from puavo_repository_airflow.executor import WatchedLocalExecutor
from setproctitle import setproctitle

def work(workload, **_):
    if workload.ti.task_id == "fails":
        raise RuntimeError("as it should")
    if workload.ti.task_id == "hangs":
        setproctitle(f"airflow worker -- LocalExecutor: {workload.ti.id}")
        if os.fork() == 0:
            setproctitle(f"airflow worker -- {workload.ti.id}")
        time.sleep(600)

def task(name):
    one = TaskInstanceDTO(
        id=uuid.uuid4(), task_id=name, dag_id="dag", run_id="run", try_number=1, map_index=-1,
        dag_version_id=uuid.uuid4(), pool_slots=1, priority_weight=1, queue="default",
    )
    found = ExecuteTask(
        token="", ti=one, dag_rel_path="dag.py", bundle_info=BundleInfo(name="b"), log_path=None
    )
    executor.queue_workload(found, None)
    return found

def until(what):
    deadline = time.monotonic() + 30
    while not (found := what()):
        assert time.monotonic() < deadline
        executor.heartbeat()
        time.sleep(0.01)
    return found

def ended(workload):
    state, info = until(lambda: executor.event_buffer.pop(workload.key, None))
    assert workload.key not in executor.running
    return str(state), info

def processes(title):
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{number}/cmdline") as file:
                said, state = file.read(), open(f"/proc/{number}/stat").read().split(") ")[1][0]
        except OSError:
            continue
        if title in said and state != "Z":
            found.append(int(number))
    return found

def workers():
    return [one.process.pid for one in executor._team]

BaseExecutor.run_workload = staticmethod(work)
executor = WatchedLocalExecutor(parallelism=2)
executor.start()
"""


def run(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HARNESS + script + "\nexecutor.end()\nprint('ended well')"],
        env=airflow_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("ended well\n")


def test_tasks_end_as_they_do_and_never_more_at_once_than_there_are_slots(tmp_path: Path) -> None:
    run(
        """
many = [task(f"works{number}") for number in range(5)] + [task("fails")]
executor.heartbeat()
assert len(executor.running) <= 2 and len(executor.queued_tasks) >= 4
assert [ended(one)[0] for one in many] == ["success"] * 5 + ["failed"]
assert len(workers()) == 2
""",
        tmp_path,
    )


def test_what_a_killed_worker_had_in_hand_has_failed_and_does_not_go_on(tmp_path: Path) -> None:
    run(
        """
lost = task("hangs")
pids = until(lambda: len(found := processes(str(lost.ti.id))) == 2 and found)
(victim,) = set(pids) & set(workers())
os.kill(victim, signal.SIGKILL)
state, info = ended(lost)
assert state == "failed" and "-9" in info, (state, info)
assert processes(str(lost.ti.id)) == []
assert [ended(task(f"next{number}"))[0] for number in range(4)] == ["success"] * 4
""",
        tmp_path,
    )


@pytest.mark.parametrize("how_many", [1, 2])
def test_workers_that_are_killed_while_they_wait_hold_up_nothing(
    how_many: int, tmp_path: Path
) -> None:
    run(
        f"""
time.sleep(0.5)  # until they wait for something to do
victims = workers()[:{how_many}]
for victim in victims:
    os.kill(victim, signal.SIGKILL)
many = [task(f"next{{number}}") for number in range(6)]
assert [ended(one)[0] for one in many] == ["success"] * 6
assert not set(victims) & set(workers())
""",
        tmp_path,
    )


def test_ending_waits_for_what_is_in_hand(tmp_path: Path) -> None:
    run(
        """
many = [task(f"works{number}") for number in range(2)]
executor.heartbeat()
executor.end()
assert {str(state) for state, _ in executor.event_buffer.values()} == {"success"}
assert not executor.running and not workers()
""",
        tmp_path,
    )
