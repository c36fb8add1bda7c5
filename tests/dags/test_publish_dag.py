"""The publish DAG: sound as a document, and run for real in Airflow's own process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.remote.target import parse_target
from support.airflow_server import PUBLISH, beside, run_dag
from support.mirrors import add_image, make_mirror, prepare, tree_of, walk
from support.mirrors import publish as publish_directly
from support.repository import ROOT
from support.servers import Sshd, running

INSPECT = """
import json, sys
from puavo_repository import errors
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
dag = bag.dags["puavo_repository_publish"]
print("RESULT " + json.dumps({
    "errors": bag.import_errors,
    "tasks": sorted(dag.task_ids),
    "arrays": [
        [each.dag_id, name]
        for each in bag.dags.values()
        for name, param in each.params.items()
        if "array" in each.params.get_param(name).schema.get("type", ())
        and "examples" in each.params.get_param(name).schema
    ],
    "leaves": sorted(t.task_id for t in dag.leaves),
    "params": sorted(dag.params.keys()),
    "schedule": str(dag.timetable.asset_condition),
    "runs": dag.max_active_runs,
    "retried": {
        type(error).__name__: sorted(
            {t.retry_policy.evaluate(error, 1, 3).action.value for t in dag.tasks}
        )
        for error in (
            errors.HostKeyError("a", "b"),
            errors.StorageRefusedError("a", "b"),
            errors.ConnectionLostError("a", "b"),
            errors.LockedError("a", "b"),
        )
    },
}))
"""


# The second try of a task is done when its first one, whose worker was cut off, comes to its end.
LATE = """
import json, sys
from contextlib import nullcontext
from types import SimpleNamespace
from puavo_repository import errors, retry
sys.path.insert(0, sys.argv[1])
import puavo_repository_publish as dag
kept = []
def go(number, meanwhile=lambda: None):
    ti = SimpleNamespace(task_id="publish.upload", map_index=0, try_number=number)
    ti.xcom_push = lambda _, value: kept.append(value)
    dag.get_current_context = lambda: {"ti": ti}
    dag.follow("file:///mirror", lambda remote: meanwhile())
dag.tasks.label = lambda *_: None
dag.tasks.publisher = lambda _: nullcontext(SimpleNamespace())
dag.tasks.returned = lambda *_: kept[-1]
go(1, meanwhile=lambda: go(2))
go(3)
tries = [one["try"] for one in kept]
retry.PAUSE = 0
tries_of = []
def locked_once(remote):
    tries_of.append(remote.report)
    if len(tries_of) == 1:
        remote.report.failed["a file"] = "not sent"
        raise errors.LockedError("remote", "somebody else publishes")
ti = SimpleNamespace(task_id="publish.upload", map_index=0, try_number=4)
ti.xcom_push = lambda _, value: kept.append(value)
dag.get_current_context = lambda: {"ti": ti}
dag.follow("file:///mirror", locked_once)
found = {"tries": tries, "again": len(tries_of), "failed": kept[-1].get("failed")}
ti.try_number = 5
dag.asked = lambda _: False
def unsent(lost):
    def upload(remote):
        remote.report.failed, remote.report.server_lost = {"a file": "could not be read"}, lost
        remote.report.transient = True
    dag.upload_files = upload
    try:
        dag.publish.get_task("publish.upload").python_callable("file:///mirror")
    except errors.StorageError as error:
        return [*kept[-1]["failed"]]
found["held_back"] = {one: unsent(one == "by the server") for one in ("by a file", "by the server")}
print("RESULT " + json.dumps(found))
"""
NAMED = """
import json
from types import SimpleNamespace
from puavo_repository_airflow import tasks
mirrors = ["sftp://m@www/srv", "file:///other"]
tasks.get_current_context = lambda: {"params": {"mirrors": mirrors}}
tasks.chosen = lambda images: SimpleNamespace(remote=("sftp://m@www:22/srv/", "file:///one"))
print("RESULT " + json.dumps({"remotes": tasks.remotes()}))
"""


def publish(airflow: dict[str, str], mirror: Path, mirrors: list[str], /, **more: Any) -> Any:
    params = {key: value for key, value in more.items() if not key.isupper()}
    conf = {"image_dir": str(mirror.parent), "mirror_dir": str(mirror), "mirrors": mirrors}
    settings = {key: value for key, value in more.items() if key.isupper()}
    return run_dag(airflow, PUBLISH, {**conf, **params}, **settings)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    make_mirror(tmp_path / "images" / "mirror", count=2, targets=1)
    return tmp_path / "images" / "mirror"


def test_a_try_says_what_it_did_and_what_holds_back_the_steps_behind_it(
    airflow: dict[str, str],
) -> None:
    found = beside(airflow, LATE, str(ROOT / "dags"))
    assert found["tries"] == [1, 2, 2, 3, 3]
    assert found["again"] == 2
    assert not found["failed"]
    named = {"by a file": ["a file"], "by the server": ["publishing", "a file"]}
    assert found["held_back"] == named, "the later steps go on, but where the server was lost"


def test_the_dag_reads_as_designed(airflow: dict[str, str]) -> None:
    found = beside(airflow, INSPECT, str(ROOT / "dags"))
    assert found["errors"] == {}
    steps = ["publish.clean", "publish.switch", "publish.upload"]
    assert found["tasks"] == ["mirrors", *steps, "report"]
    assert found["arrays"] == [], "a form offers the examples of an array instead of taking a text"
    assert found["leaves"] == ["report"]
    assert "puavo-repository-prepared" in found["schedule"]
    assert found["runs"] == 1
    assert {"mirrors", "dry_run", "allow_mass_delete"} <= set(found["params"])
    assert found["retried"] == {
        "HostKeyError": ["fail"],
        "StorageRefusedError": ["fail"],
        "ConnectionLostError": ["default"],
        "LockedError": ["default"],
    }


def test_every_mirror_is_published_and_a_bad_one_holds_nobody_back(
    airflow: dict[str, str], mirror: Path, tmp_path: Path
) -> None:
    good, missing = tmp_path / "good one", tmp_path / "missing"
    good.mkdir()
    urls = [f"file://{missing}", f"file://{good}".replace(" ", "%20")]
    found = publish(airflow, mirror, urls)
    assert found["state"] == "failed", "the last task says that something failed"
    assert tree_of(good) == tree_of(mirror)
    states = {task: [] for task, _, _ in found["tasks"]}  # type: dict[str, list[str]]
    for task, _, state in found["tasks"]:
        states[task].append(state)
    assert sorted(states["publish.upload"]) == ["failed", "success"]
    assert sorted(states["publish.switch"]) == ["skipped", "success"]
    assert sorted(states["publish.clean"]) == ["skipped", "success"]
    assert states["report"] == ["failed"]
    labels = {label for task, label, _ in found["tasks"] if task == "publish.upload"}
    assert labels == set(urls)
    assert "no such folder" in found["log"]


def test_a_file_that_cannot_be_sent_holds_back_only_what_names_it(
    airflow: dict[str, str], mirror: Path, tmp_path: Path
) -> None:
    (tmp_path / "remote").mkdir()
    other = "puavo-os-other-bookworm-2026-01-01-120000-amd64.img"
    (mirror / other).write_bytes(b"another series")
    prepare(mirror, [other], series="puavo-os-other-bookworm-amd64")
    victim = min(mirror.glob("puavo-os-test-*.img"))
    before = victim.stat()
    victim.write_bytes(bytes(before.st_size))  # as if the disk had lost its content
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = publish(airflow, mirror, [f"file://{tmp_path}/remote"])
    assert found["state"] == "failed"
    states = {task: state for task, _, state in found["tasks"]}
    assert states["publish.upload"] == "failed"
    assert states["publish.switch"] == "success"
    assert "its content is not what the metadata describes" in found["log"]
    there = {path.name for path in (tmp_path / "remote" / "meta").glob("*.json")}
    assert there == {"puavo-os-other-bookworm-amd64.json"}
    assert walk(tmp_path / "remote") == []


def test_who_names_a_mirror_does_not_take_it_from_another(
    airflow: dict[str, str], mirror: Path, tmp_path: Path
) -> None:
    (tmp_path / "remote").mkdir()
    publish_directly(mirror, parse_target(f"file://{tmp_path}/remote"))
    other, name = tmp_path / "others" / "mirror", "puavo-os-o-bookworm-2026-01-01-120000-amd64.img"
    other.mkdir(parents=True)
    (other / name).write_bytes(b"another series")
    prepare(other, [name], series="puavo-os-o-bookworm-amd64")
    found = publish(airflow, other, [f"file://{tmp_path}/remote"])
    assert found["state"] == "failed"
    assert "another mirror is published there" in found["log"]


def test_a_mirror_may_be_named_as_the_page_does(airflow: dict[str, str]) -> None:
    assert beside(airflow, NAMED)["remotes"] == ["sftp://m@www:22/srv/", "file:///other"]


def test_a_night_over_an_airflow_connection(
    airflow: dict[str, str], mirror: Path, tmp_path: Path
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    with running(Sshd(tmp_path / "sshd")) as server:
        connection = {
            "conn_type": "sftp",
            "host": "127.0.0.1",
            "port": server.port,
            "extra": {
                "path": str(remote),
                "host_key": server.host_key,
                "private_key": server.client_key.read_text(),
            },
        }
        secret = {"AIRFLOW_CONN_PUAVO_MIRROR": json.dumps(connection)}
        dry = publish(airflow, mirror, ["puavo_mirror"], dry_run=True, **secret)
        assert dry["state"] == "success"
        skipped = {(task, state) for task, _, state in dry["tasks"]}
        assert {("publish.switch", "skipped"), ("report", "success")} <= skipped
        assert list(remote.iterdir()) == []
        assert publish_directly(mirror, server.target(remote)).ok
        rdiff = next((mirror / "rdiffs").glob("*.rdiff"))
        rdiff.write_bytes(rdiff.read_bytes()[:-1] + b"\x01a\x00")  # made anew
        add_image(mirror, sorted(path.name for path in mirror.glob("*.img")))
        secret["PUAVO_REPOSITORY_REPLACE_PAUSE"] = "0"
        night = publish(airflow, mirror, ["puavo_mirror"], **secret)
        assert night["state"] == "success"
        assert "1 file assembled there from others" in night["log"]
        assert tree_of(remote) == tree_of(mirror)
        assert walk(remote) == []
        assert server.client_key.read_text().splitlines()[1] not in night["log"]
