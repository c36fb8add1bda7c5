"""The repository's page in the Airflow UI: a place in the navigation and tabs of DAGs and runs.

Airflow mounts an application of a plugin without any authentication, so each of its routes is
guarded: 401 for who is not logged in, 403 for who may not see the prepare DAG.
"""

from airflow.plugins_manager import AirflowPlugin

from puavo_repository.web.app import create_app
from puavo_repository_airflow.facts import GUARD, choices, document, known, place, schemas

_PAGE = {"name": "Puavo repository", "href": "puavo-repository/"}


class PuavoRepositoryPlugin(AirflowPlugin):
    """Shows the repository."""

    name = "puavo_repository"
    fastapi_apps = [  # noqa: RUF012 - as Airflow declares it
        {
            "app": create_app(place, GUARD, known, document, choices, schemas),
            "url_prefix": "/puavo-repository",
            "name": "Puavo repository",
        }
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
            "href": "puavo-repository/runs/?dag_id={DAG_ID}&run_id={RUN_ID}",
            "url_route": "puavo-repository-run",
            "destination": "dag_run",
        },
    ]
