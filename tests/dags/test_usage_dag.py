"""The usage DAG, run for real in Airflow's own process."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from puavo_repository.fleet import usage
from puavo_repository.formats.names import rdiff_name
from support.airflow_server import USAGE, run_dag
from support.fleet import built, line, offer
from support.puavo import PuavoRest
from support.repository import Repository
from support.servers import Sshd

OLD, NEW = built(0), built(1)


def test_logs_of_a_server_and_puavo_become_figures(
    airflow: dict[str, str], repository: Repository, sshd: Sshd, puavo: PuavoRest, tmp_path: Path
) -> None:
    rdiff = f"rdiffs/{rdiff_name(OLD, NEW)}"
    offer(repository.mirror, {OLD: 9000, NEW: 9000}, {(OLD, NEW): 1000})
    text = "".join(line(rdiff, 1000, address=f"::{n}") for n in range(30)).encode()
    (tmp_path / "access.log.1.gz").write_bytes(gzip.compress(text))
    connections = {
        "WWW": {
            "conn_type": "sftp",
            "host": "127.0.0.1",
            "port": sshd.port,
            "extra": {"key_file": str(sshd.client_key), "host_key": sshd.host_key},
        },
        "PUAVO": {
            "conn_type": "http",
            "host": "http://127.0.0.1",
            "port": puavo.server_address[1],
            "login": "service",
            "password": "secret",
        },
    }
    more = {f"AIRFLOW_CONN_{name}": json.dumps(one) for name, one in connections.items()}
    conf = {
        "image_dir": str(repository.images),
        "mirror_dir": str(repository.mirror),
        "usage_logs": [f"www:{tmp_path}/access.log*"],
        "usage_demand": "puavo",
    }
    found = run_dag(airflow, USAGE, conf, **more)
    assert found["state"] == "success", found["log"][-3000:]
    figures = usage.last(repository.mirror)
    assert figures is not None
    assert [(one.rdiffs, one.clients) for one in figures.days] == [(30_000, 30)]
    assert [one.clients for one in figures.series] == [7]  # as Puavo has it

    conf["usage_logs"] = [*conf["usage_logs"], f"{tmp_path}/nothing.log"]
    (tmp_path / "access.log").write_bytes(line(rdiff, 1000, day=1).encode())
    found = run_dag(airflow, USAGE, conf, **more)
    assert found["state"] == "failed"
    assert "no such file is there" in found["log"]
    figures = usage.last(repository.mirror)
    assert figures is not None
    assert [one.rdiffs for one in figures.days] == [30_000, 1000]
