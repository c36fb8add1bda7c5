"""What every test may use: a repository of small real squashfs images, and servers."""

from __future__ import annotations

import gc
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterator
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
    "tests/deploy/test_deploy.py::test_every_option_of_airflow": "airflow",
    "tests/test_notify.py": "airflow",
    "tests/test_summary.py": "airflow",
    "tests/test_tasks.py": "airflow",
    "tests/web/test_plugin.py": "airflow",
    "tests/web/test_browser": "browser",
    "tests/audit/": "audit",
    "tests/cli/test_cli_audit.py": "audit",
}


def _group(nodeid: str) -> str:
    """Return the group of a test, or itself where it is of none."""
    return next((group for place, group in TOGETHER.items() if nodeid.startswith(place)), nodeid)


def pytest_configure(config: pytest.Config) -> None:
    text = "alike(number): draw so many of this test's cases; the others another time"
    config.addinivalue_line("markers", text)


@pytest.hookimpl(trylast=True)  # of what was asked for by -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("every_way"):
        kept = _alike(_ways(items))
        dropped = set(items).difference(kept)
        config.hook.pytest_deselected(items=[item for item in items if item in dropped])
        items[:] = kept
    order = list(TOGETHER.values())
    groups = {item: _group(item.nodeid) for item in items}
    items.sort(key=lambda item: order.index(groups[item]) if groups[item] in order else len(order))


def pytest_collection_finish() -> None:
    """Have what is loaded now left alone by the garbage collector: a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "have each test for all ways to reach a remote, and all of its cases that are alike"
    parser.addoption("--every-way", action="store_true", help=text)


def _ways(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of a test that is for several ways to reach a remote, keep one; the others another time.

    What each way has to keep is in tests/remote, for all of them; ``make campaign`` has all.
    """

    def case(item: pytest.Item) -> Hashable:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if "target" not in params or item.nodeid.startswith("tests/remote/"):
            return item
        # Their indices would tell all cases apart: they count on from one way to the next.
        others = ((name, id(value)) for name, value in params.items() if name != "target")
        return (item.nodeid.split("[")[0], *others)

    return _drawn(items, case, lambda _item: 1)


def _alike(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of the cases of a test that are alike, keep as many as it says; ``make campaign`` has all."""

    def test(item: pytest.Item) -> Hashable:
        return item.nodeid.split("[")[0] if item.get_closest_marker("alike") else item

    def number(item: pytest.Item) -> int:
        marker = item.get_closest_marker("alike")
        return int(marker.args[0]) if marker else 1

    return _drawn(items, test, number)


def _drawn(
    items: list[pytest.Item],
    key: Callable[[pytest.Item], Hashable],
    number: Callable[[pytest.Item], int],
) -> list[pytest.Item]:
    """Of the items that have the same key keep so many."""
    alike: dict[Hashable, list[pytest.Item]] = {}
    for item in items:
        alike.setdefault(key(item), []).append(item)
    kept: set[pytest.Item] = set()
    for found in alike.values():
        chance = random.Random(f"{os.environ['SUITE_SEED']} {found[0].nodeid}")
        kept.update(chance.sample(found, min(number(found[0]), len(found))))
    return [item for item in items if item in kept]


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
