from __future__ import annotations

import pytest

from puavo_repository import retry
from puavo_repository.remote.target import Target
from support.audits import Audited
from support.servers import Sshd


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)


@pytest.fixture(params=["folder", "sftp"])
def target(request: pytest.FixtureRequest, audited: Audited, sshd: Sshd) -> Target:
    """Return each way to reach the remote that is audited."""
    return audited.target if request.param == "folder" else sshd.target(audited.remote)
