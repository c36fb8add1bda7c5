"""The repository's page in the Airflow UI: a place in the navigation and tabs of DAGs and runs.

Airflow mounts an application of a plugin without any authentication, so each of its routes is
guarded here: 401 for who is not logged in, 403 for who may not see the prepare DAG.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, HTTPException
from sqlalchemy import select

from puavo_repository import settings
from puavo_repository.web.app import Backend, create_app
from puavo_repository.web.model import DRY_RUN, Run, Stage
from puavo_repository.web.view import AUDIT, PREPARE, PUBLISH, ROLLBACK

DAGS = (PREPARE, PUBLISH, AUDIT, ROLLBACK)
RUNS_SHOWN = 15  # of each DAG
# What a run left for people to read, by the task and key of the XCom.
DOCUMENTS = {
    ("dry_run", "plan"): "plan",
    ("report", "report"): "report",
    ("report", "published"): "published",
    ("report", "audit"): "audit",
    ("report", "rolled_back"): "rolled_back",
}


def mirror() -> Path:
    """Return the mirror that the DAGs work on by default."""
    return settings.load({}).mirror_dir


def runs(session: SessionDep, user: GetUserDep) -> list[Run]:
    """Return the last runs of those DAGs that somebody may see, newest first."""
    found: list[DagRun] = []
    for dag_id in _visible_dags(user):
        query = select(DagRun).where(DagRun.dag_id == dag_id)
        found += session.scalars(query.order_by(DagRun.id.desc()).limit(RUNS_SHOWN))
    found.sort(key=lambda run: run.id, reverse=True)
    return [_run(run, session) for run in found]


def _visible_dags(user: Any) -> list[str]:
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


def _run(run: DagRun, session: SessionDep) -> Run:
    columns = (
        TaskInstance.task_id,
        TaskInstance.state,
        TaskInstance.start_date,
        TaskInstance.end_date,
    )
    tasks = session.execute(
        select(*columns).where(TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
    ).all()
    stages: dict[str, list[Any]] = {}
    for task in tasks:
        if task.start_date is not None:
            stages.setdefault(task.task_id, []).append(task)
    return Run(
        dag_id=run.dag_id,
        run_id=run.run_id,
        state=str(run.state),
        kind=str(run.run_type),
        started=run.start_date,
        ended=run.end_date,
        did=_did(_document(run.dag_id, run.run_id, session)),
        stages=[_stage(name, parts) for name, parts in stages.items()],
    )


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


def _document(dag_id: str, run_id: str, session: SessionDep) -> dict[str, Any] | None:
    query = XComModel.get_many(
        run_id=run_id, dag_ids=dag_id, task_ids=[task for task, _ in DOCUMENTS]
    )
    rows: Any = session.scalars(query)
    for found in rows:
        kind = DOCUMENTS.get((found.task_id, found.key))
        if kind is not None:
            return {kind: XComModel.deserialize_value(found)}
    return None


def _did(document: Mapping[str, Any] | None) -> str:
    if document is None:
        return ""
    if "plan" in document:
        return DRY_RUN
    if "published" in document:
        remotes = document["published"]
        if any(remote["dry_run"] for remote in remotes):
            return DRY_RUN
        files = sum(len(remote["uploaded"]) + len(remote["assembled"]) for remote in remotes)
        return f"{_count(files, 'file')} to {_count(len(remotes), 'mirror')}"
    if "audit" in document:
        checks = document["audit"]["checks"]
        return _count(sum(len(check["findings"]) for check in checks), "finding")
    if "rolled_back" in document:
        done = [remote for remote in document["rolled_back"] if "steps" not in remote]
        return f"{_count(len(done), 'mirror')} stepped back" if done else DRY_RUN
    report = document["report"]
    images, rdiffs = report["images_read"], report["rdiffs_made"]
    return f"{_count(images, 'image')} read, {_count(rdiffs, 'rdiff')} made"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def document(
    dag_id: str,
    run_id: str,
    session: SessionDep,
    _: None = Depends(requires_access_dag("GET", DagAccessEntity.XCOM)),
) -> dict[str, Any] | None:
    """Return what a run left for people to read; who may not see its results is refused."""
    if dag_id not in DAGS:
        raise HTTPException(404, "not one of the repository's DAGs")
    return _document(dag_id, run_id, session)


class PuavoRepositoryPlugin(AirflowPlugin):
    """Shows the repository."""

    name = "puavo_repository"
    fastapi_apps = [  # noqa: RUF012 - as Airflow declares it
        {
            "app": create_app(
                Backend(
                    mirror=mirror,
                    guard=[
                        requires_access_dag("GET", DagAccessEntity.RUN, PREPARE),
                    ],
                    runs=runs,
                    document=document,
                )
            ),
            "url_prefix": "/puavo-repository",
            "name": "Puavo repository",
        }
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "Puavo repository",
            "href": "puavo-repository/",
            "url_route": "puavo-repository",
            "destination": "nav",
            "icon": "puavo-repository/static/icon.svg",
            "nav_top_level": True,
        },
        {
            "name": "Puavo repository",
            "href": "puavo-repository/",
            "url_route": "puavo-repository-of-dag",
            "destination": "dag",
        },
        {
            "name": "Plan and report",
            "href": "puavo-repository/runs/?dag_id={DAG_ID}&run_id={RUN_ID}",
            "url_route": "puavo-repository-run",
            "destination": "dag_run",
        },
    ]
