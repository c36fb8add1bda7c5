from __future__ import annotations

from pathlib import Path

import pytest

from puavo_repository.remote.target import Target
from support.servers import Sshd


@pytest.fixture(params=["folder", "sftp"])
def target(request: pytest.FixtureRequest, remote: Path, sshd: Sshd) -> Target:
    """Return each way to reach a remote."""
    return Target(path=str(remote)) if request.param == "folder" else sshd.target(remote)
