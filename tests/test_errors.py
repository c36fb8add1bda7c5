"""What errors say can be read on any terminal and written into any document."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from puavo_repository.errors import PublishError

ANY = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=30)


@given(ANY, ANY)
def test_no_control_character_of_a_name_or_a_server_gets_through(name: str, said: str) -> None:
    text = str(PublishError(name, "the server refused", found=said))
    assert text.isprintable()
    assert json.loads(json.dumps(text)) == text


def test_what_a_name_is_can_still_be_told() -> None:
    error = PublishError("a\udcff\x1b[31m.img", "is ä bad", found="línea\n2")
    assert str(error) == r"a\xff\x1b[31m.img: is ä bad (found línea\n2)"
