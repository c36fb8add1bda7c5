from __future__ import annotations

from pathlib import Path

import pytest

from puavo_repository.remote.target import Target
from support.mirrors import make_mirror
from support.servers import Sshd


@pytest.fixture
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a mirror of one series of two images, or of ``IMAGES`` where a module says so."""
    make_mirror(tmp_path / "mirror", count=getattr(request.module, "IMAGES", 2))
    return tmp_path / "mirror"


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """Return an empty folder to publish into, with a name that is not ASCII."""
    (tmp_path / "remote ä").mkdir()
    return tmp_path / "remote ä"


@pytest.fixture(params=["folder", "sftp", "sftp without copy-data"])
def target(
    request: pytest.FixtureRequest, remote: Path, sshd: Sshd, sshd_without_copy: Sshd
) -> Target:
    """Return each way to reach a remote."""
    if request.param == "folder":
        return Target(path=str(remote))
    return (sshd if request.param == "sftp" else sshd_without_copy).target(remote)
