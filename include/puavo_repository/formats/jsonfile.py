"""JSON as this project reads and writes it: strict on the way in, stable on the way out."""

from __future__ import annotations

import json
import math
from typing import Any

DEEPEST = 100  # lists and objects in each other; writing goes deeper into the stack than reading


def loads(text: str | bytes, deepest: int = DEEPEST) -> Any:
    """Parse JSON that every other reader understands alike, and that ``dumps`` can write.

    Raises:
        ValueError: It is not JSON, not UTF-8, names a key twice in one object, is nested too
            deeply, or holds a number that JSON does not have (``NaN``, ``Infinity``, ``1e999``).
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(value, deepest)
    return value


def dumps(value: Any) -> bytes:
    """Render JSON for a file: readable, in the order given, one newline at the end."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} is defined twice")
        result[key] = value
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a usable number")
    return value


def _check_depth(value: Any, deepest: int) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(deepest):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
        if not level:
            return
    raise ValueError("it is nested too deeply")
