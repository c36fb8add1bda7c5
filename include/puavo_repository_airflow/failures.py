"""Why the tasks of a run failed, kept where a message about the run can read it.

Airflow gives a DAG's failure callback the run, but not its tasks' errors. So each task that fails
keeps its error's text as the XCom ``failure`` of the run. Airflow forgets it when the task is tried
again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from airflow.sdk.execution_time.xcom import XCom

from puavo_repository.errors import RepositoryError

KEY = "failure"
_LONGEST = 2000  # characters: of thousands of files the first ones are enough
logger = logging.getLogger("puavo_repository.failures")


def keep(context: Mapping[str, Any]) -> None:
    """Keep why a task failed; called in the task's process after its last try.

    Args:
        context: Airflow's.
    """
    error = context.get("exception")
    if error is None:  # the task was killed: this is another process, which knows nothing of it
        return
    text = str(error)
    if not isinstance(error, RepositoryError):  # what others say may hold a secret
        text = f"{context['ti'].task_id}: {type(error).__name__}, see the task's log"
    context["ti"].xcom_push(KEY, text[:_LONGEST])


def kept(context: Mapping[str, Any]) -> list[str]:
    """Return why the tasks of a run failed, in the order of the tasks.

    Args:
        context: Airflow's of a failed run. That of a deadline names no DAG: its callback runs
            where no XCom may be read, and nothing has ended yet.
    """
    dag = context.get("dag")
    if dag is None:
        return []
    run_id = context.get("run_id") or context["dag_run"].run_id
    found: list[str] = []
    try:
        for task_id in dag.task_ids:
            where = {"dag_id": dag.dag_id, "task_id": task_id, "run_id": run_id}
            found += XCom.get_all(key=KEY, **where) or []
    except Exception:  # the message has to go out, whatever Airflow's answer is
        logger.exception("what the tasks of %s said could not be read", run_id)
    return found or ["No task said why: one was killed, or ended by hand. See their logs"]
