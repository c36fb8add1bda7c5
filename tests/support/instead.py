"""What a test has the project find in place of something of the standard library.

Only the project finds it: what belongs to the whole process is also used by threads that another
test left, by pytest and by its workers. A loop of theirs would have no end where a wait takes no
time or a clock stands still.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PROJECT = "puavo_repository"


def instead(
    monkeypatch: pytest.MonkeyPatch, user: ModuleType, library: ModuleType, **own: Any
) -> None:
    """Have one module of the project use functions of the test's own, by their names."""
    monkeypatch.setattr(user, library.__name__, SimpleNamespace(**{**vars(library), **own}))


def have_time(monkeypatch: pytest.MonkeyPatch, now: Callable[[], float]) -> None:
    """Have each module of the project read the time of day from another clock."""
    usual = time.time
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != PROJECT:
            continue
        if getattr(module, "time", None) is time:
            instead(monkeypatch, module, time, time=now)
        elif getattr(module, "time", None) is usual:
            monkeypatch.setattr(module, "time", now)
