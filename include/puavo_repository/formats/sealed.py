"""JSON documents of our own that carry a checksum: a flipped bit is seen, never believed.

A record says which digests a file has, a journal which files are ours: one wrong digit that is
still JSON would be published as the truth. The first key of such a document is the checksum of
all that follows; it stays readable, and a change by hand is damage like any other. No library
does it: those that sign or frame data hide it from a person's eye, and need a key or a schema.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from puavo_repository.formats import jsonfile

_OPEN = b"{\n"


def dumps(values: Mapping[str, Any]) -> bytes:
    """Render a document with at least one key, none of them named ``check``."""
    text = jsonfile.dumps(values)
    return _head(text) + text[len(_OPEN) :]


def loads(content: bytes) -> dict[str, Any]:
    """Read what ``dumps`` returned.

    Raises:
        ValueError: It is not exactly that.
    """
    end = len(_head(b""))
    text = _OPEN + content[end:]
    if content[:end] != _head(text):
        raise ValueError("its checksum is not that of its content")
    values: dict[str, Any] = jsonfile.loads(text)
    return values


def _head(text: bytes) -> bytes:
    """Return what takes the place of the first line of these values."""
    return _OPEN + f'  "check": "{hashlib.sha256(text).hexdigest()[:16]}",\n'.encode()
