from __future__ import annotations

from pathlib import Path

import pytest

from puavo_repository.remote.target import Target
from support.servers import Sshd


@pytest.fixture(params=["folder", "sftp", "sftp without copy-data"])
def target(
    request: pytest.FixtureRequest, remote: Path, sshd: Sshd, sshd_without_copy: Sshd
) -> Target:
    """Return each way to reach a remote."""
    if request.param == "folder":
        return Target(path=str(remote))
    return (sshd if request.param == "sftp" else sshd_without_copy).target(remote)
