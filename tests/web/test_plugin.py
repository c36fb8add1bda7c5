"""The page behind Airflow's own login: its real application, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_server import beside, migrated
from web.mirrors import make_mirror

# Runs in a process of its own: Airflow reads its settings when it is first imported.
ASK = """
import json, sys
from datetime import UTC, datetime
from fastapi.testclient import TestClient
from airflow.api_fastapi.app import create_app, get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

answers, views = {}, {}
with TestClient(create_app()) as client:
    manager = get_auth_manager()
    for name, role in {"": "", "admin": "admin", "vera": "viewer", "nobody": ""}.items():
        user = SimpleAuthManagerUser(username=name, role=role)
        token = manager.generate_jwt(user) if name else ""
        for path in json.loads(sys.argv[1]):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = client.get("/puavo-repository" + path, headers=headers)
            answers[f"{name} {path}"] = answer.status_code, answer.text[:200_000]
    token = manager.generate_jwt(SimpleAuthManagerUser(username="admin", role="admin"))
    client.cookies["_token"] = token
    answers["cookie /"] = client.get("/puavo-repository/").status_code, ""
    plugins = client.get("/api/v2/plugins", headers={"Authorization": f"Bearer {token}"}).json()
    for plugin in plugins["plugins"]:
        if plugin["name"] == "puavo_repository":
            views = {view["destination"]: view["href"] for view in plugin["external_views"]}
print("RESULT " + json.dumps({"answers": answers, "views": views}))
"""
PATHS = [
    "/",
    "/api/v1/summary",
    "/api/v1/repository",
    "/api/openapi.json",
    "/static/page.js",
    "/runs/?dag_id=puavo_repository_prepare&run_id=none",
    "/runs/?dag_id=another&run_id=none",
    "/docs",
    "/openapi.json",
]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what everybody got."""
    home = tmp_path_factory.mktemp("airflow")
    images = tmp_path_factory.mktemp("images")
    make_mirror(images / "mirror", images=2)
    secret = {"PUAVO_REPOSITORY_REMOTE": "sftp://user:hunter2@backup.example/mirror"}
    airflow = migrated(home, PUAVO_REPOSITORY_IMAGE_DIR=str(images), **secret)
    return beside(airflow, ASK, json.dumps(PATHS))


def statuses(asked: dict[str, Any], name: str) -> dict[str, int]:
    return {path: asked["answers"][f"{name} {path}"][0] for path in PATHS}


def test_nobody_sees_anything_without_a_login(asked: dict[str, Any]) -> None:
    found = statuses(asked, "")
    assert found.pop("/docs") == found.pop("/openapi.json") == 404
    assert set(found.values()) == {401}


def test_who_may_not_see_the_dag_may_not_see_the_repository(asked: dict[str, Any]) -> None:
    found = statuses(asked, "nobody")
    assert found.pop("/docs") == found.pop("/openapi.json") == 404
    assert set(found.values()) == {403}


@pytest.mark.parametrize("name", ["admin", "vera"])
def test_who_may_see_the_dag_sees_the_repository(asked: dict[str, Any], name: str) -> None:
    found = statuses(asked, name)
    assert found.pop("/docs") == found.pop("/openapi.json") == 404
    assert found.pop("/runs/?dag_id=another&run_id=none") == 404
    assert set(found.values()) == {200}
    assert "The mirror is right" in asked["answers"][f"{name} /"][1]


def test_the_browser_s_own_cookie_is_enough(asked: dict[str, Any]) -> None:
    assert asked["answers"]["cookie /"][0] == 200


def test_no_secret_is_shown(asked: dict[str, Any]) -> None:
    assert not [path for path, (_, text) in asked["answers"].items() if "hunter2" in text]


def test_it_stands_in_the_navigation_and_with_dags_and_runs(asked: dict[str, Any]) -> None:
    assert asked["views"]["nav"] == "puavo-repository/"
    assert set(asked["views"]) == {"nav", "dag", "dag_run"}
