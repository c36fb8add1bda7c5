from __future__ import annotations

import pytest

from support.airflow_server import migrated


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of an Airflow with an embedded database of its own."""
    return migrated(tmp_path_factory.mktemp("airflow"))
