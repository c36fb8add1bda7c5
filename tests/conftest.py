"""What every test may use: a repository of small real squashfs images, and servers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support import audits
from support.audits import Audited
from support.repository import ROOT, Repository
from support.servers import Sshd, running

# For the processes that tests start, and for what a forkserver loads before it forks: without
# it, each run of the campaign loads compiled code anew.
os.environ["PYTHONPATH"] = f"{ROOT / 'include'}:{ROOT / 'tests'}"

# Decides which of the alike faults are tried; workers of pytest-xdist inherit it.
os.environ.setdefault("SUITE_SEED", str(random.SystemRandom().randrange(1 << 30)))

settings.register_profile("long", max_examples=5_000, deadline=None)  # of `make fuzz`
settings.register_profile("short", deadline=None)
settings.load_profile("short")

# Of what runs in parallel, only one worker has these, one test after the other: they need every
# core for themselves, or their fixtures take longer than their tests.
GROUPS = {
    "airflow": ("dags", "end_to_end/test_ui.py", "end_to_end/test_told.py", "web/test_plugin.py",
                "web/test_browser.py"),
    "audit": ("audit", "cli/test_cli_audit.py"),
}  # fmt: skip


def pytest_report_header() -> str:
    return f"SUITE_SEED={os.environ['SUITE_SEED']} draws the same faults again"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests into groups of pytest-xdist; others go to whoever is free."""
    tests = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(tests).as_posix()
        for group, places in GROUPS.items():
            if path.startswith(places):
                item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Return an empty repository in a folder of its own, untouched by this machine's settings."""
    for name in ("IMAGE_DIR", "MIRROR_DIR", "REPOSITORY", "PUAVO_OS", "ENGINE", "REMOTE"):
        monkeypatch.delenv(f"PUAVO_REPOSITORY_{name}", raising=False)
    return Repository(tmp_path)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """Return a published mirror that nobody may change."""
    return audits.make(tmp_path_factory.mktemp("original"))


@pytest.fixture
def audited(original: Audited, tmp_path: Path) -> Audited:
    """Return one of its own for a test."""
    return audits.copy(original, tmp_path / "audited")


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
