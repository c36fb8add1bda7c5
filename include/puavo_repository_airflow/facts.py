"""What Airflow knows of the DAGs and their runs, for those who may see it; for the page.

These are dependencies of the page's routes: they run in the API server, with its session, and
change nothing.
"""

from datetime import datetime
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, get_user, requires_access_dag
from airflow.models.dag import DagModel
from airflow.models.serialized_dag import SerializedDagModel
from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from puavo_repository import settings
from puavo_repository.errors import RepositoryError
from puavo_repository.language import gettext_noop
from puavo_repository.web.disk import Place
from puavo_repository.web.model import (
    ALERT,
    AUDIT,
    DAGS,
    FAILURE,
    GENERATIONS,
    PREPARE,
    PUBLISH,
    ROLLBACK,
    Dag,
    Run,
)
from puavo_repository.web.offered import Choices, Generations
from puavo_repository.web.options import Schemas
from puavo_repository_airflow import runs

_CRON = 5  # fields


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
    told = {
        gettext_noop("e-mail"): found.notify_email,
        gettext_noop("webhook"): found.notify_webhook,
    }
    ways = [way for way, to in told.items() if to]
    return Place(found.mirror_dir, found.remote, found.repository, ways, found.image_dir)


def known(session: SessionDep, user: GetUserDep) -> tuple[list[Run], list[Dag]]:
    """Return the last runs of those DAGs whose runs somebody may see, newest first, and the DAGs.

    Of each DAG the last run that ended and counts is among them, however many came after it; of
    the test alert only one that waits or goes on.
    """
    try:
        here = settings.load({})
    except RepositoryError:
        here = None  # the page says what is wrong with them
    every: list[tuple[int, Run]] = []
    dags = []
    for dag_id in (*DAGS, ALERT):
        details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
        if not get_auth_manager().is_authorized_dag(
            method="GET", access_entity=DagAccessEntity.RUN, details=details, user=user
        ):
            continue
        found, good = runs.last_runs(session, dag_id, here)
        every += [one for one in found if dag_id != ALERT or one[1].active]
        dags.append(_dag(dag_id, session.get(DagModel, dag_id), good))
    return [run for _, run in sorted(every, key=lambda one: one[0], reverse=True)], dags


def _dag(dag_id: str, found: DagModel | None, good: datetime | None) -> Dag:
    if found is None:
        return Dag(dag_id, loaded=False, succeeded=good)
    loaded = not (found.is_stale or found.has_import_errors)
    summary = found.timetable_summary or ""
    schedule = summary if len(summary.split()) == _CRON else ""  # else it is in other words
    due = found.next_dagrun_create_after
    return Dag(dag_id, loaded, bool(found.is_paused), due, good, schedule)


def document(
    dag_id: str,
    run_id: str,
    session: SessionDep,
    _: None = Depends(requires_access_dag("GET", DagAccessEntity.XCOM)),
) -> dict[str, Any]:
    """Return what a run left for people to read; who may not see its results is refused."""
    if dag_id not in DAGS:
        raise HTTPException(404, "not one of the repository's DAGs")
    return runs.result(session, dag_id, run_id)


def choices(
    session: SessionDep,
    run_id: str = "",
    _: None = Depends(requires_access_dag("GET", DagAccessEntity.XCOM, ROLLBACK)),
) -> Choices:
    """Return what the dry run of a rollback found; nothing where none is named."""
    if not run_id:
        return Choices(mirrors=[], failures=[])
    found = runs.result(session, ROLLBACK, run_id, GENERATIONS)
    mirrors = [Generations.model_validate(one) for one in found[GENERATIONS]]
    return Choices(mirrors=mirrors, failures=found[FAILURE])


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
