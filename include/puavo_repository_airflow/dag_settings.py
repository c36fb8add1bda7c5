"""What the DAG files read of the settings while Airflow imports them.

A value that cannot be used has its default here: an import that fails hides the DAG, and nobody is
told. The first task of every DAG reads the settings again, and refuses what cannot be used.
"""

from __future__ import annotations

import os

from puavo_repository.settings import sources
from puavo_repository.settings.model import Model


def usable() -> Model:
    """Return the environment's settings, with defaults for those that cannot be used."""
    return sources.usable(os.environ)


def schedule() -> str | None:
    """Return when the prepare DAG runs, None for only by hand."""
    return usable().schedule or None


def audit_schedule() -> str | None:
    """Return when the audit DAG runs, None for only by hand."""
    return usable().audit_schedule or None


def retries(times: int) -> int:
    """Return how often a task is tried again.

    Args:
        times: Where nothing is set.
    """
    found = usable().retries
    return times if found is None else found
