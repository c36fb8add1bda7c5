"""What every test may use: a repository of small real squashfs images, and servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from audit_fixtures import audited, original
from repository import Repository
from server_fixtures import sshd, sshd_without_copy

__all__ = ["audited", "original", "sshd", "sshd_without_copy"]

settings.register_profile("long", max_examples=5_000, deadline=None)  # of `make fuzz`
settings.register_profile("short", deadline=None)
settings.load_profile("short")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Return an empty repository in a folder of its own, untouched by this machine's settings."""
    for name in ("IMAGE_DIR", "MIRROR_DIR", "REPOSITORY", "PUAVO_OS", "ENGINE", "REMOTE"):
        monkeypatch.delenv(f"PUAVO_REPOSITORY_{name}", raising=False)
    return Repository(tmp_path)
