"""Two machines with a Celery worker each prepare and publish what one machine does alone.

Short: each worker takes all queues, and a program starts the run instead of a person. The same
cluster with the units of ``deploy/`` and the UI is ``make distributed``.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
import pytest

from support.airflow_server import PREPARE, PUBLISH
from support.distributed import Cluster, cluster
from support.repository import ROOT, V1, V2, Repository, name, public

# The machine without workers, in one process and its fork: each start of Airflow takes seconds.
CENTRAL = """
import os, sys
from pathlib import Path
from airflow import settings
from airflow.api.common.trigger_dag import trigger_dag
from airflow.cli.cli_parser import get_parser
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.utils.db import initdb
from airflow.utils.types import DagRunTriggeredByType
initdb()
DagBundlesManager().sync_bundles_to_db()
folder, *names = sys.argv[1:]
for name in names:
    bag = DagBag(Path(folder, f"{name}.py"), bundle_path=Path(folder), bundle_name="dags-folder")
    assert not bag.import_errors, bag.import_errors
    sync_bag_to_db(bag, "dags-folder", None)
trigger_dag(names[0], triggered_by=DagRunTriggeredByType.TEST)
settings.dispose_orm()
part = "scheduler --skip-serve-logs" if os.fork() else "api-server --apps execution"
settings.configure_orm()
arguments = get_parser().parse_args(part.split())
arguments.func(arguments)
"""
QUICK = {
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
    "PUAVO_REPOSITORY_SCHEDULE": "",
    "PUAVO_REPOSITORY_RETRIES": "0",
    "PUAVO_REPOSITORY_REPLACE_PAUSE": "0",
}
TASKS = "select dag_id, task_id, state, hostname from task_instance order by dag_id, task_id"
PATIENCE = 240  # seconds; it takes some 20


def made(folder: Path) -> Repository:
    """Return a repository of two images."""
    folder.mkdir()
    found = Repository(folder)
    for version in (V1, V2):
        found.add(name(version))
    return found


def start(found: Cluster) -> None:
    """Start what the run needs, side by side."""
    dags = str(ROOT / "dags")
    found.start(found.central, "airflow", sys.executable, "-c", CENTRAL, dags, PREPARE, PUBLISH)
    for number in (1, 2):
        worker = found.network.machine(f"worker{number}")
        command = ["airflow", "celery", "worker", "--queues", "compute,transfer,default"]
        command += ["--concurrency", "1", "--skip-serve-logs", "--without-mingle"]
        found.start(worker, worker.name, *command)


def tasks(found: Cluster) -> list[tuple[str, ...]]:
    """Wait until both runs have ended; return all of their tasks."""
    address = found.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    deadline = time.monotonic() + PATIENCE
    rows: list[tuple[str, ...]] = []
    database = psycopg2.connect(address)
    database.autocommit = True
    with closing(database), database.cursor() as cursor:
        while time.monotonic() < deadline:
            with suppress(psycopg2.errors.UndefinedTable):
                cursor.execute("select dag_id from dag_run where state in ('success', 'failed')")
                ended = {row[0] for row in cursor.fetchall()}
                cursor.execute(TASKS)
                rows = cursor.fetchall()
                if ended == {PREPARE, PUBLISH} or any(row[2] == "failed" for row in rows):
                    return rows
            found.check()
            time.sleep(0.3)
    raise AssertionError(rows)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may make machines")
def test_two_workers_make_and_publish_the_mirror_of_one_machine(tmp_path: Path) -> None:
    shared = made(tmp_path / "shared")
    (shared.root / "remote").mkdir()
    places = {
        "PUAVO_REPOSITORY_IMAGE_DIR": str(shared.images),
        "PUAVO_REPOSITORY_MIRROR_DIR": str(shared.mirror),
        "PUAVO_REPOSITORY_PUAVO_OS": str(shared.puavo_os),
        "PUAVO_REPOSITORY_REMOTE": f"file://{shared.root}/remote",
    }
    with cluster(tmp_path / "machines", [shared.root], **QUICK, **places) as found:
        start(found)
        rows = tasks(found)
        workers = {machine.address for machine in found.network.machines if machine.port}
    assert {row[2] for row in rows} == {"success"}, rows
    for dag in (PREPARE, PUBLISH):
        assert {row[3] for row in rows if row[0] == dag} == workers, rows
    alone = made(tmp_path / "alone")
    alone.prepare()
    assert public(shared.mirror) == public(alone.mirror)
    assert public(shared.root / "remote") == public(alone.mirror)
    assert shared.check() == 2
