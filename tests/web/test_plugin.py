"""The page behind Airflow's own login: its real application, without a server."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from puavo_repository.remote.target import canonical
from puavo_repository.web.model import Repository, Retry
from support.airflow_server import ALERT, AUDIT, PREPARE, PUBLISH, ROLLBACK, USAGE, beside
from web.mirrors import make_mirror

# Runs in a process of its own.
ASK = """
import json, sys, uuid
from datetime import UTC, datetime, timedelta
from fastapi.testclient import TestClient
from airflow.api_fastapi.app import create_app, get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.sdk.serde import serialize
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from sqlalchemy import insert, text

initdb()
at = datetime.now(UTC) - timedelta(hours=len(json.loads(sys.argv[3])))
with create_session() as session:
    session.execute(text("PRAGMA foreign_keys=OFF"))
    session.merge(DagBundleModel(name="dags-folder"))
    for name, facts in json.loads(sys.argv[2]).items():
        session.add(DagModel(dag_id=name, bundle_name="dags-folder", is_stale=False, **facts))
    for index, run in enumerate(json.loads(sys.argv[3])):
        begun = at + timedelta(hours=index)
        ended = begun + timedelta(minutes=5) if run["state"] in ("success", "failed") else None
        found = DagRun(
            dag_id=run["dag"], run_id=run["id"], run_type=run.get("kind", "manual"),
            state=run["state"], start_date=begun if run["state"] != "queued" else None,
            queued_at=begun, run_after=begun, conf=run.get("conf"),
        )
        found.end_date = ended
        session.add(found)
        for task, states in run.get("tasks", {}).items():
            mapped = isinstance(states, list)
            for index, (state, label) in enumerate(states if mapped else [(states, None)]):
                done = state in ("success", "failed")
                begins = done or label == "again"
                start = begun if begins else datetime.now(UTC) if state == "running" else None
                session.execute(insert(TaskInstance.__table__).values(
                    id=uuid.uuid4(), dag_id=run["dag"], run_id=run["id"], task_id=task,
                    map_index=index if mapped else -1, state=state, start_date=start,
                    end_date=start + timedelta(minutes=2) if done else None,
                    duration=120.0 if done else None, rendered_map_index=label,
                    pool="default_pool", pool_slots=1,
                ))
        session.flush()
        for task, key, value in run.get("left", []):
            session.add(XComModel(
                dag_run_id=found.id, dag_id=run["dag"], run_id=run["id"], task_id=task,
                map_index=-1, key=key, value=serialize(value),
            ))

answers, views = {}, {}
with TestClient(create_app()) as client:
    manager = get_auth_manager()
    allowed = manager.is_authorized_dag
    def some(*, user, details=None, **more):  # otto may see the runs of prepare alone
        if user.username == "otto":
            return details is not None and details.id == "puavo_repository_prepare"
        return allowed(user=user, details=details, **more)
    manager.is_authorized_dag = some
    people = {"": "", "admin": "admin", "vera": "viewer", "nobody": "", "otto": "viewer"}
    for name, role in people.items():
        user = SimpleAuthManagerUser(username=name, role=role)
        token = manager.generate_jwt(user) if name else ""
        for path in json.loads(sys.argv[1]):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = client.get("/puavo-repository" + path, headers=headers)
            answers[f"{name} {path}"] = answer.status_code, answer.text[:200_000]
    for token in ("garbage", token[:-4] + "AAAA"):
        answer = client.get("/puavo-repository/api/v1/summary",
                            headers={"Authorization": f"Bearer {token}"})
        answers[f"wrong {token[:4]}"] = answer.status_code, answer.headers.get("www-authenticate")
    token = manager.generate_jwt(SimpleAuthManagerUser(username="admin", role="admin"))
    client.cookies["_token"] = token
    answers["cookie /"] = client.get("/puavo-repository/").status_code, ""
    plugins = client.get("/api/v2/plugins", headers={"Authorization": f"Bearer {token}"}).json()
    for plugin in plugins["plugins"]:
        if plugin["name"] == "puavo_repository":
            views = {view["destination"]: view["href"] for view in plugin["external_views"]}
print("RESULT " + json.dumps({"answers": answers, "views": views}))
"""

# What each task does first; and an API server whose Airflow has not what the page needs.
WITHOUT_PAGE = """
import json, sys
from airflow.sdk.listener import get_listener_manager
from airflow.plugins_manager import get_fastapi_plugins
get_listener_manager()
page = "puavo_repository.web.app"
found = {name: name in sys.modules for name in ("puavo_repository_plugin", page)}
sys.modules[page] = None
print("RESULT " + json.dumps({"loaded": found, "apps": get_fastapi_plugins()[0]}))
"""
BACKUP = "sftp://…@backup.example/mirror"  # as it is shown
# For who may start the DAG.
STARTING = [f"/options/{more}dag_id={PREPARE}" for more in ("?", "folders?path=/&")]
PATHS = [
    "/",
    "/api/v1/summary",
    "/api/v1/repository",
    "/api/openapi.json",
    "/static/page.js",
    "/runs/?dag_id=puavo_repository_prepare&run_id=none",
    "/runs/?dag_id=another&run_id=none",
    f"/runs/?dag_id={ROLLBACK}&run_id=back",
    "/api/v1/generations?run_id=back",
    "/health",
    f"/runs/?dag_id={PREPARE}&run_id=other",
    f"/runs/?dag_id={PREPARE}&run_id=bad-form",
    f"/rollback/?mirror={quote(BACKUP)}&run_id=back",
    f"/rollback/?mirror={quote(BACKUP)}&run_id=none",
    f"/runs/?dag_id={ROLLBACK}&run_id=of-which",
    f"/runs/?dag_id={PREPARE}&run_id=waiting",
    *STARTING,
    "/docs",
    "/openapi.json",
]


DAGS = {
    PREPARE: {"is_paused": False, "timetable_summary": "30 1 * * *"},
    PUBLISH: {"is_paused": False, "timetable_summary": "Asset"},
    AUDIT: {"is_paused": False},
    USAGE: {"is_paused": False},
    ROLLBACK: {"is_paused": True},
    ALERT: {"is_paused": False},
}
BACK = {
    "did": "1 mirror rolled back",
    "sections": [["file:///srv/published", ["put back: meta/one.json", "put back: meta/two.json"]]],
}
KEPT = {"mirror": "file:///srv/published", "generations": [], "more": 3}
SAID = "/elsewhere: there is no such folder"
NOTHING = "This run left nothing to show, or it was deleted."
# Of files side by side: two are done, two under way, three wait.
HALF_DONE = [("success", "a"), ("failed", "b"), *[("running", None)] * 2, *[(None, None)] * 3]
CLEARED = {"report": [("scheduled", "again")]}  # it keeps the time of its last try
AGAIN = ("report", "failure", "2 failed")
REFUSED = {"tasks": {"discover": "failed"}, "left": [("discover", "failure", SAID)]}
# In the order in which they began, an hour apart until an hour ago.
RUNS: list[dict[str, Any]] = [
    {"dag": PREPARE, "id": "night", "state": "success", "kind": "scheduled"},
    {"dag": PUBLISH, "id": "published", "state": "success"},
    {
        "dag": ROLLBACK,
        "id": "back",
        "state": "success",
        "tasks": {"report": "success"},
        "left": [("report", "summary", BACK), ("roll_back", "generations", KEPT)],
    },
    {"dag": PREPARE, "id": "same", "state": "success", "conf": {"image_dir": "", "targets": 1}},
    *(
        {"dag": PREPARE, "id": f"dry-{n}", "state": "success", "conf": {"dry_run": True}}
        for n in range(20)
    ),
    {
        "dag": PREPARE,
        "id": "other",
        "state": "failed",
        "conf": {"image_dir": "/elsewhere", "dry_run": False},
        **REFUSED,
    },
    {
        "dag": PREPARE,
        "id": "bad-form",
        "state": "failed",
        "conf": {"engine": "steam"},
        "tasks": {"discover": "failed"},
        "left": [("discover", "failure", SAID), ("plan", "failure", "<i>steam</i>: none"), AGAIN],
    },
    {"dag": PREPARE, "id": "another", "state": "success", "conf": {"mirror_dir": "/elsewhere"}},
    {
        "dag": PUBLISH,
        "id": "half+1",
        "state": "failed",
        "conf": {"mirrors": [BACKUP]},
        "tasks": {
            "mirrors": "success",
            "publish.upload": [("success", "file:///other"), ("failed", BACKUP)],
            "report": "failed",
        },
        "left": [("publish.upload", "failure", "no answer")],
    },
    {
        "dag": USAGE,
        "id": "reads",
        "state": "running",
        "tasks": {"logs": HALF_DONE, **CLEARED},
        "left": [("report", "summary", BACK)],
    },
    {"dag": AUDIT, "id": "dead-disk", "state": "failed", "conf": {"repair": True}, **REFUSED},
    {
        "dag": ROLLBACK,
        "id": "of-which",
        "state": "failed",
        "conf": {"generation": 2, "mirrors": [BACKUP, BACKUP]},
        "tasks": {"mirrors": "failed"},
    },
    {"dag": ALERT, "id": "told", "state": "failed"},
    {"dag": ALERT, "id": "tells", "state": "running"},
    {"dag": PREPARE, "id": "waiting", "state": "queued", "conf": {"dry_run": False}},
]


@pytest.fixture(scope="module")
def asked(airflow: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what everybody got, with a database that has these runs only."""
    home = tmp_path_factory.mktemp("airflow")
    images = tmp_path_factory.mktemp("images")
    make_mirror(images / "mirror", images=2)
    return beside(
        airflow,
        ASK,
        *map(json.dumps, (PATHS, DAGS, RUNS)),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home}/airflow.db",
        PUAVO_REPOSITORY_IMAGE_DIR=str(images),
        PUAVO_REPOSITORY_REMOTE="sftp://user:hunter2@backup.example/mirror",
    )


def repository_of(asked: dict[str, Any], name: str) -> Repository:
    return Repository.model_validate_json(asked["answers"][f"{name} /api/v1/repository"][1])


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
    assert found.pop("/health") == 503
    starting = {found.pop(path) for path in STARTING}
    assert starting == ({404} if name == "admin" else {403}), "no DAG was loaded here"
    assert set(found.values()) == {200}
    assert "2 images" in asked["answers"][f"{name} /"][1]


def test_a_wrong_token_is_unauthorized_and_told_how_to_be_authorized(asked: dict[str, Any]) -> None:
    wrong = [answer for name, answer in asked["answers"].items() if name.startswith("wrong ")]
    assert wrong == [[401, "Bearer"], [401, "Bearer"]]


def test_each_user_sees_the_runs_of_the_dags_that_they_may_see(asked: dict[str, Any]) -> None:
    assert {run.dag_id for run in repository_of(asked, "admin").runs} == {
        PREPARE,
        PUBLISH,
        AUDIT,
        ROLLBACK,
        USAGE,
        ALERT,
    }
    assert {run.dag_id for run in repository_of(asked, "otto").runs} == {PREPARE}
    refused = statuses(asked, "otto")
    assert refused[f"/runs/?dag_id={ROLLBACK}&run_id=back"] == 403
    assert refused["/api/v1/generations?run_id=back"] == 403
    assert refused[f"/rollback/?mirror={quote(BACKUP)}&run_id=back"] == 403


def test_runs_for_their_own_sake_do_not_count(asked: dict[str, Any]) -> None:
    found = repository_of(asked, "admin")
    runs = {run.run_id: run for run in found.runs}
    assert [name for name, run in runs.items() if run.counts] == [
        "waiting",
        "tells",
        "dead-disk",
        "reads",
        "half+1",
        "same",
        "back",
        "published",
    ], "the last one that tells something is there, however many came after it"
    assert found.summary.last_success == runs["same"].ended is not None
    assert [*map(canonical, runs["half+1"].mirrors)] == [canonical(BACKUP)]
    assert runs["same"].mirrors == []
    assert AUDIT in {problem.name for problem in found.summary.problems}, "it did work, on ours"
    assert runs["other"].error == SAID
    assert runs["bad-form"].error == f"{SAID} (and 1 more failure)"
    tab = asked["answers"][f"admin /runs/?dag_id={PREPARE}&run_id=bad-form"][1]
    assert f">2 failures</p><p>{SAID}</p><p>&lt;i&gt;steam" in tab
    said = [problem.message for problem in found.summary.problems]
    assert sum(text.startswith("A run waits to start since ") for text in said) == 1
    assert runs["waiting"].queued is not None
    assert runs["waiting"].started is None
    assert SAID in asked["answers"]["admin /"][1]
    assert SAID in asked["answers"][f"admin /runs/?dag_id={PREPARE}&run_id=other"][1]


def test_tonight_is_told_with_how_far_it_is(asked: dict[str, Any]) -> None:
    found = repository_of(asked, "admin").summary
    assert found.schedule == "30 1 * * *"
    assert found.paused == [ROLLBACK]
    assert found.active == {PREPARE: "waiting", USAGE: "reads", ALERT: "tells"}
    runs = {run.run_id: run for run in repository_of(asked, "admin").runs}
    assert runs["reads"].did == "", "that was the try before"
    (stage,) = runs["reads"].stages  # the report waits to be done again
    assert (stage.tasks, stage.done, stage.failed) == (7, 2, 1)
    assert stage.seconds_left is not None
    # Three wait for two minutes each, and two are almost at their begin: two at a time.
    assert 250 <= stage.seconds_left <= 300


def test_a_problem_leads_to_its_log_and_to_what_can_be_run_again(asked: dict[str, Any]) -> None:
    found = repository_of(asked, "admin").summary
    (problem,) = [one for one in found.problems if one.name == PUBLISH]
    log = f"dags/{PUBLISH}/runs/half%2B1/tasks/publish.upload/mapped/1"
    assert problem.log == log
    assert problem.retry == Retry(
        dag_id=PUBLISH, run_id="half+1", task_ids=[("publish.upload", 1)]
    ), "the report only says what failed"
    assert ALERT not in {one.name for one in found.problems}
    waits = next(one for one in found.problems if one.name == PREPARE)
    assert (waits.log, waits.retry) == ("", None)


def test_a_run_s_summary_is_shown_as_its_last_task_wrote_it(asked: dict[str, Any]) -> None:
    text = asked["answers"][f"admin /runs/?dag_id={ROLLBACK}&run_id=back"][1]
    assert "<h2>file:///srv/published</h2>" in text
    assert "<li>put back: meta/one.json</li><li>put back: meta/two.json</li>" in text
    runs = {run.run_id: run for run in repository_of(asked, "admin").runs}
    assert runs["back"].did == "1 mirror rolled back"


def test_nobody_waits_for_what_a_run_will_never_leave(asked: dict[str, Any]) -> None:
    def page(path: str) -> str:
        text: str = asked["answers"][f"admin {path}"][1]
        return text

    for path in (
        "dag_id=puavo_repository_prepare&run_id=none",
        f"dag_id={ROLLBACK}&run_id=of-which",
    ):
        assert NOTHING in page(f"/runs/?{path}")
        assert "Nothing to show yet" not in page(f"/runs/?{path}")
    assert "Nothing to show yet" in page(f"/runs/?dag_id={PREPARE}&run_id=waiting")
    deleted = page(f"/rollback/?mirror={quote(BACKUP)}&run_id=none")
    assert NOTHING in deleted
    assert 'id="looking"' not in deleted
    assert "Look again" in deleted


def test_what_can_be_rolled_back_to_is_served_as_the_dry_run_left_it(asked: dict[str, Any]) -> None:
    text = asked["answers"]["admin /api/v1/generations?run_id=back"][1]
    assert json.loads(text) == {"mirrors": [KEPT], "failures": []}


def test_the_description_says_where_airflow_has_it(asked: dict[str, Any]) -> None:
    described = json.loads(asked["answers"]["admin /api/openapi.json"][1])
    assert described["servers"] == [{"url": "/puavo-repository"}]


def test_the_browser_s_own_cookie_is_enough(asked: dict[str, Any]) -> None:
    assert asked["answers"]["cookie /"][0] == 200


def test_no_secret_is_shown(asked: dict[str, Any]) -> None:
    assert not [path for path, (_, text) in asked["answers"].items() if "hunter2" in text]


def test_it_stands_in_the_navigation_and_with_dags_and_runs(asked: dict[str, Any]) -> None:
    assert asked["views"]["nav"] == "puavo-repository/"
    assert set(asked["views"]) == {"nav", "dag", "dag_run"}


def test_tasks_do_not_load_the_page_and_need_none(airflow: dict[str, str]) -> None:
    found = beside(airflow, WITHOUT_PAGE)
    assert found["loaded"] == {"puavo_repository_plugin": True, "puavo_repository.web.app": False}
    assert found["apps"] == []
    assert "Airflow has no page of the repository" in found["log"]
