"""What Airflow knows of the DAGs and their runs, for those who may see it; for the page.

These are dependencies of the page's routes: they run in the API server, with its session, and
change nothing.
"""

import itertools
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, get_user, requires_access_dag
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance as Task
from airflow.models.xcom import XComModel
from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select
from sqlalchemy.orm import Session

from puavo_repository import settings
from puavo_repository.errors import RepositoryError, SettingsError
from puavo_repository.progress import count
from puavo_repository.remote.target import without_password
from puavo_repository.settings import Settings
from puavo_repository.web.app import Place
from puavo_repository.web.generations import Choices, Generations
from puavo_repository.web.model import (
    AUDIT,
    DAGS,
    FAILURE,
    GENERATIONS,
    PREPARE,
    PUBLISH,
    ROLLBACK,
    SUMMARY,
    Dag,
    Run,
    Stage,
)
from puavo_repository.web.options import Schemas

RUNS_SHOWN = 15  # of each DAG
RUNS_READ = 300  # of each DAG, in search of the last good one


async def known_user(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> BaseUser:
    """Return who asks; Airflow's own check answers 403 to a token that is none."""
    try:
        return await get_user(request, None, bearer)
    except HTTPException as error:
        raise HTTPException(401, error.detail) from error


GUARD = (known_user, requires_access_dag("GET", DagAccessEntity.RUN, PREPARE))


def place() -> Place:
    """Return the repository that the DAGs work on by default."""
    found = settings.load({})
    return found.mirror_dir, found.remote


def known(session: SessionDep, user: GetUserDep) -> tuple[list[Run], list[Dag]]:
    """Return the last runs of those DAGs whose runs somebody may see, newest first, and the DAGs.

    Of each DAG the last run that ended and counts is among them, however many came after it.
    """
    try:
        here = settings.load({})
    except RepositoryError:
        here = None  # the page says what is wrong with them
    runs: list[tuple[int, Run]] = []
    dags = []
    for dag_id in DAGS:
        details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
        if not get_auth_manager().is_authorized_dag(
            method="GET", access_entity=DagAccessEntity.RUN, details=details, user=user
        ):
            continue
        query = select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.id.desc())
        last = session.scalars(query.limit(RUNS_READ)).all()
        every = ((run.id, _run(run, session, here)) for run in last)
        shown = list(itertools.islice(every, RUNS_SHOWN))
        if not any(run.counts and run.ended for _, run in shown):
            shown += itertools.islice((one for one in every if one[1].counts and one[1].ended), 1)
        runs += shown
        found = session.get(DagModel, dag_id)
        loaded = found is not None and not (found.is_stale or found.has_import_errors)
        paused, due = (found.is_paused, found.next_dagrun_create_after) if found else (False, None)
        good = (run.end_date for run in last if run.state == "success" and _counts(run, here))
        dags.append(Dag(dag_id, loaded, bool(paused), due, next(good, None)))
    return [run for _, run in sorted(runs, key=lambda one: one[0], reverse=True)], dags


def document(
    dag_id: str,
    run_id: str,
    session: SessionDep,
    _: None = Depends(requires_access_dag("GET", DagAccessEntity.XCOM)),
) -> dict[str, Any]:
    """Return what a run left for people to read; who may not see its results is refused."""
    if dag_id not in DAGS:
        raise HTTPException(404, "not one of the repository's DAGs")
    return _left(dag_id, run_id, session)


def choices(
    session: SessionDep,
    run_id: str = "",
    _: None = Depends(requires_access_dag("GET", DagAccessEntity.XCOM, ROLLBACK)),
) -> Choices:
    """Return what the dry run of a rollback found; nothing where none is named."""
    query = XComModel.get_many(run_id=run_id, dag_ids=ROLLBACK, key=GENERATIONS)
    rows: Any = session.scalars(query) if run_id else ()
    found = [Generations.model_validate(XComModel.deserialize_value(row)) for row in rows]
    failures = _left(ROLLBACK, run_id, session)[FAILURE] if run_id else []
    return Choices(mirrors=found, failures=failures)


def schemas(
    dag_id: str,
    session: SessionDep,
    _: None = Depends(requires_access_dag("POST", DagAccessEntity.RUN)),
) -> Schemas:
    """Return the fields of a DAG's form; who may not start it is refused."""
    known = dag_id in (PREPARE, PUBLISH, AUDIT)
    found = SerializedDagModel.get_dag(dag_id, session=session) if known else None
    if found is None:
        raise HTTPException(404, "no such form")
    params: Any = found.params
    return {name: param.schema for name, param in params.items()}


def _left(dag_id: str, run_id: str, session: Session) -> dict[str, Any]:
    """Return the summary that a run left, if it did, and its failures in their order."""
    found: dict[str, Any] = {FAILURE: []}
    query = XComModel.get_many(run_id=run_id, dag_ids=dag_id)
    rows: Any = session.scalars(query.where(XComModel.key.in_((FAILURE, SUMMARY))))
    for row in sorted(rows, key=lambda row: row.timestamp):
        value = XComModel.deserialize_value(row)
        if row.key == SUMMARY:
            found[SUMMARY] = value
        else:
            found[FAILURE].append(str(value))
    return found


def _given(run: DagRun) -> dict[str, Any]:
    """Return the params that were given with a run; the form sends its empty fields too."""
    return {name: value for name, value in (run.conf or {}).items() if value not in (None, "", [])}


def _counts(run: DagRun, here: Settings | None) -> bool:
    """Tell whether a run works on this installation's folders and mirrors, and may change them."""
    given = _given(run)
    try:
        asked = settings.read(given, {})
    except SettingsError:
        return False  # it was refused
    folders = {name: getattr(asked, name) for name in settings.FOLDERS}
    if given.get("dry_run") or any(v and v != getattr(here, n, None) for n, v in folders.items()):
        return False
    ours = {name for one in (here.remote if here else ()) for name in (one, without_password(one))}
    return set(map(str, given.get("mirrors", ()))) <= ours


def _run(run: DagRun, session: Session, here: Settings | None) -> Run:
    query = select(Task.task_id, Task.state, Task.start_date, Task.end_date)
    query = query.where(Task.dag_id == run.dag_id, Task.run_id == run.run_id)
    tasks: dict[str, list[Any]] = {}
    for task in session.execute(
        query.where(Task.start_date.is_not(None)).order_by(Task.start_date)
    ):
        tasks.setdefault(task.task_id, []).append(task)
    stages = [_stage(name, parts) for name, parts in tasks.items()]
    # It was refused before it did anything, and a run without params would not have been.
    refused = run.state == "failed" and not any(stage.state == "success" for stage in stages)
    left = _left(run.dag_id, run.run_id, session)
    first, *others = left[FAILURE] or [""]
    more = f" (and {count(len(others), 'more failure')})" if others else ""
    return Run(
        dag_id=run.dag_id,
        run_id=run.run_id,
        state=str(run.state),
        kind=str(run.run_type),
        queued=run.queued_at or run.run_after,
        started=run.start_date,
        ended=run.end_date,
        counts=_counts(run, here) and not (refused and any(_given(run).values())),
        error=first + more if run.state == "failed" else "",
        did=left.get(SUMMARY, {}).get("did", ""),
        stages=stages,
    )


def _stage(name: str, tasks: list[Any]) -> Stage:
    ended = max((task.end_date for task in tasks if task.end_date), default=tasks[0].start_date)
    failed = sum(task.state == "failed" for task in tasks)
    running = any(task.end_date is None for task in tasks)
    return Stage(
        name=name,
        state="failed" if failed else "running" if running else "success",
        seconds=(ended - tasks[0].start_date).total_seconds(),
        tasks=len(tasks),
        failed=failed,
    )
