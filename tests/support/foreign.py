"""Bytes that somebody else wrote: broken, hostile, or nearly right."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

NAMES = (
    "../x",
    "/etc/passwd",
    "rdiffs/../../x",
    "meta/../../outside.json",
    ".",
    "..",
    "",
    "a\0b",
    "a/b",
    ".puavo-publish/journal.json",
    "x" * 300,
    "\ud800",
    "bad\udcff",
    "-rf",
    "puavo-os-test-bookworm-2026-01-01-120000-amd64.img",
)
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1 << 31, 1 << 63, 1 << 64, 10**30])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(NAMES)
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=6,
)


def examples(share: float) -> settings:
    """Return the settings of a test whose examples take longer than most."""
    return settings(max_examples=max(10, int(settings().max_examples * share)), deadline=None)


@st.composite
def changed_values(draw: st.DrawFn, document: Any) -> Any:
    """Draw a document with some of its values changed, renamed or gone."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            return document
        holder, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "remove", "rename"]))
        if kind == "replace":
            holder[key] = draw(VALUES)
        elif kind == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(NAMES))] = holder.pop(key)
        else:
            holder.append(draw(VALUES))
    return document


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw bytes that differ from some in a few places, are cut short or are longer."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "remove", "again"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=9))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 40))]
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 40))]
    return bytes(data)


def changed_json(document: Any) -> st.SearchStrategy[bytes]:
    """Draw the text of a document that is changed as values, as bytes, or is something else."""
    values = changed_values(document).map(lambda value: json.dumps(value).encode())
    anything = VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)
    deep = st.sampled_from([b"[" * 5000, b'{"a":' * 5000, b"[" * 90 + b"]" * 90, b"9" * 5000])
    return values | changed_bytes(json.dumps(document).encode()) | anything | deep
