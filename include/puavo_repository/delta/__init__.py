"""How an rdiff is made and proven: the engines by their names; see ``engine`` for the interface."""

from __future__ import annotations

from puavo_repository.delta.engine import DeltaEngine
from puavo_repository.errors import SettingsError

ENGINES = ("anchors", "anchors:fast", "anchors:small", "librsync")


def engine_named(name: str, **limits: int) -> DeltaEngine:
    """Return the engine with one of the names of ``ENGINES``.

    Args:
        name: Its name.
        limits: Of the anchor engine: ``threads`` and ``memory``, see there.

    Raises:
        SettingsError: There is none.
    """
    kind, _, effort = name.partition(":")
    if kind == "anchors":
        from puavo_repository.delta.anchor_engine import AnchorEngine

        return AnchorEngine(effort or "default", **limits)
    if name == "librsync":
        from puavo_repository.delta.librsync import LibrsyncEngine

        return LibrsyncEngine()
    raise SettingsError(
        "delta engine",
        f"there is none called {name!r}",
        expected=f"one of {', '.join(ENGINES)}",
    )
