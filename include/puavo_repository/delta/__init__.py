"""How an rdiff is made and proven: the engines by their names; see ``engine`` for the interface."""

from puavo_repository.delta.engine import DeltaEngine
from puavo_repository.errors import SettingsError

ENGINES = ("anchors", "anchors:fast", "anchors:small", "librsync")


def engine_named(name: str, **limits: int) -> DeltaEngine:
    """Return the engine with a name; ``limits`` are fields of the anchor engine.

    Raises:
        SettingsError: There is none.
    """
    if name not in ENGINES:
        problem, expected = f"there is none called {name!r}", f"one of {', '.join(ENGINES)}"
        raise SettingsError("delta engine", problem, expected=expected)
    if name == "librsync":
        from puavo_repository.delta.librsync import LibrsyncEngine

        return LibrsyncEngine()
    from puavo_repository.delta.anchor_engine import AnchorEngine  # compiled code, slow to load

    return AnchorEngine(name, **limits)
