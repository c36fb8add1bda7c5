"""JSON as this project reads and writes it: strict on the way in, stable on the way out.

Documents of our own are sealed: they carry a checksum, so that a flipped bit is seen, never
believed. A record says which digests a file has, a journal which files are ours: one wrong digit
that is still JSON would be published as the truth. The first key of such a document is the
checksum of all that follows; it stays readable, and a change by hand is damage like any other. No
library does it: those that sign or frame data hide it from a person's eye, and need a key or a
schema.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

DEEPEST = 100  # lists and objects in each other; writing goes deeper into the stack than reading
_OPEN = b"{\n"


def loads(text: str | bytes, deepest: int = DEEPEST) -> Any:
    """Parse JSON that every other reader understands alike, and that ``dumps`` can write.

    Raises:
        ValueError: It is not JSON, not UTF-8, names a key twice in one object, is nested too
            deeply, or holds a number that JSON does not have (``NaN``, ``Infinity``, ``1e999``).
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    return _loads(text, deepest, _STRICT.decode)


def dumps(value: Any) -> bytes:
    """Render JSON for a file: readable, in the order given, one newline at the end."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {key!r} is defined twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a usable number")
    return value


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)


def _loads(text: str, deepest: int, decode: Callable[[str], Any]) -> Any:
    try:
        value = decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text.count("{") + text.count("[") > deepest:  # else it cannot be
        _check_depth(value, deepest)
    return value


def _check_depth(value: Any, deepest: int) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(deepest):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def dumps_sealed(values: Mapping[str, Any]) -> bytes:
    """Render a document with at least one key, none of them named ``check``."""
    body = memoryview(dumps(values))[len(_OPEN) :]
    return b"".join([_head(body), body])


def loads_sealed(content: bytes) -> dict[str, Any]:
    """Read what ``dumps_sealed`` returned.

    Raises:
        ValueError: It is not exactly that.
    """
    end = len(_head(b""))
    if content[:end] != _head(memoryview(content)[end:]):
        raise ValueError("its checksum is not that of its content")
    # It is as strict as ``dumps`` wrote it, and there are thousands of records.
    values: dict[str, Any] = _loads(content.decode(), DEEPEST, json.loads)
    del values["check"]
    return values


def _head(body: bytes | memoryview) -> bytes:
    """Return what takes the place of the first line of a document, before these other lines."""
    digest = hashlib.sha256(_OPEN)
    digest.update(body)
    return _OPEN + f'  "check": "{digest.hexdigest()[:16]}",\n'.encode()
