"""The repository's page in the Airflow UI: a place in the navigation and tabs of DAGs and runs.

Airflow mounts an application of a plugin without any authentication, so each of its routes is
guarded: 401 for who is not logged in, 403 for who may not see the prepare DAG.
"""

import logging
from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

# What every task needs: the scheduler has it from here when it forks tasks.
from puavo_repository_airflow import summary, tasks  # noqa: F401

_PAGE = {"name": "Puavo repository", "href": "puavo-repository/"}
logger = logging.getLogger("puavo_repository.plugin")


class PuavoRepositoryPlugin(AirflowPlugin):
    """Shows the repository."""

    name = "puavo_repository"
    external_views = [  # noqa: RUF012 - as Airflow declares it
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
            "href": "puavo-repository/runs/?dag_id={DAG_ID}&run_id={RUN_ID}",
            "url_route": "puavo-repository-run",
            "destination": "dag_run",
        },
    ]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return the page, for the API server alone.

        Each part of Airflow and each task load the plugin. With the page that would take each of
        them a second longer.
        """
        try:
            from puavo_repository.web.app import create_app
            from puavo_repository_airflow.facts import (
                GUARD,
                choices,
                document,
                known,
                place,
                schemas,
            )
        except Exception:
            logger.exception("Airflow has no page of the repository: it could not be loaded")
            return []  # tasks need the API server, and not the page
        app = create_app(place, GUARD, known, document, choices, schemas)
        return [{"app": app, "url_prefix": "/puavo-repository", "name": "Puavo repository"}]
