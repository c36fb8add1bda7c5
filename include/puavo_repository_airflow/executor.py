"""An executor that loses no task with the worker that had it.

Airflow's LocalExecutor (3.3) hands tasks out by one queue, of which all workers share the lock.
A worker that is killed after it took a task and before it said so leaves that task queued for
ever; one that is killed while it waits takes the lock with it, and no task is handed out any
more. Here each worker has queues of its own: what a dead one had in hand is known, has failed
at once, and is tried again as the task's retries say.

Set as ``[core] executor = puavo_repository_airflow.executor.WatchedLocalExecutor``.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import SimpleQueue
from pathlib import Path
from typing import Any

from airflow.executors.local_executor import LocalExecutor, _run_worker
from airflow.executors.workloads import ExecuteTask, ExecutorWorkload

logger = logging.getLogger(__name__)


class _Worker:
    """A process that does one workload after another.

    Attributes:
        workload: What it has in hand.
    """

    def __init__(self, conf: Any) -> None:
        self.workload: ExecutorWorkload | None = None
        self._given: SimpleQueue[ExecutorWorkload | None] = SimpleQueue()
        self._done: SimpleQueue[Any] = SimpleQueue()
        self.process = multiprocessing.Process(
            target=_run_worker,
            kwargs={
                "logger_name": __name__,
                "input": self._given,
                "output": self._done,
                "unread_messages": multiprocessing.Value(ctypes.c_uint),  # the queue's, not needed
                "team_conf": conf,
            },
        )
        self.process.start()

    def give(self, workload: ExecutorWorkload) -> None:
        """Give it something to do."""
        self.workload = workload
        self._given.put(workload)

    def dismiss(self) -> None:
        """Have it end when it has done what it has in hand."""
        self._given.put(None)

    def done(self) -> list[tuple[Any, Any]]:
        """Return what it said since it was last asked: keys of workloads and their states."""
        said = []
        while not self._done.empty():
            key, state, _ = self._done.get()
            one = self.workload
            if one and state in {one.success_state, one.failure_state}:
                self.workload = None
            said.append((key, state))
        return said


class WatchedLocalExecutor(LocalExecutor):
    """LocalExecutor whose workers are watched."""

    def start(self) -> None:
        """Start a worker for each slot, before the scheduler opens what they should not have."""
        self._team: list[_Worker] = []
        for _ in range(self.parallelism):
            self._hire()

    def _hire(self) -> _Worker:
        gc.freeze()  # a forked worker must not collect, and so close, what is the scheduler's
        try:
            worker = _Worker(self.conf)
        finally:
            gc.unfreeze()
        self._team.append(worker)
        return worker

    def _process_workloads(self, workload_list: Sequence[ExecutorWorkload]) -> None:
        for workload in workload_list:
            idle = (one for one in self._team if one.workload is None and one.process.is_alive())
            worker = next(idle, None) or self._hire()
            worker.give(workload)
            self.running.add(workload.key)
            queues: tuple[dict[Any, Any], ...] = (
                self.queued_tasks,
                self.queued_callbacks,
                self.queued_connection_tests,
            )
            for queue in queues:
                queue.pop(workload.key, None)

    def sync(self) -> None:
        """Pass on what the workers said, and that what a dead one had in hand has failed."""
        for worker in list(self._team):
            alive = worker.process.is_alive()  # asked first: what it said last counts
            for key, state in worker.done():
                self.change_state(key, state)
            if not alive:
                self._team.remove(worker)
                self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        lost, status = worker.workload, worker.process.exitcode
        worker.process.close()
        if lost is None:
            return
        logger.error("A worker ended with status %s; it had %s in hand", status, lost.key)
        if isinstance(lost, ExecuteTask):
            _end(str(lost.ti.id))
        self.change_state(lost.key, lost.failure_state, f"its worker ended with status {status}")

    def end(self) -> None:
        """Let the workers end what they do."""
        for worker in self._team:
            worker.dismiss()
        for worker in self._team:
            worker.process.join()
        self.sync()


def _end(task: str) -> None:
    """End the process that a dead worker had started: it would go on beside its next try.

    Args:
        task: The id of the task instance, which Airflow has in the title of its process.
    """
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            title = line.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if title.startswith("airflow worker -- ") and task in title:
                os.kill(int(line.parent.name), signal.SIGKILL)
