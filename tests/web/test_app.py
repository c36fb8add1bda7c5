"""The application: every route guarded, the API as described, nothing said that is not so."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Header, HTTPException, Query
from fastapi.testclient import TestClient

from puavo_repository.errors import SettingsError
from puavo_repository.fleet import usage
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.web import disk
from puavo_repository.web.app import COOKIES, create_app
from puavo_repository.web.disk import Place
from puavo_repository.web.model import PREPARE, ROLLBACK, Dag, Repository, Run, Summary
from puavo_repository.web.offered import Choices
from puavo_repository.web.options import Schemas
from puavo_repository.web.page import static
from support.instead import instead
from web.mirrors import fail, make_mirror
from web.test_view import run

SERIES = "puavo-os-class00-bookworm-amd64"
CHECK = f"/options/check?dag_id={PREPARE}"  # what was typed is posted there
# Other tests have those that are there.
ABSENT = "/rdiffs/none.rdiff", "/rollback/?mirror=www"
PATHS = [
    "/",
    "/runs/?dag_id=d&run_id=r",
    f"/series/{SERIES}/",
    *ABSENT,
    f"/options/?dag_id={PREPARE}",
    f"/options/folders?dag_id={PREPARE}&path=/",
    "/static/page.css",
    "/static/page.js",
    "/static/icon.svg",
    "/api/v1/summary",
    "/api/v1/health",
    "/api/v1/metrics",
    "/api/v1/repository",
    f"/api/v1/series/{SERIES}",
    "/api/v1/generations?run_id=r",
    "/api/v1/usage",
    "/health",
    "/api/openapi.json",
]


FORM: Schemas = {  # as Airflow has that of a DAG
    "dry_run": {"type": "boolean", "title": "Dry run", "description_md": "Only look and plan"},
    "image_dir": {"type": ["null", "string"], "title": "Folder with the images"},
    "mirror_dir": {"type": ["null", "string"], "title": "Folder that becomes the mirror"},
    "no_config": {"type": ["null", "boolean"], "title": "Leave the configuration files"},
    "targets": {"type": ["null", "integer"], "title": "How many", "minimum": 0},
    "max_share": {"type": ["null", "number"], "title": "Largest rdiff"},
    "mirrors": {"type": ["null", "array"], "title": "Mirrors", "section": "Where"},
}


def guard(token: str = Header("")) -> None:
    if not token:
        raise HTTPException(401, "Not authenticated")
    if token != "good":
        raise HTTPException(403, "Forbidden")


def known() -> tuple[list[Run], list[Dag]]:
    return [run("success")], [Dag(dag_id=PREPARE, succeeded=run("success").ended)]


def document(dag_id: str = Query(), run_id: str = Query()) -> Mapping[str, Any]:
    return {}


def choices(run_id: str = "") -> Choices:
    return Choices(mirrors=[], failures=[])


def schemas(dag_id: str) -> Schemas:
    return FORM


def client(mirror: Any) -> TestClient:
    return TestClient(create_app(mirror, [guard], known, document, choices, schemas))


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    make_mirror(tmp_path)
    # Else what is free may be another number at the next look.
    instead(monkeypatch, disk, shutil, disk_usage=lambda _path: SimpleNamespace(free=5 << 30))
    usage.records(tmp_path).put(usage.Usage(usage.NAME))
    found = client(lambda: Place(tmp_path))
    found.headers["token"] = "good"
    return found


@pytest.mark.parametrize("path", PATHS)
def test_every_route_is_guarded_and_says_what_it_may_load(good: TestClient, path: str) -> None:
    assert good.get(path, headers={"token": ""}).status_code == 401
    assert good.get(path, headers={"token": "other"}).status_code == 403
    answer = good.get(path)
    assert answer.status_code == (404 if path in ABSENT else 200)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_only_who_may_see_the_page_has_options_checked(good: TestClient) -> None:
    assert good.post(CHECK, json={}, headers={"token": ""}).status_code == 401
    assert good.post(CHECK, json={}, headers={"token": "other"}).status_code == 403
    assert good.post(CHECK, json={}).status_code == 200


def test_no_route_is_left_out_above(good: TestClient) -> None:
    app: Any = good.app
    known = {path.partition("?")[0] for path in (*PATHS, CHECK)}
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
    assert series["images"][0]["digests"]["sha512"] in good.get(f"/series/{SERIES}/").text
    assert good.get("/series/none/").status_code == 404
    assert good.get("/api/v1/series/none").status_code == 404
    assert good.get("/static/..%2Fmodel.py").status_code == 404


def test_what_is_on_offer_is_worked_out_again_where_it_has_changed(
    good: TestClient, tmp_path: Path
) -> None:
    def present() -> list[bool]:
        images = good.get(f"/api/v1/series/{SERIES}").json()["images"]
        return [image["present"] for image in images]

    assert all(present())
    min(tmp_path.glob("*.img")).unlink()
    assert present() == [False, *present()[1:]]
    assert sum(present()) == len(present()) - 1


def test_a_failure_shows_and_goes_with_the_record(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path)
    found = client(lambda: Place(tmp_path))
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
    def refuse() -> Place:
        raise SettingsError("IMAGE_DIR", "is not set", remedy="Give the folder with the images")

    found = client(refuse)
    found.headers["token"] = "good"
    (problem,) = found.get("/api/v1/summary").json()["problems"]
    assert problem["name"] == "IMAGE_DIR"
    assert problem["remedy"] == "Give the folder with the images"
    page = found.get("/").text
    assert "is not set" in page
    assert page.count("Not known: the settings cannot be read.") == 3
    assert "<dt>Last published</dt><dd><strong>unknown</strong>" in page
    for made_up in ("No mirror is configured", "The mirror offers no image yet", "0 images"):
        assert made_up not in page


def test_the_description_names_every_field_of_the_summary(good: TestClient) -> None:
    described = good.get("/api/openapi.json").json()
    assert set(described["components"]["schemas"]["Summary"]["properties"]) == set(
        Summary.model_fields
    )
    assert "/api/v1/summary" in described["paths"]


@pytest.mark.parametrize("path", PATHS)
def test_head_is_answered_as_get(good: TestClient, path: str) -> None:
    got, headed = good.get(path), good.head(path)
    assert headed.status_code == got.status_code == (404 if path in ABSENT else 200)
    assert headed.headers["content-length"] == got.headers["content-length"]
    assert headed.headers["content-type"] == got.headers["content-type"]
    assert good.head(path, headers={"token": ""}).status_code == 401


def test_who_is_not_known_is_told_how_to_be(good: TestClient) -> None:
    for accept in ("application/json", "text/html"):
        answer = good.get("/api/v1/summary", headers={"token": "", "accept": accept})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        known = good.get("/api/v1/summary", headers={"token": "other", "accept": accept})
        assert known.status_code == 403
        assert "www-authenticate" not in known.headers


def test_the_description_is_complete(good: TestClient) -> None:
    described = good.get("/api/openapi.json").json()
    assert {"/health", "/api/v1/generations"} <= described["paths"].keys()
    for path, methods in described["paths"].items():
        answers = methods["get"]["responses"]
        assert {"200", "401", "403"} <= answers.keys(), path
        assert ("503" in answers) is path.endswith("/health"), path
        kinds = {"404"} & answers.keys() | {"401", "403"}
        for code in kinds:
            (kind,) = answers[code]["content"].items()
            assert (kind[0], kind[1]["schema"]["title"]) == ("application/json", "Refused"), path


def test_what_is_not_there_asks_nobody_for_permission(good: TestClient) -> None:
    for path in ("/series/none/", "/nowhere"):
        found = good.get(path, headers={"accept": "text/html"})
        assert found.status_code == 404
        assert "permission" not in found.text
    refused = good.get("/", headers={"accept": "text/html", "token": "other"})
    assert "permission" in refused.text


def test_the_description_says_where_the_api_is(good: TestClient, tmp_path: Path) -> None:
    outer = FastAPI()
    outer.mount("/puavo-repository", good.app)
    asked = TestClient(outer, root_path="/airflow", headers={"token": "good"})
    described = asked.get("/airflow/puavo-repository/api/openapi.json").json()
    (server,) = described["servers"]
    assert server["url"] == "/airflow/puavo-repository"
    assert asked.get(server["url"] + "/api/v1/summary").status_code == 200


def test_who_is_not_logged_in_is_led_to_airflow_wherever_it_is_served(good: TestClient) -> None:
    outer = FastAPI()
    outer.mount("/puavo-repository", good.app)
    asked = TestClient(outer, root_path="/airflow", headers={"accept": "text/html"})
    for path in ("/", f"/series/{SERIES}/"):
        assert 'href="/airflow/"' in asked.get(f"/airflow/puavo-repository{path}").text
    asked = TestClient(outer, headers={"accept": "text/html"})
    assert 'href="/"' in asked.get("/puavo-repository/").text


def test_who_may_see_the_page_but_not_do_it_is_not_told_to_see_it(good: TestClient) -> None:
    def refuse() -> Schemas:
        raise HTTPException(403, "Forbidden")

    app = create_app(lambda: Place(Path("/")), [guard], known, document, choices, refuse)
    path, person = f"/options/?dag_id={PREPARE}", {"accept": "text/html", "token": "good"}
    said = TestClient(app).get(path, headers=person)
    assert said.status_code == 403
    assert "You may not do this: ask who manages Airflow" in said.text
    assert "permission to see" not in said.text
    assert "permission to see" in good.get(path, headers={**person, "token": "other"}).text


def test_who_sets_up_a_run_is_told_that_none_starts(tmp_path: Path) -> None:
    make_mirror(tmp_path)
    paused = [Dag(dag_id=dag_id, paused=True) for dag_id in (PREPARE, ROLLBACK)]
    place = Place(tmp_path, remotes=("www",))
    app = create_app(lambda: place, [], lambda: ([], paused), document, choices, schemas)
    for path in (f"/options/?dag_id={PREPARE}", "/rollback/?mirror=www"):
        assert "is paused: none of its runs starts." in TestClient(app).get(path).text


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
def test_health_is_503_with_reasons_until_all_is_well(
    good: TestClient, tmp_path: Path, path: str
) -> None:
    well = good.get(path)
    assert well.status_code == 200
    assert well.json() == {"ok": True, "status": "Everything is up to date", "reasons": []}
    fail(Mirror(tmp_path), "bad.img", "bad.img: it is broken. Copy it again")
    ill = good.get(path)
    assert ill.status_code == 503
    assert ill.json() == {
        "ok": False,
        "status": "1 problem",
        "reasons": ["bad.img: it is broken. Copy it again"],
    }
    assert good.head(path).status_code == 503
    assert good.get("/api/v1/summary").status_code == 200, "readers always get it"


def test_the_page_is_in_the_readers_language_and_the_api_in_english(good: TestClient) -> None:
    good.headers["accept-language"] = "de-CH"
    assert '<html lang="de"' in good.get("/").text
    assert "Alles ist aktuell" in good.get("/").text
    chosen, airflow = COOKIES
    good.cookies.set(airflow, "fr")
    assert "Tout est à jour" in good.get("/").text
    good.cookies.set(chosen, "fi")
    assert "Kaikki on ajan tasalla" in good.get("/").text
    assert "Cookie" in good.get("/").headers["vary"]
    refused = good.get("/", headers={"token": "", "accept": "text/html"})
    assert '<html lang="fi"' in refused.text
    assert good.get("/api/v1/summary").json()["status"] == "Everything is up to date"


def test_a_page_that_is_shown_already_is_not_sent_again(good: TestClient, tmp_path: Path) -> None:
    for path in ("/", f"/series/{SERIES}/"):
        tag = good.get(path).headers["etag"]
        for known in (tag, f"W/{tag}"):  # a server in between may have packed it
            again = good.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
        assert good.get(path, headers={"If-None-Match": tag, "token": ""}).status_code == 401
    fail(Mirror(tmp_path), "bad.img", "bad.img: it is broken. Copy it again")
    assert good.get("/", headers={"If-None-Match": tag}).status_code == 200


def test_a_browser_keeps_a_static_file_by_its_version_alone(good: TestClient) -> None:
    address = static("page.css")
    assert f'"{address}"' in good.get("/").text
    assert "immutable" in good.get(address).headers["cache-control"]
    for other in ("/static/page.css", "/static/page.css?v=00000000"):
        assert good.get(other).headers["cache-control"] == "no-cache"
