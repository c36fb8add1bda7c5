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
