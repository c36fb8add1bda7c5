"""The DAG: sound as a document, and run for real in Airflow's own process."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from airflow_server import PREPARE, beside, run_dag
from repository import AMXA, ROOT, V1, V2, V3, V4, Repository, name, public

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


def prepare(airflow: dict[str, str], repository: Repository, /, **params: Any) -> Any:
    """Run the prepare DAG over a repository, without waiting for retries."""
    conf = {
        "image_dir": str(repository.images),
        "mirror_dir": str(repository.mirror),
        "puavo_os": str(repository.puavo_os),
        **params,
    }
    return run_dag(airflow, PREPARE, conf)


def test_the_dag_reads_as_designed(airflow: dict[str, str]) -> None:
    found = beside(airflow, INSPECT, str(ROOT / "dags"))
    assert found["errors"] == {}
    dag = found["dags"]["puavo_repository_prepare"]
    order = ["discover", "configure", "dry_run", "plan", "fingerprint", "pairs", "diff"]
    order += ["describe", "report"]
    assert dag["tasks"] == sorted(order)
    assert all([first, then] in dag["edges"] for first, then in itertools.pairwise(order))
    assert dag["mapped"] == ["diff", "fingerprint"]
    assert dag["max_active_runs"] == 1
    assert dag["catchup"] is False
    assert dag["retries"] == [3]
    assert dag["retried"] == {
        "ImageError": ["fail"],
        "ImageChangingError": ["default"],
        "StorageRefusedError": ["fail"],
        "LockedError": ["default"],
    }
    assert {"image_dir", "mirror_dir", "no_config", "targets", "sources"} <= set(dag["params"])


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


def test_a_bad_configuration_fails_before_anything_is_changed(
    airflow: dict[str, str], repository: Repository
) -> None:
    repository.add(name(V1))
    repository.write_config("buster", "{")
    found = prepare(airflow, repository, no_config=True)
    assert found["state"] == "failed"
    assert public(repository.mirror) == {}
