"""What Airflow's database says of the DAGs and their runs, for the page.

This runs in the API server, with its session; nothing is changed. ``here`` are the settings of this
installation, None where they cannot be used.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from puavo_repository.errors import SettingsError
from puavo_repository.progress import count
from puavo_repository.settings import Settings, read
from puavo_repository.web.model import FAILURE, SUMMARY, Dag, Run, Stage

RUNS_SHOWN = 15  # of each DAG
RUNS_READ = 300  # of each DAG, in search of the last good one
FOLDERS = ("image_dir", "mirror_dir", "puavo_os")


def dag(session: Session, dag_id: str, here: Settings | None) -> Dag:
    """Return what is known of a DAG."""
    found = session.get(DagModel, dag_id)
    if found is None:
        return Dag(dag_id=dag_id, loaded=False)
    last = _last(session, dag_id, RUNS_READ)
    good = (run for run in last if run.state == "success" and _counts(run, here))
    return Dag(
        dag_id=dag_id,
        loaded=not (found.is_stale or found.has_import_errors),
        paused=bool(found.is_paused),
        due=found.next_dagrun_create_after,
        succeeded=next((run.end_date for run in good), None),
    )


def runs(session: Session, dag_ids: Sequence[str], here: Settings | None) -> list[Run]:
    """Return the last runs of DAGs, newest first.

    Of each DAG the last run that ended and counts is among them, however many came after it.
    """
    chosen: list[tuple[int, Run]] = []
    for dag_id in dag_ids:
        found = [(run.id, _run(run, session, here)) for run in _last(session, dag_id, RUNS_SHOWN)]
        if not any(run.counts and run.ended for _, run in found):
            every = _last(session, dag_id, RUNS_READ)[RUNS_SHOWN:]
            older = ((run.id, _run(run, session, here)) for run in every if run.end_date)
            found += itertools.islice((one for one in older if one[1].counts), 1)
        chosen += found
    chosen.sort(key=lambda one: one[0], reverse=True)
    return [run for _, run in chosen]


def _last(session: Session, dag_id: str, number: int) -> Sequence[DagRun]:
    query = select(DagRun).where(DagRun.dag_id == dag_id)
    return session.scalars(query.order_by(DagRun.id.desc()).limit(number)).all()


def _given(run: DagRun) -> dict[str, Any]:
    """Return the params that were given with a run; the form sends its empty fields too."""
    return {name: value for name, value in (run.conf or {}).items() if value not in (None, "", [])}


def _counts(run: DagRun, here: Settings | None) -> bool:
    """Tell whether a run works on this installation's folders and mirrors, and may change them."""
    given = _given(run)
    try:
        asked = read(given, {})
    except SettingsError:
        return False  # it was refused
    folders = {name: getattr(asked, name) for name in FOLDERS}
    if given.get("dry_run") or any(v and v != getattr(here, n, None) for n, v in folders.items()):
        return False
    return set(map(str, given.get("mirrors", ()))) <= set(here.remote if here else ())


def _run(run: DagRun, session: Session, here: Settings | None) -> Run:
    stages = _stages(run, session)
    left = document(run.dag_id, run.run_id, session) or {}
    # It was refused before it did anything, and a run without params would not have been.
    refused = run.state == "failed" and not any(stage.state == "success" for stage in stages)
    return Run(
        dag_id=run.dag_id,
        run_id=run.run_id,
        state=str(run.state),
        kind=str(run.run_type),
        queued=run.queued_at or run.run_after,
        started=run.start_date,
        ended=run.end_date,
        counts=_counts(run, here) and not (refused and any(_given(run).values())),
        error=_first(left.get(FAILURE, [])) if run.state == "failed" else "",
        did=left.get(SUMMARY, {}).get("did", ""),
        stages=stages,
    )


def _first(texts: Sequence[str]) -> str:
    more = f" (and {count(len(texts) - 1, 'more failure')})" if len(texts) > 1 else ""
    return f"{texts[0]}{more}" if texts else ""


def _stages(run: DagRun, session: Session) -> list[Stage]:
    one = TaskInstance
    query = select(one.task_id, one.state, one.start_date, one.end_date)
    tasks = session.execute(query.where(one.dag_id == run.dag_id, one.run_id == run.run_id))
    stages: dict[str, list[Any]] = {}
    for task in tasks:
        if task.start_date is not None:
            stages.setdefault(task.task_id, []).append(task)
    return [_stage(name, parts) for name, parts in stages.items()]


def _stage(name: str, tasks: list[Any]) -> Stage:
    started = min(task.start_date for task in tasks)
    ended = max((task.end_date for task in tasks if task.end_date), default=started)
    failed = sum(task.state == "failed" for task in tasks)
    running = any(task.end_date is None for task in tasks)
    return Stage(
        name=name,
        state="failed" if failed else "running" if running else "success",
        seconds=(ended - started).total_seconds(),
        tasks=len(tasks),
        failed=failed,
    )


def document(dag_id: str, run_id: str, session: Session) -> dict[str, Any] | None:
    """Return the summary that a run left, and its failures in their order; None for neither."""
    found: dict[str, Any] = {}
    query = XComModel.get_many(run_id=run_id, dag_ids=dag_id)
    rows: Any = session.scalars(query.where(XComModel.key.in_((FAILURE, SUMMARY))))
    for row in sorted(rows, key=lambda row: row.timestamp):
        value = XComModel.deserialize_value(row)
        if row.key == SUMMARY:
            found[SUMMARY] = value
        else:
            found.setdefault(FAILURE, []).append(str(value))
    return found or None
