"""The repository's page in the Airflow UI: a place in the navigation and tabs of DAGs and runs.

Airflow mounts an application of a plugin without any authentication, so each of its routes is
guarded here: 401 for who is not logged in, 403 for who may not see the prepare DAG.
"""

from __future__ import annotations

from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, get_user, requires_access_dag
from airflow.models.dag import DagModel
from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from puavo_repository import settings
from puavo_repository.errors import RepositoryError
from puavo_repository.settings import Settings
from puavo_repository.web.app import Place, create_app
from puavo_repository.web.model import DAGS, PREPARE, Dag, Run
from puavo_repository_airflow import facts


async def known_user(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> BaseUser:
    """Return who asks; Airflow's own check answers 403 to a token that is none."""
    try:
        return await get_user(request, None, bearer)
    except HTTPException as error:
        raise HTTPException(401, error.detail) from error


def place() -> Place:
    """Return the repository that the DAGs work on by default."""
    found = settings.load({})
    return Place(found.mirror_dir, found.remote)


def here() -> Settings | None:
    """Return the settings of this installation; the page says what is wrong with them."""
    try:
        return settings.load({})
    except RepositoryError:
        return None


def visible_dags(user: GetUserDep) -> list[str]:
    """Return the DAGs whose runs somebody may see."""
    manager = get_auth_manager()
    return [
        dag_id
        for dag_id in DAGS
        if manager.is_authorized_dag(
            method="GET",
            access_entity=DagAccessEntity.RUN,
            details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id)),
            user=user,
        )
    ]


Here = Annotated[Settings | None, Depends(here)]
Visible = Annotated[list[str], Depends(visible_dags)]


def known(session: SessionDep, visible: Visible, here: Here) -> tuple[list[Run], list[Dag]]:
    """Return the last runs of those DAGs that somebody may see, newest first, and the DAGs."""
    dags = [facts.dag(session, dag_id, here) for dag_id in visible]
    return facts.runs(session, visible, here), dags


def document(
    dag_id: str,
    run_id: str,
    session: SessionDep,
    _: None = Depends(requires_access_dag("GET", DagAccessEntity.XCOM)),
) -> dict[str, Any] | None:
    """Return what a run left for people to read; who may not see its results is refused."""
    if dag_id not in DAGS:
        raise HTTPException(404, "not one of the repository's DAGs")
    return facts.document(dag_id, run_id, session)


_APP = create_app(
    place,
    guard=[known_user, requires_access_dag("GET", DagAccessEntity.RUN, PREPARE)],
    known=known,
    document=document,
)
_PAGE = {"name": "Puavo repository", "href": "puavo-repository/"}
_RUN = "puavo-repository/runs/?dag_id={DAG_ID}&run_id={RUN_ID}"


class PuavoRepositoryPlugin(AirflowPlugin):
    """Shows the repository."""

    name = "puavo_repository"
    fastapi_apps = [  # noqa: RUF012 - as Airflow declares it
        {"app": _APP, "url_prefix": "/puavo-repository", "name": "Puavo repository"}
    ]
    external_views = [  # noqa: RUF012
        {
            **_PAGE,
            "url_route": "puavo-repository",
            "destination": "nav",
            "icon": "puavo-repository/static/icon.svg",
            "nav_top_level": True,
        },
        {**_PAGE, "url_route": "puavo-repository-of-dag", "destination": "dag"},
        {
            "name": "Plan and report",
            "href": _RUN,
            "url_route": "puavo-repository-run",
            "destination": "dag_run",
        },
    ]
