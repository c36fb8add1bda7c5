"""The DAG: sound as a document, and run for real in Airflow's own process."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.mirror.mirror import Mirror
from support.airflow_server import PREPARE, beside, dag_file, run_dag
from support.repository import (
    AMXA,
    COMMAND,
    ROOT,
    V1,
    V2,
    V3,
    V4,
    Repository,
    name,
    public,
    snapshot,
)

INSPECT = """
import json, sys
from puavo_repository import errors
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
dags = {
    name: {
        "tasks": sorted(dag.task_ids),
        "edges": sorted((t.task_id, d) for t in dag.tasks for d in t.downstream_task_ids),
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "params": sorted(dag.params.keys()),
        "retries": sorted({t.retries for t in dag.tasks}),
        "queues": {t.task_id: t.queue for t in dag.tasks if t.queue != "default"},
        "pools": sorted({t.pool for t in dag.tasks}),
        "mapped": sorted(t.task_id for t in dag.tasks if t.is_mapped),
        "retried": {
            type(error).__name__: sorted(
                {t.retry_policy.evaluate(error, 1, 3).action.value for t in dag.tasks}
            )
            for error in (
                errors.ImageError("a", "b"),
                errors.ImageChangingError("a", "b"),
                errors.storage_error("a", OSError(28, "full")),
                errors.LockedError("a", "b"),
            )
        },
    }
    for name, dag in bag.dags.items()
}
print("RESULT " + json.dumps({"errors": bag.import_errors, "dags": dags}))
"""


# Runs the DAG, then does what is given on the command line, then clears one of its tasks.
CLEARED = """
import json, subprocess, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.dag import _run_task
from airflow.utils.session import create_session
dag = DagBag(sys.argv[1]).dags["puavo_repository_prepare"]
run = dag.test()
subprocess.run(json.loads(sys.argv[3]), check=True)
with create_session() as session:
    task = session.merge(run.get_task_instance(sys.argv[2], session=session))
    task.state, task.try_number = "scheduled", task.try_number + 1
    session.commit()
    _run_task(ti=task, task=dag.task_dict[sys.argv[2]])
    task.refresh_from_db(session=session)
    print("RESULT " + json.dumps({"run": str(run.state), "state": str(task.state)}))
"""

# Runs the DAG with at most three mapped tasks of a step; what a first run of 2,000 images would
# leave is what this one left, with as many mapped tasks and as long lists as there may be.
STORED = """
import json, sys
from puavo_repository_airflow import summary, tasks
most, tasks.MAPPED_TASKS = tasks.MAPPED_TASKS, 3
from airflow.dag_processing.dagbag import DagBag
from airflow.models.renderedtifields import RenderedTaskInstanceFields as Fields
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
dag = DagBag(sys.argv[1]).dags["puavo_repository_prepare"]
run = dag.test()
size = lambda value: len(json.dumps(value))
with create_session() as session:
    one = lambda model: session.query(model).filter_by(run_id=run.run_id).all()
    rows = [(f.task_id, f.map_index, size(f.rendered_fields)) for f in one(Fields)]
    rows += [(x.task_id, x.map_index, size(x.value)) for x in one(XComModel)]
labels = [ti.rendered_map_index for ti in run.get_task_instances() if ti.map_index >= 0]
fixed = sum(bytes for task, index, bytes in rows if index < 0)
mapped = [bytes for _, index, bytes in rows if index >= 0]
line = size("x" * 100)
left = fixed + 2 * most * (max(mapped) + max(map(len, labels)) + size(f"part {most} of {most}"))
left += 8 * len(summary.short(["x"] * 2000)) * line  # every list of names in full
print("RESULT " + json.dumps({
    "state": str(run.state), "labels": labels, "mapped": len(mapped), "left": left,
}))
"""

# Runs the DAG: images come while another is read; and again: one is not read, without a reason.
MEANWHILE = """
import json, shutil, sys
from pathlib import Path
from airflow.dag_processing.dagbag import DagBag
from puavo_repository.prepare import fingerprint as stage
usual, (first, second, aside, images) = stage.fingerprint, sys.argv[2:]
def comes(settings, name, progress):
    for image in Path(aside).iterdir():
        shutil.move(image, images)
    return usual(settings, name, progress)
def killed(settings, name, progress):
    if name == second:
        raise RuntimeError("as if it was killed")
    return usual(settings, name, progress)
states = []
for stage.fingerprint in (comes, killed):
    run = DagBag(sys.argv[1]).dags["puavo_repository_prepare"].test()
    states.append(str(run.state))
print("RESULT " + json.dumps({"states": states}))
"""

# Runs the DAG as `make run` does: without images, then so that two tasks fail, one of them of what
# nobody expected.
LOOKED_ON = """
import json, os, sys
from airflow.dag_processing.dagbag import DagBag
from puavo_repository.prepare import report as stage
from puavo_repository_airflow import tasks
def fails(*_args, **_more):
    raise ZeroDivisionError("a fault of the program")
stage.report = fails
dag, images = DagBag(sys.argv[1]).dags["puavo_repository_prepare"], "PUAVO_REPOSITORY_IMAGE_DIR"
try:
    there, os.environ[images] = os.environ[images], "/not/there"
    tasks.run_here(dag)
except SystemExit as ended:
    status, os.environ[images] = ended.code, there
print("RESULT " + json.dumps({"status": status, "went_well": tasks.run_here(dag)}))
"""

# Runs the DAG: no rdiff can be made.
NO_RDIFF = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from puavo_repository.errors import StorageError
from puavo_repository.prepare import diff as stage
def fails(settings, pair, progress):
    raise StorageError(pair.rdiff, "as if the disk was full")
stage.diff = fails
run = DagBag(sys.argv[1]).dags["puavo_repository_prepare"].test()
states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
print("RESULT " + json.dumps({"state": str(run.state), "states": states}))
"""

EVENTS = """
import json
from airflow.models.asset import AssetEvent
from airflow.utils.session import create_session
with create_session() as session:
    events = [event.extra for event in session.query(AssetEvent)]
    print("RESULT " + json.dumps({"events": events}))
"""


def places(repository: Repository) -> dict[str, str]:
    """Return how an installation is set up for a repository."""
    return {
        "PUAVO_REPOSITORY_IMAGE_DIR": str(repository.images),
        "PUAVO_REPOSITORY_MIRROR_DIR": str(repository.mirror),
        "PUAVO_REPOSITORY_PUAVO_OS": str(repository.puavo_os),
        "PUAVO_REPOSITORY_RETRIES": "0",
    }


def prepare(airflow: dict[str, str], repository: Repository, /, **params: Any) -> Any:
    """Run the prepare DAG over a repository, without waiting for retries."""
    return run_dag(airflow, PREPARE, params, **places(repository))


def test_the_dag_reads_as_designed(airflow: dict[str, str]) -> None:
    found = beside(airflow, INSPECT, str(ROOT / "dags"))
    assert found["errors"] == {}
    dag = found["dags"]["puavo_repository_prepare"]
    order = ["discover", "configure", "dry_run", "plan", "fingerprint", "pairs", "diff"]
    order += ["describe", "report"]
    assert dag["tasks"] == sorted([*order, "hand_over"])
    assert ["describe", "hand_over"] in dag["edges"]
    assert all([first, then] in dag["edges"] for first, then in itertools.pairwise(order))
    assert dag["mapped"] == ["diff", "fingerprint"]
    assert dag["max_active_runs"] == 1
    assert dag["catchup"] is False
    assert dag["retries"] == [4]
    assert dag["retried"] == {
        "ImageError": ["fail"],
        "ImageChangingError": ["default"],
        "StorageRefusedError": ["fail"],
        "LockedError": ["default"],
    }
    assert {"image_dir", "mirror_dir", "no_config", "targets", "sources"} <= set(dag["params"])


def test_what_keeps_cores_busy_and_what_sends_have_queues_of_their_own(
    airflow: dict[str, str],
) -> None:
    """And no task needs a pool that somebody has to make."""
    dags = beside(airflow, INSPECT, str(ROOT / "dags"))["dags"]
    queues = {name.rpartition("_")[2]: dag["queues"] for name, dag in dags.items()}
    assert {name: queues[name] for name in ("prepare", "publish", "audit")} == {
        "prepare": {"fingerprint": "compute", "diff": "compute"},
        "publish": {"publish.upload": "transfer"},
        "audit": {"local": "compute", "remote": "transfer"},
    }
    assert {pool for dag in dags.values() for pool in dag["pools"]} == {"default_pool"}


def test_command_and_dag_leave_the_same_mirror(airflow: dict[str, str], tmp_path: Path) -> None:
    by_command, by_dag = Repository(tmp_path / "command"), Repository(tmp_path / "dag")
    by_command.seed()
    by_dag.seed()
    assert by_command.command("-r", "images.example").returncode == 0
    found = prepare(airflow, by_dag, repository="images.example")
    assert found["state"] == "success"
    assert public(by_dag.mirror) == public(by_command.mirror)
    assert by_dag.check() == 9
    labels = [label for task, label, _ in found["tasks"] if task == "fingerprint"]
    assert name(V1) in labels
    assert f"{AMXA}-{V1}--{V4}-amd64.rdiff" in [
        label for task, label, _ in found["tasks"] if task == "diff"
    ]
    again = prepare(airflow, by_dag, repository="images.example")
    assert again["state"] == "success"
    # A skipped task would take what follows with it: nothing would be described or published.
    assert {state for _, _, state in again["tasks"]} == {"success"}
    assert public(by_dag.mirror) == public(by_command.mirror)


def test_who_looks_on_reads_what_failed_and_where_only_if_nobody_expected_it(
    airflow: dict[str, str], repository: Repository
) -> None:
    repository.add(name(V1))
    os.truncate(repository.add(name(V2)), 5000)
    found = beside(airflow, LOOKED_ON, dag_file(PREPARE), **places(repository))
    assert (found["status"], found["went_well"]) == (2, False)
    told = [line for line in found["log"].splitlines() if line.startswith("error: ")]
    assert told[0].startswith("error: /not/there: there is no such folder")
    assert told[1].startswith(f"error: {repository.images / name(V2)}: this image is truncated")
    assert told[2:] == ["error: a fault of the program"]
    traceback = "\nTraceback (most recent call last):\n"
    assert [one + traceback in found["log"] for one in told] == [False, False, True]
    assert "ZeroDivisionError: a fault of the program\n" in found["log"]


def test_a_first_run_of_2000_images_leaves_little_in_the_database(
    airflow: dict[str, str], repository: Repository
) -> None:
    for version in (V1, V2, V3, V4):
        repository.add(name(version))
    found = beside(airflow, STORED, dag_file(PREPARE), **places(repository))
    assert found["state"] == "success"
    assert repository.check() > 4
    assert len(found["labels"]) == 6
    assert any(" and " in label for label in found["labels"]), "named after what they work on"
    print("bytes left in the database:", found["left"])
    assert found["mapped"] >= 6
    assert found["left"] < 300_000


def test_what_came_meanwhile_is_the_next_run_s_and_what_was_killed_is_named(
    airflow: dict[str, str], repository: Repository
) -> None:
    repository.add(name(V1))
    aside = repository.root / "aside"
    aside.mkdir()
    for version in (V2, V3):
        repository.add(name(version)).rename(aside / name(version))
    arguments = [name(V1), name(V2), str(aside), str(repository.images)]
    found = beside(airflow, MEANWHILE, dag_file(PREPARE), *arguments, **places(repository))
    assert found["states"] == ["success", "failed"]
    (failure,) = Mirror(repository.mirror).state.failures
    assert failure.name == name(V2)
    assert "was not done yet" in failure.message


def test_a_dry_run_ends_after_its_plan_and_changes_nothing(
    airflow: dict[str, str], repository: Repository
) -> None:
    repository.add(name(V1))
    found = prepare(airflow, repository, dry_run=True)
    assert found["state"] == "success"
    done = {task for task, _, state in found["tasks"] if state == "success"}
    assert done == {"discover", "configure", "dry_run"}
    assert not repository.mirror.exists()
    assert not repository.config.exists()


def test_a_task_that_is_cleared_later_does_what_is_right_then(
    airflow: dict[str, str], repository: Repository
) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    aside = repository.root / name(V3)
    repository.add(name(V3)).rename(aside)
    move = [sys.executable, "-c", "import os, sys; os.rename(*sys.argv[1:])"]
    then = [*move, str(aside), str(repository.images / name(V3))]
    night = [*COMMAND, *repository.arguments()]
    script = f"{shlex.join(then)} && {shlex.join(night)}"
    done = json.dumps(["sh", "-c", script])
    found = beside(airflow, CLEARED, dag_file(PREPARE), "describe", done, **places(repository))
    assert (found["run"], found["state"]) == ("success", "success")
    assert [image["filename"] for image in repository.meta()] == [name(V1), name(V2), name(V3)]
    assert repository.check() == 6


def test_a_run_over_other_folders_touches_nothing_of_the_usual_ones(
    airflow: dict[str, str], repository: Repository, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Repository(tmp_path_factory.mktemp("other"))
    other.add(name(V2))
    repository.add(name(V1))
    assert prepare(airflow, repository)["state"] == "success"
    before, events = snapshot(repository.root), beside(airflow, EVENTS)["events"]
    assert events[-1]["mirror_dir"] == str(repository.mirror)
    found = prepare(airflow, repository, image_dir=str(other.images))
    assert found["state"] == "success"
    assert snapshot(repository.root) == before
    assert public(other.images / "mirror").keys() >= {name(V2)}
    assert ["hand_over", "", "skipped"] in found["tasks"]
    assert beside(airflow, EVENTS)["events"] == events


def test_one_bad_image_fails_the_run_and_not_the_mirror(
    airflow: dict[str, str], repository: Repository
) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    (repository.images / name(V3)).write_bytes(b"no image")
    found = prepare(airflow, repository)
    assert found["state"] == "failed"
    states = {(task, label): state for task, label, state in found["tasks"]}
    assert states["fingerprint", name(V3)] == "failed"
    assert states["fingerprint", name(V1)] == "success"
    assert states["describe", ""] == "success"
    assert states["report", ""] == "failed"
    assert [image["filename"] for image in repository.meta()] == [name(V1), name(V2)]
    assert repository.check() == 2


def test_images_are_described_although_no_rdiff_could_be_made(
    airflow: dict[str, str], repository: Repository
) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    found = beside(airflow, NO_RDIFF, dag_file(PREPARE), **places(repository))
    assert found["state"] == "failed"
    states = {"diff": "failed", "describe": "success", "hand_over": "success", "report": "failed"}
    assert found["states"].items() >= states.items()
    assert [image["filename"] for image in repository.meta()] == [name(V1), name(V2)]
    assert len(Mirror(repository.mirror).state.failures.names()) == 2


def test_rdiffs_are_made_although_no_new_image_could_be_read(
    airflow: dict[str, str], repository: Repository
) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    assert repository.prepare(targets=0).rdiffs == ()
    (repository.images / name(V3)).write_bytes(b"no image")
    found = prepare(airflow, repository)
    assert found["state"] == "failed"
    states = {(task, label): state for task, label, state in found["tasks"]}
    assert states["fingerprint", name(V3)] == "failed"
    assert states["hand_over", ""] == "success"
    assert states["report", ""] == "failed"
    assert repository.check() == 2
    assert Mirror(repository.mirror).state.failures.names() == [name(V3)]


def test_a_bad_configuration_fails_before_anything_is_changed(
    airflow: dict[str, str], repository: Repository
) -> None:
    repository.add(name(V1))
    repository.write_config("buster", "{")
    found = prepare(airflow, repository, no_config=True)
    assert found["state"] == "failed"
    assert public(repository.mirror) == {}
