"""The files for Kubernetes agree with what the other machines are set up with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from puavo_repository import settings
from support.distributed import as_systemd, of_unit
from support.repository import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
# Where the chart itself gives addresses, folders and secrets, or the image has them.
ELSEWHERE = {"dags_folder", "plugins_folder", "load_examples", "executor", "sql_alchemy_conn"}
ELSEWHERE |= {
    "execution_api_server_url",
    "result_backend",
    "broker_url",
    "secret_key",
    "jwt_secret",
}
ELSEWHERE |= {"host", "port", "workers", "base_url"}


@pytest.fixture(scope="module")
def values() -> Any:
    return yaml.safe_load((FOLDER / "values.yaml").read_text())


def test_airflow_is_set_up_as_on_other_machines(values: Any) -> None:
    wanted: dict[str, str] = {}
    for file in ("puavo-repository.env", "puavo-repository-machines.env"):
        wanted |= as_systemd((ROOT / "deploy" / file).read_text())
    for name, value in wanted.items():
        if name.startswith("AIRFLOW__"):
            section, option = name.lower().split("__")[1:]
            if option not in ELSEWHERE:
                assert values["config"][section][option] == value, name
    assert values["executor"] == wanted["AIRFLOW__CORE__EXECUTOR"]


def test_our_settings_are_taken(values: Any, tmp_path: Path) -> None:
    given = {one["name"]: one["value"] for one in values["env"]}
    assert settings.load({}, given, images=False).remote
    for name in ("IMAGE_DIR", "MIRROR_DIR", "PUAVO_OS"):
        mounted = Path(values["volumeMounts"][0]["mountPath"])
        assert Path(given[f"PUAVO_REPOSITORY_{name}"]).is_relative_to(mounted)


def test_a_pod_has_the_workers_of_a_machine(values: Any) -> None:
    command = " ".join(values["workers"]["args"][-1].replace("\\\n", " ").split())
    for part in ("compute", "transfer"):
        assert " ".join(of_unit(part, "$HOSTNAME")) in command
        assert f"{part}@$HOSTNAME" in values["workers"]["livenessProbe"]["command"][-1]


def test_the_volumes_are_shared_by_several_machines(values: Any) -> None:
    made = list(yaml.safe_load_all((FOLDER / "volume.yaml").read_text()))
    claims = {one["metadata"]["name"] for one in made if one["kind"] == "PersistentVolumeClaim"}
    assert values["volumes"][0]["persistentVolumeClaim"]["claimName"] in claims
    assert values["logs"]["persistence"]["existingClaim"] in claims
    assert {tuple(one["spec"]["accessModes"]) for one in made} == {("ReadWriteMany",)}
    document = (ROOT / "docs" / "distributed.md").read_text()
    (wanted,) = re.findall(r"/srv nfs4 (\S+) ", document)
    mounted = next(one["spec"]["mountOptions"] for one in made if "mountOptions" in one["spec"])
    assert {*wanted.split(",")} - {"_netdev"} == {*mounted}


def test_the_image_has_what_the_project_needs(values: Any) -> None:
    image = (FOLDER / "Dockerfile").read_text()
    run = (ROOT / "packages.txt").read_text().split("# run\n")[1].split("\n\n")[0].split()
    assert all(package in image for package in run if package != "python3-venv")
    (pinned,) = re.findall(
        r"^apache-airflow==(\S+)$", (ROOT / "requirements.txt").read_text(), re.M
    )
    assert f"FROM apache/airflow:{pinned}-" in image
    assert values["airflowVersion"] == values["defaultAirflowTag"] == pinned
    for folder in ("dags", "plugins"):
        assert f"COPY {folder} {values['config']['core'][f'{folder}_folder']}\n" in image
