"""The rollback DAG, run for real in Airflow's own process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.mirror.records import State
from puavo_repository.remote.target import Target
from puavo_repository.settings.model import Model
from puavo_repository.web import rolling
from puavo_repository.web.offered import Generations
from support.airflow_server import ROLLBACK, beside, dag_file, run_dag
from support.mirrors import SERIES, add_image, make_mirror, publish, walk

LEFT = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
run = DagBag(sys.argv[1]).dags["puavo_repository_rollback"].test(run_conf=json.loads(sys.argv[2]))
with create_session() as session:
    rows = session.query(XComModel).filter_by(run_id=run.run_id, key="generations").all()
    print("RESULT " + json.dumps({"left": [XComModel.deserialize_value(row) for row in rows]}))
"""
NOW = Model(replace_pause=0.0)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    make_mirror(tmp_path / "images" / "mirror", count=2, targets=1)
    return tmp_path / "images" / "mirror"


def roll_back(airflow: dict[str, str], mirror: Path, urls: list[str], **more: Any) -> Any:
    return run_dag(airflow, ROLLBACK, {"image_dir": str(mirror.parent), "mirrors": urls, **more})


def test_every_mirror_rolls_back_and_a_bad_one_holds_nobody_back(
    airflow: dict[str, str], mirror: Path, tmp_path: Path
) -> None:
    names, remotes, seen = sorted(p.name for p in mirror.glob("*.img")), [], []
    for number in range(2):
        remotes.append(tmp_path / f"remote {number}")
        remotes[-1].mkdir()
        assert publish(mirror, Target(path=str(remotes[-1])), NOW).ok
        seen.append((remotes[-1] / "meta" / f"{SERIES}.json").read_bytes())
    add_image(mirror, names)
    for remote in remotes:
        assert publish(mirror, Target(path=str(remote)), NOW).ok
    urls = [f"file://{remote}".replace(" ", "%20") for remote in remotes]

    shown = roll_back(airflow, mirror, urls, dry_run=True)
    assert shown["state"] == "success"
    assert (remotes[0] / "meta" / f"{SERIES}.json").read_bytes() != seen[0]

    found = roll_back(airflow, mirror, [*urls, f"file://{tmp_path}/missing"])
    assert found["state"] == "failed", "one mirror could not be reached"
    states = sorted(state for task, _, state in found["tasks"] if task == "roll_back")
    assert states == ["failed", "success", "success"]
    for remote, good in zip(remotes, seen, strict=True):
        assert (remote / "meta" / f"{SERIES}.json").read_bytes() == good
        assert walk(remote) == []
    for known in State(mirror).remotes:
        assert known.generation == 3
        assert known.restored == 1
        assert not known.problems


def test_a_dry_run_leaves_the_generations_for_the_page(
    airflow: dict[str, str], mirror: Path, tmp_path: Path
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    names = sorted(p.name for p in mirror.glob("*.img"))
    assert publish(mirror, Target(path=str(remote)), NOW).ok
    add_image(mirror, names)
    assert publish(mirror, Target(path=str(remote)), NOW).ok
    conf = {"image_dir": str(mirror.parent), "mirrors": [f"file://{remote}"], "dry_run": True}
    (left,) = beside(airflow, LEFT, dag_file(ROLLBACK), json.dumps(conf))["left"]
    found = Generations.model_validate(left)
    assert found.mirror == f"file://{remote}"
    assert [(one.number, one.current, one.problem) for one in found.generations] == [
        (2, True, ""),
        (1, False, ""),
    ]
    (difference,) = found.generations[1].differences
    assert difference.series == SERIES
    assert rolling.difference(difference).startswith("newest goes from ")


def test_a_generation_is_that_of_one_mirror(
    airflow: dict[str, str], mirror: Path, tmp_path: Path
) -> None:
    urls = [f"file://{tmp_path}/one", f"file://{tmp_path}/two"]
    found = roll_back(airflow, mirror, urls, generation=1)
    assert found["state"] == "failed"
    assert "each mirror counts its own" in found["log"]


def test_without_a_mirror_nothing_looks_like_success(
    airflow: dict[str, str], mirror: Path, tmp_path: Path
) -> None:
    found = roll_back(airflow, mirror, [])
    assert found["state"] == "failed"
    assert "no published mirror is named" in found["log"]
