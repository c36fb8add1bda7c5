"""The application: every route guarded, the API as described, nothing said that is not so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import Header, HTTPException, Query
from fastapi.testclient import TestClient

from puavo_repository.errors import SettingsError
from puavo_repository.web.app import Backend, create_app
from puavo_repository.web.model import Repository, Run, Summary
from web.mirrors import fail, make_mirror
from web.test_view import run

PATHS = [
    "/",
    "/runs/?dag_id=d&run_id=r",
    "/static/page.css",
    "/static/page.js",
    "/static/icon.svg",
    "/api/v1/summary",
    "/api/v1/repository",
    "/api/v1/series/puavo-os-class00-bookworm-amd64",
    "/api/openapi.json",
]


def guard(token: str = Header("")) -> None:
    if not token:
        raise HTTPException(401, "Not authenticated")
    if token != "good":
        raise HTTPException(403, "Forbidden")


def runs() -> list[Run]:
    return [run("success")]


def document(dag_id: str = Query(), run_id: str = Query()) -> Mapping[str, Any] | None:
    return None


def client(mirror: Any) -> TestClient:
    return TestClient(create_app(Backend(mirror, [guard], runs, document)))


@pytest.fixture
def good(tmp_path: Path) -> TestClient:
    make_mirror(tmp_path)
    found = client(lambda: tmp_path)
    found.headers["token"] = "good"
    return found


@pytest.mark.parametrize("path", PATHS)
def test_every_route_is_guarded_and_says_what_it_may_load(good: TestClient, path: str) -> None:
    assert good.get(path, headers={"token": ""}).status_code == 401
    assert good.get(path, headers={"token": "other"}).status_code == 403
    answer = good.get(path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_no_route_is_left_out_above(good: TestClient) -> None:
    app: Any = good.app
    known = {path.partition("?")[0] for path in PATHS}
    for route in app.routes:
        assert any(route.path_regex.match(path) for path in known), route.path


def test_a_person_who_is_refused_gets_a_page_and_a_program_json(good: TestClient) -> None:
    page = good.get("/", headers={"token": "", "accept": "text/html"})
    assert page.status_code == 401
    assert "Log in" in page.text
    assert good.get("/", headers={"token": ""}).json() == {"detail": "Not authenticated"}


def test_the_api_serves_what_the_page_shows(good: TestClient, tmp_path: Path) -> None:
    found = Repository.model_validate(good.get("/api/v1/repository").json())
    assert found.summary == Summary.model_validate(good.get("/api/v1/summary").json())
    assert found.summary.ok
    assert found.summary.last_success is not None
    series = good.get(f"/api/v1/series/{found.series[0].name}").json()
    assert series["images"][0]["digests"]["sha512"] in good.get("/").text
    assert good.get("/api/v1/series/none").status_code == 404
    assert good.get("/static/..%2Fmodel.py").status_code == 404


def test_a_failure_shows_and_goes_with_the_record(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path)
    found = client(lambda: tmp_path)
    found.headers["token"] = "good"
    assert found.get("/api/v1/summary").json()["ok"]
    fail(mirror, "bad.img", "bad.img: it is broken. Mend it")
    summary = found.get("/api/v1/summary").json()
    assert not summary["ok"]
    assert summary["problems"][0]["remedy"] == "Mend it"
    assert "it is broken" in found.get("/").text
    mirror.state.failures.remove("bad.img")
    assert "it is broken" not in found.get("/").text


def test_a_set_up_that_cannot_be_used_is_shown_as_what_it_is() -> None:
    def refuse() -> Path:
        raise SettingsError("IMAGE_DIR", "is not set", remedy="Give the folder with the images")

    found = client(refuse)
    found.headers["token"] = "good"
    (problem,) = found.get("/api/v1/summary").json()["problems"]
    assert problem["name"] == "IMAGE_DIR"
    assert problem["remedy"] == "Give the folder with the images"
    assert "is not set" in found.get("/").text


def test_the_description_names_every_field_of_the_summary(good: TestClient) -> None:
    described = good.get("/api/openapi.json").json()
    assert set(described["components"]["schemas"]["Summary"]["properties"]) == set(
        Summary.model_fields
    )
    assert "/api/v1/summary" in described["paths"]
