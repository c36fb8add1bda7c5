"""A setting that cannot be used never hides a DAG: the run says what is wrong with it."""

from __future__ import annotations

import json

import pytest

from support.airflow_server import AUDIT, PREPARE, PUBLISH, ROLLBACK, USAGE, beside, run_dag
from support.repository import ROOT, Repository

BAD = {
    "SCHEDULE": "30 25 * * *",
    "AUDIT_SCHEDULE": "weekly",
    "USAGE_SCHEDULE": "each morning",
    "USAGE_LOGS": "access.log",
    "RETRIES": "3 # at most",
    "DEADLINE": "6   # hours",
    "NOTIFY_EMAIL": "school",
    "NOTIFY_WEBHOOK": "a b",
    "JOBS": "many",
}
IMPORTS = """
import json, os, sys
from airflow.dag_processing.dagbag import DagBag
found = {}
for name, value in json.loads(sys.argv[2]).items():
    os.environ["PUAVO_REPOSITORY_" + name] = value
    bag = DagBag(sys.argv[1])
    found[name] = {
        "errors": list(bag.import_errors.values()),
        "dags": {
            name: [
                str(getattr(dag.schedule, "expression", dag.schedule)),
                sorted({t.retries for t in dag.tasks}),
            ]
            for name, dag in bag.dags.items()
        },
    }
    del os.environ["PUAVO_REPOSITORY_" + name]
print("RESULT " + json.dumps(found))
"""

# When the first run of an audit comes whose hour was just now, as the scheduler finds it.
FIRST = """
import json, sys
from datetime import UTC, datetime
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction
dag = DagBag(sys.argv[1]).dags["puavo_repository_audit"]
table = DagSerialization.from_dict(DagSerialization.to_dict(dag)).timetable
now, always = datetime.now(UTC), TimeRestriction(None, None, catchup=False)
first = table.next_dagrun_info(last_automated_data_interval=None, restriction=always)
print("RESULT " + json.dumps({"waits": first.run_after > now}))
"""


def test_the_first_audit_waits_for_its_hour(airflow: dict[str, str]) -> None:
    every_minute = {"PUAVO_REPOSITORY_AUDIT_SCHEDULE": "* * * * *"}
    assert beside(airflow, FIRST, str(ROOT / "dags"), **every_minute)["waits"]


def test_the_dags_are_there_whatever_a_setting_says(airflow: dict[str, str]) -> None:

    usual = {"JOBS": "1", "SCHEDULE": "", "AUDIT_SCHEDULE": "@daily", "RETRIES": "0"}
    usual["USAGE_LOGS"] = "/var/log/nginx/access.log*"
    found = beside(airflow, IMPORTS, str(ROOT / "dags"), json.dumps(BAD))
    good = beside(airflow, IMPORTS, str(ROOT / "dags"), json.dumps(usual))
    for name in BAD:
        assert found[name]["errors"] == [], name
        assert found[name]["dags"] == good["JOBS"]["dags"], name
    assert good["JOBS"]["dags"][PREPARE] == ["30 1 * * *", [4]]
    assert good["JOBS"]["dags"][AUDIT] == ["0 12 * * 0", [3]]
    assert good["SCHEDULE"]["dags"][PREPARE][0] == "None"
    assert good["JOBS"]["dags"][USAGE] == ["None", [3]]  # there is nothing to read
    assert good["USAGE_LOGS"]["dags"][USAGE] == ["0 5 * * *", [3]]
    assert good["AUDIT_SCHEDULE"]["dags"][AUDIT][0] == "0 0 * * *"
    assert good["RETRIES"]["dags"][PREPARE][1] == [0]


@pytest.mark.alike(2)
@pytest.mark.parametrize("dag_id", [PREPARE, PUBLISH, AUDIT, USAGE, ROLLBACK])
def test_the_run_says_which_setting_cannot_be_used(
    airflow: dict[str, str], repository: Repository, dag_id: str
) -> None:
    found = run_dag(
        airflow,
        dag_id,
        {"mirrors": [f"file://{repository.root}"]} if dag_id not in (PREPARE, USAGE) else {},
        PUAVO_REPOSITORY_IMAGE_DIR=str(repository.images),
        PUAVO_REPOSITORY_DEADLINE=BAD["DEADLINE"],
    )
    assert found["state"] == "failed"
    assert "PUAVO_REPOSITORY_DEADLINE: '6   # hours' cannot be used" in found["log"]
    assert "TypeError" not in found["log"]
    assert [state for task, _, state in found["tasks"]].count("failed") >= 1
