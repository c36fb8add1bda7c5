"""Fixtures that tests of several folders share: servers that live as long as the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import Sshd, running


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
