"""The audit DAG, run for real in Airflow's own process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from puavo_repository.audit import report as audit_report
from puavo_repository.remote.target import Target
from puavo_repository.settings.model import Model
from support.airflow_server import AUDIT, beside, dag_file, run_dag
from support.mirrors import publish
from support.repository import V1, V2, Repository, name
from support.servers import HttpsServer

# Runs the DAG: the task that names the mirrors is lost.
WITHOUT_MIRRORS = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from puavo_repository_airflow import tasks
def lost():
    raise RuntimeError("as if it was killed")
tasks.remotes = lost
run = DagBag(sys.argv[1]).dags["puavo_repository_audit"].test(run_conf=json.loads(sys.argv[2]))
print("RESULT " + json.dumps({"state": str(run.state)}))
"""


def over(repository: Repository, /, *mirrors: str, **params: Any) -> dict[str, Any]:
    places = {"image_dir": str(repository.images), "mirror_dir": str(repository.mirror)}
    return {**places, "mirrors": mirrors, **params}


def audit(
    airflow: dict[str, str], repository: Repository, server: HttpsServer, /, **params: Any
) -> Any:
    conf = over(repository, f"file://{server.root}", repository=server.url, **params)
    trust = {"PUAVO_REPOSITORY_CA_FILE": str(server.certificate)}
    return run_dag(airflow, AUDIT, conf, PUAVO_REPOSITORY_REPLACE_PAUSE="0", **trust)


def test_what_it_finds_fails_the_run_is_kept_and_repaired_where_that_is_asked_for(
    airflow: dict[str, str], repository: Repository, tmp_path: Path
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    with HttpsServer(tmp_path / "nginx", remote, days=60) as server:
        for version in (V1, V2):
            repository.add(name(version))
        assert repository.prepare(repository=server.url).ok
        assert publish(repository.mirror, Target(path=str(remote)), Model()).ok

        found = audit(airflow, repository, server)
        assert found["state"] == "success", found["log"][-3000:]
        report = audit_report.last(repository.mirror)
        assert report is not None
        assert report.findings == ()
        assert len(report.checks) == 3
        assert report.counts.urls > 0

        victim = remote / name(V2)
        before = victim.stat()
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
        os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
        found = audit(airflow, repository, server, audit_share=1)
        assert found["state"] == "failed"
        states = {task: state for task, _, state in found["tasks"]}
        assert states == {**dict.fromkeys(states, "success"), "report": "failed"}
        report = audit_report.last(repository.mirror)
        assert report is not None
        assert name(V2) in {one.file for one in report.findings}

        found = audit(airflow, repository, server, audit_share=1, repair=True)
        assert found["state"] == "success", found["log"][-3000:]
        assert victim.read_bytes() == (repository.images / name(V2)).read_bytes()
        report = audit_report.last(repository.mirror)
        assert report is not None
        assert [one.file for one in report.repaired] == [name(V2)]


def test_a_remote_that_cannot_be_reached_is_a_finding_and_stops_nothing_else(
    airflow: dict[str, str], repository: Repository, tmp_path: Path
) -> None:
    repository.add(name(V1))
    assert repository.prepare().ok
    mirrors = f"file://{tmp_path}/missing", "backup", "no-such-connection"
    conf = over(repository, *mirrors, audit_https=False)
    there = {"path": "/srv/mirror", "host_key": "ssh-ed25519 nonsense"}
    connection = json.dumps({"conn_type": "generic", "host": "localhost", "extra": there})
    found = run_dag(airflow, AUDIT, conf, AIRFLOW_CONN_BACKUP=connection)
    assert found["state"] == "failed"
    report = audit_report.last(repository.mirror)
    assert report is not None
    assert report.counts.local_files == 1
    assert "no such folder" in str(report.findings[0])
    assert report.findings[1].where == "backup", "as the mirror is named wherever it is shown"
    assert report.findings[2].problem == "checks that did not come to their end: 1"
    assert not report.ok


def test_an_audit_that_does_not_know_its_mirrors_is_not_a_good_one(
    airflow: dict[str, str], repository: Repository, tmp_path: Path
) -> None:
    repository.add(name(V1))
    assert repository.prepare().ok
    conf = over(repository, f"file://{tmp_path}/remote", audit_https=False)
    retries = {"PUAVO_REPOSITORY_RETRIES": "0"}
    found = beside(airflow, WITHOUT_MIRRORS, dag_file(AUDIT), json.dumps(conf), **retries)
    assert found["state"] == "failed"
    report = audit_report.last(repository.mirror)
    assert report is not None
    assert report.findings[-1].problem == "checks that did not come to their end: 1"
    assert "audit" not in report.turns, "what did not begin has no turn"
