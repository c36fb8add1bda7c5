"""The files of deploy/: read as systemd, nginx and the shell read them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from puavo_repository import settings
from puavo_repository.settings import ENVIRONMENT, Model
from support.distributed import WORKER_PARTS, as_systemd
from support.repository import ROOT

DEPLOY = ROOT / "deploy"
FILE = DEPLOY / "puavo-repository.env"
MACHINES = DEPLOY / "puavo-repository-machines.env"
UNITS = DEPLOY / "systemd"
# What Debian's packages bring, and workers reach by the network.
DAEMONS = ["postgresql@.service", "redis-server.service"]
# What systemd itself brings, and the units refer to.
SYSTEM = ["basic", "sysinit", "shutdown", "network-online", "multi-user"]


def uncommented() -> str:
    """Return the environment file with everything in it that is offered as a comment."""
    return re.sub(r"^#(?=[A-Z_]+=)", "", FILE.read_text(), flags=re.MULTILINE)


def test_every_setting_of_the_file_exists_and_is_taken(tmp_path: Path) -> None:
    given = as_systemd(uncommented())
    ours = {name for name in given if name.startswith(ENVIRONMENT)}
    assert {f"{ENVIRONMENT}DEADLINE", f"{ENVIRONMENT}SCHEDULE"} <= ours
    assert ours <= {f"{ENVIRONMENT}{name.upper()}" for name in Model.model_fields}
    given[f"{ENVIRONMENT}IMAGE_DIR"] = str(tmp_path)
    assert settings.load({}, given).remote
    several = as_systemd(MACHINES.read_text())
    assert settings.load({}, {**given, **several}).puavo_os == Path("/srv/puavo-os")
    for name in ("AIRFLOW_CONN_SMTP_DEFAULT", "AIRFLOW_CONN_CHAT"):
        assert json.loads(given[name])["password"]


@pytest.mark.parametrize("file", [FILE, MACHINES], ids=["one machine", "several"])
def test_every_option_of_airflow_in_the_file_exists(file: Path) -> None:
    from airflow.configuration import conf

    # Celery hands these on to Redis' client; the scheduler reads that one, and nobody tells of it.
    more = {"socket_timeout", "socket_connect_timeout", "socket_keepalive"}
    more |= {"num_stuck_in_queued_retries"}
    for name in as_systemd(file.read_text()):
        if name.startswith("AIRFLOW__"):
            section, option = name.lower().split("__")[1:]
            assert option in {*conf.configuration_description[section]["options"], *more}, name


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    system = tmp_path / "etc/systemd/system"
    shutil.copytree(UNITS, system)
    for name in SYSTEM:
        (system / f"{name}.target").write_text("[Unit]\nDescription=a stub\n")
    for name in DAEMONS:
        (system / name).write_text("[Service]\nExecStart=/bin/true\n")
    for program in re.findall(
        r"^Exec\w+=(\S+)", "".join(map(read, system.glob("*.service"))), re.MULTILINE
    ):
        (tmp_path / program[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program[1:]).write_text("#!/bin/sh\n")
        (tmp_path / program[1:]).chmod(0o755)
    names = [path.name for path in UNITS.iterdir() if path.is_file()]
    assert len(names) == 9
    names += [name.replace("@", "@15-main") for name in DAEMONS]
    verify = ["systemd-analyze", "verify", f"--root={tmp_path}", *names]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_listens_on_an_address_is_started_when_that_is_there() -> None:
    for name in DAEMONS:
        (more,) = (UNITS / f"{name}.d").iterdir()
        assert "\nAfter=network-online.target\n" in read(more)
        assert "\nWants=network-online.target\n" in read(more)


def listed(target: str, word: str) -> set[str]:
    """Return the services that a target names with a word."""
    lines = re.findall(rf"^{word}=(.+)$", read(UNITS / f"{target}.target"), re.MULTILINE)
    return set(" ".join(lines).split())


def test_each_target_starts_every_part_of_its_own() -> None:
    services = {path.name for path in UNITS.glob("*.service")}
    workers = listed("puavo-repository-worker", "Wants")
    assert workers == {f"puavo-repository-{part}.service" for part in WORKER_PARTS}
    for name in workers:
        assert "PartOf=puavo-repository-worker.target\n" in read(UNITS / name)
    for word in ("Wants", "After"):
        assert listed("puavo-repository", word) == services - workers
    for name in services - workers - {"puavo-repository-api-server.service"}:
        assert "After=puavo-repository-api-server.service\n" in read(UNITS / name)
    api_server = read(UNITS / "puavo-repository-api-server.service")
    assert "ExecStartPost=/usr/bin/curl" in api_server
    assert "http://${AIRFLOW__API__HOST}:${AIRFLOW__API__PORT}/" in api_server


def test_what_runs_tasks_waits_for_the_folders_and_outlives_a_task() -> None:
    common = read(UNITS / "puavo-repository-.service.d/common.conf")
    assert "\nOOMPolicy=continue\n" in common
    folders = [as_systemd(FILE.read_text())[f"{ENVIRONMENT}{n}_DIR"] for n in ("IMAGE", "MIRROR")]
    for part in ("scheduler", "compute", "transfer"):
        unit = read(UNITS / f"puavo-repository-{part}.service")
        assert f"\nRequiresMountsFor={' '.join(folders)}\n" in unit


@pytest.fixture
def wrapper(tmp_path: Path) -> Path:
    """Return the wrapper, installed for the user of the tests; its commands show what they get."""
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    text = uncommented().replace("/var/lib/puavo-repository\n", f"{tmp_path}\n")
    program = tmp_path / "program"
    (program / ".venv/bin").mkdir(parents=True)
    for command in (program / "puavo-update-repository", program / ".venv/bin/airflow"):
        command.write_text('#!/bin/sh\necho "$0 $*"\nexec env -0\n')
        command.chmod(0o755)
    (tmp_path / "env.env").write_text(text.replace("/opt/puavo-repository", str(program)))
    changed = read(DEPLOY / "wrapper").replace("/opt/puavo-repository", str(program))
    changed = changed.replace("/etc/puavo-repository", str(tmp_path / "env"))
    for name in ("puavo-airflow", "puavo-update-repository"):
        (tmp_path / name).write_text(changed.replace("user=puavo-repository", f"user={user}"))
        (tmp_path / name).chmod(0o755)
    return tmp_path / "puavo-update-repository"


def run(command: Path, *arguments: str, **more: str) -> tuple[str, Mapping[str, str]]:
    """Run a wrapped command; return what it was called as, and its environment."""
    environment = {"PATH": os.environ["PATH"], **more}
    out = subprocess.run(
        [command, *arguments],
        env=environment,
        cwd=command.parent,
        capture_output=True,
        check=True,
    )
    called, _, rest = out.stdout.decode().partition("\n")
    return called, dict(one.split("=", 1) for one in rest.split("\0") if one)


def test_the_wrapper_reads_the_file_as_systemd_does(wrapper: Path) -> None:
    expected = as_systemd((wrapper.parent / "env.env").read_text())
    for name, program in (
        (wrapper.name, f"{wrapper.parent}/program/puavo-update-repository"),
        ("puavo-airflow", f"{wrapper.parent}/program/.venv/bin/airflow"),
    ):
        called, environment = run(wrapper.parent / name, "audit", "a b")
        assert called == f"{program} audit a b"
        assert expected.items() <= environment.items()


def test_nothing_in_the_file_is_run_or_expanded(wrapper: Path) -> None:
    with (wrapper.parent / "env.env").open("a") as file:
        file.write("PUAVO_REPOSITORY_KNOWN_HOSTS=$(touch ran) `touch ran` $HOME; touch ran")
    _, environment = run(wrapper)
    assert environment["PUAVO_REPOSITORY_KNOWN_HOSTS"].startswith("$(touch ran) `touch")
    assert not (wrapper.parent / "ran").exists()


def test_blanks_around_a_line_are_not_of_its_value(wrapper: Path) -> None:
    with (wrapper.parent / "env.env").open("a") as file:
        file.write('  PUAVO_REPOSITORY_JOBS=2\t\nPUAVO_REPOSITORY_SCHEDULE="0 2 * * *" \n')
    _, environment = run(wrapper)
    assert environment["PUAVO_REPOSITORY_JOBS"] == "2"
    assert environment["PUAVO_REPOSITORY_SCHEDULE"] == "0 2 * * *"


def test_what_several_machines_share_wins_over_the_file_of_each(wrapper: Path) -> None:
    shared = {"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor", "PUAVO_REPOSITORY_PUAVO_OS": "/srv/os"}
    lines = [f"{name}={value}" for name, value in shared.items()]
    (wrapper.parent / "env-machines.env").write_text("\n".join(lines))
    _, environment = run(wrapper)
    assert shared.items() <= environment.items()
    _, environment = run(wrapper, PUAVO_REPOSITORY_PUAVO_OS="/given")
    assert environment["PUAVO_REPOSITORY_PUAVO_OS"] == "/given"


def test_a_setting_before_the_command_wins_over_the_file(wrapper: Path) -> None:
    given = {"PUAVO_REPOSITORY_SCHEDULE": "", "AIRFLOW_HOME": "/elsewhere"}
    _, environment = run(wrapper, **given)
    assert environment["PUAVO_REPOSITORY_SCHEDULE"] == ""
    assert environment["AIRFLOW_HOME"] == str(wrapper.parent)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_root_becomes_the_user_and_others_are_sent_away(wrapper: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # the folders of the tests are root's alone
    try:
        folder.chmod(0o755)
        command = folder / wrapper.name
        text = re.sub(r"^user=.*$", "user=nobody", wrapper.read_text(), flags=re.MULTILINE)
        text = text.replace(str(wrapper.parent / "env.env"), "/dev/null")
        command.write_text(
            re.sub(r"^exec \"\$program.*$", "id -un; env -0", text, flags=re.MULTILINE)
        )
        command.chmod(0o755)
        called, environment = run(command)
        assert (called, environment["USER"]) == ("nobody", "nobody")
        assert environment["HOME"] == "/nonexistent"
        other = ["setpriv", "--reuid=daemon", "--clear-groups", str(command)]
        done = subprocess.run(other, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "must run as root or nobody" in done.stderr
    finally:
        shutil.rmtree(folder)


def test_the_document_gives_several_machines_the_same_secrets(tmp_path: Path) -> None:
    document = (ROOT / "docs" / "distributed.md").read_text()
    typed = re.search(r"^cd /etc\n(.*?)^systemctl", document, re.MULTILINE | re.DOTALL)
    assert typed is not None
    postgres = "postgresql/15/main/conf.d/puavo-repository.conf"
    places = {"redis.conf": "redis/puavo-repository.conf", "postgresql.conf": postgres}
    for name, place in {**places, MACHINES.name: MACHINES.name}.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEPLOY / name, tmp_path / place)
    command = ["sh", "-eu", "-c", typed[1].replace("ADDRESS", "10.9.8.7")]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = as_systemd(read(tmp_path / MACHINES.name))
    passwords = [found[f"AIRFLOW__{name}"].split(":")[2].split("@") for name in (
        "CELERY__BROKER_URL", "DATABASE__SQL_ALCHEMY_CONN", "CELERY__RESULT_BACKEND")]  # fmt: skip
    broker, database, results = (password for password, _ in passwords)
    assert f"requirepass {broker}\n" in read(tmp_path / places["redis.conf"])
    secrets = [found["AIRFLOW__API__SECRET_KEY"], found["AIRFLOW__API_AUTH__JWT_SECRET"]]
    assert database == results
    assert len({broker, database, *secrets}) == 4
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in (broker, database, *secrets))
    for place in (*places.values(), MACHINES.name):
        assert not re.search(r"^[^#]*10\.0\.0\.1", read(tmp_path / place), re.MULTILINE)


@pytest.mark.parametrize("site", ["mirror", "ui"])
def test_nginx_reads_the_sites(site: str, tmp_path: Path) -> None:
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test"]
    certificate += [
        "-keyout",
        str(tmp_path / "privkey.pem"),
        "-out",
        str(tmp_path / "fullchain.pem"),
    ]
    subprocess.run(certificate, check=True, capture_output=True)
    text = re.sub(r"/etc/letsencrypt/live/[\w.]+", str(tmp_path), read(DEPLOY / "nginx" / site))
    conf = f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{text}\n}}\n"
    (tmp_path / "nginx.conf").write_text(conf)
    nginx = ["/usr/sbin/nginx", "-t", "-q", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(nginx, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def read(path: Path) -> str:
    return path.read_text()
