"""What every test may use: a repository of small real squashfs images, and servers."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from puavo_repository.remote.target import Target
from support import audits
from support.airflow_server import airflow_environment
from support.audits import Audited
from support.mirrors import make_mirror
from support.puavo import PuavoRest
from support.repository import ROOT, Repository
from support.servers import Sshd, running

# For the processes that tests start, and for what a forkserver loads before it forks: without
# it, each run of the campaign loads compiled code anew.
os.environ["PYTHONPATH"] = f"{ROOT / 'include'}:{ROOT / 'tests'}"

# Where this is set, each worker would compile all tests, and each process all of the project.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Decides which of the alike faults, and of the ways to reach a remote, are tried; workers of
# pytest-xdist inherit it.
os.environ.setdefault("SUITE_SEED", str(random.SystemRandom().randrange(1 << 30)))

# Thousands of fsyncs need no disk; a machine with little memory has one all the same.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

settings.register_profile("long", max_examples=5_000, deadline=None)  # of `make fuzz`
settings.register_profile("short", deadline=None)
settings.load_profile("short")

# Of what runs in parallel, only one worker has these, one test after the other: their fixtures
# take longer than their tests. They take the longest, so they begin first, in this order.
TOGETHER = {
    "tests/end_to_end/test_ui.py": "ui",
    "tests/end_to_end/test_distributed.py": "distributed",
    "tests/dags/": "airflow",
    "tests/test_notify.py": "airflow",
    "tests/test_tasks.py": "airflow",
    "tests/web/test_plugin.py": "airflow",
    "tests/web/test_browser": "browser",
    "tests/audit/": "audit",
    "tests/cli/test_cli_audit.py": "audit",
}


def _group(nodeid: str) -> str:
    """Return the group of a test, or itself where it is of none."""
    return next((group for place, group in TOGETHER.items() if nodeid.startswith(place)), nodeid)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("every_way"):
        _draw_ways(config, items)
    order = list(TOGETHER.values())
    groups = {item: _group(item.nodeid) for item in items}
    items.sort(key=lambda item: order.index(groups[item]) if groups[item] in order else len(order))


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "have each test for all ways to reach a remote, not for one that is drawn"
    parser.addoption("--every-way", action="store_true", help=text)


def _draw_ways(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a test that is for several ways to reach a remote, keep one; the others another time.

    What each way has to keep is in tests/remote, for all of them; ``make campaign`` has all.
    """
    ways: dict[tuple[str, ...], list[pytest.Item]] = {}
    for item in items:
        params = getattr(getattr(item, "callspec", None), "indices", {})
        if "target" in params and not item.nodeid.startswith("tests/remote/"):
            others = (f"{name}={index}" for name, index in params.items() if name != "target")
            ways.setdefault((item.nodeid.split("[")[0], *others), []).append(item)
    dropped: set[pytest.Item] = set()
    for name, alike in ways.items():
        kept = random.Random(f"{os.environ['SUITE_SEED']} {name}").choice(alike)
        dropped.update(item for item in alike if item is not kept)
    config.hook.pytest_deselected(items=list(dropped))
    items[:] = [item for item in items if item not in dropped]


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Others go to whoever is free, one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    config.option.loadscopereorder = False  # it would begin with the group of the most tests
    return Scheduling(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have the kernels compiled once, not by each worker at the same time."""
    if getattr(session.config.option, "numprocesses", None):
        code = "from delta.fuzz import check_all; check_all(range(1))"
        subprocess.run([sys.executable, "-c", code], check=True)


def pytest_report_header() -> str:
    return f"SUITE_SEED={os.environ['SUITE_SEED']} draws the same faults and ways again"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Return an empty repository in a folder of its own, untouched by this machine's settings."""
    for name in ("IMAGE_DIR", "MIRROR_DIR", "REPOSITORY", "PUAVO_OS", "ENGINE", "REMOTE"):
        monkeypatch.delenv(f"PUAVO_REPOSITORY_{name}", raising=False)
    return Repository(tmp_path)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a mirror of one series of two images."""
    make_mirror(tmp_path / "mirror", count=2)
    return tmp_path / "mirror"


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """Return an empty folder to publish into."""
    (tmp_path / "remote").mkdir()
    return tmp_path / "remote"


@pytest.fixture
def folder(remote: Path) -> Target:
    """Return how it is reached without a server."""
    return Target(path=str(remote))


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of an Airflow with an embedded database of its own."""
    home = tmp_path_factory.mktemp("airflow")
    return airflow_environment(home, AIRFLOW__API__BASE_URL="https://airflow.example")


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """Return a published mirror that nobody may change."""
    return audits.make(tmp_path_factory.mktemp("original"))


@pytest.fixture
def audited(original: Audited, tmp_path: Path) -> Audited:
    """Return one of its own for a test."""
    return audits.copy(original, tmp_path / "audited")


@pytest.fixture
def puavo() -> Iterator[PuavoRest]:
    server = PuavoRest()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An OpenSSH server with everything that its internal-sftp offers."""
    with running(Sshd(tmp_path_factory.mktemp("sshd"))) as server:
        yield server


@pytest.fixture(scope="session")
def sshd_without_copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One that denies copy-data, as servers before OpenSSH 9.0 do."""
    home = tmp_path_factory.mktemp("sshd")
    with running(Sshd(home, sftp="internal-sftp -P copy-data")) as server:
        yield server
