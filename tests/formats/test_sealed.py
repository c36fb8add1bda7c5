"""Documents with a checksum: whatever is changed in one is seen."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puavo_repository.formats import jsonfile

VALUES = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key != "check"),
    st.recursive(st.none() | st.integers() | st.text(max_size=8), st.lists, max_leaves=5),
    min_size=1,
    max_size=4,
)


@given(VALUES)
def test_what_was_written_is_read_and_is_json(values: dict[str, object]) -> None:
    text = jsonfile.dumps_sealed(values)
    assert jsonfile.loads_sealed(text) == values
    found = json.loads(text)
    assert next(iter(found)) == "check"
    assert {**found, "check": None} == {"check": None, **values}


@given(VALUES, st.data())
def test_one_flipped_bit_or_a_cut_is_seen(values: dict[str, object], data: st.DataObject) -> None:
    text = bytearray(jsonfile.dumps_sealed(values))
    at = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(ValueError):
        jsonfile.loads_sealed(bytes(text[:at]))
    text[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError):
        jsonfile.loads_sealed(bytes(text))
