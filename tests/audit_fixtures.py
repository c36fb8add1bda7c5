"""A mirror to audit."""

from __future__ import annotations

from pathlib import Path

import pytest

import audits
from audits import Audited


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """Return a published mirror that nobody may change."""
    return audits.make(tmp_path_factory.mktemp("original"))


@pytest.fixture
def audited(original: Audited, tmp_path: Path) -> Audited:
    """Return one of its own for a test."""
    return audits.copy(original, tmp_path / "audited")
