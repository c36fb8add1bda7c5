from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puavo_repository.formats import defaults_mk

OLD = """\
# made by hand
debootstrap_suite       := buster
   image_dir               := /srv/images
   images_urlbase          := https://old.example   # ours
mirror_dir              = $(image_dir)/mirror
include other.mk
"""


def test_variables_are_read_with_references_among_them() -> None:
    assert defaults_mk.parse(OLD) == {
        "debootstrap_suite": "buster",
        "image_dir": "/srv/images",
        "images_urlbase": "https://old.example",
        "mirror_dir": "/srv/images/mirror",
    }


@pytest.mark.parametrize(
    ("lines", "value"),  # as GNU Make has it
    [
        ("d := /a\nd ?= /b", "/a"),
        ("d ?= /a\nd ?= /b", "/a"),
        ("d ?= /a\nd := /b", "/b"),
        ("d :=\nd ?= /b", ""),
        ("d := /a\nd?=/b # no\nd := $(d)/c", "/a/c"),
    ],
)
def test_a_variable_that_is_set_keeps_its_value_where_another_is_offered(
    lines: str, value: str
) -> None:
    assert defaults_mk.parse(lines) == {"d": value}


def test_other_lines_are_kept_when_a_variable_changes() -> None:
    text = defaults_mk.update(OLD, {"images_urlbase": "https://new.example"})
    assert text.splitlines()[3] == "images_urlbase          := https://new.example"
    assert [line for line in text.splitlines() if "images_urlbase" not in line] == [
        line for line in OLD.splitlines() if "images_urlbase" not in line
    ]


def test_what_says_it_already_is_not_touched() -> None:
    assert defaults_mk.update(OLD, {"mirror_dir": "/srv/images/mirror"}) is OLD


def test_a_new_file_gets_what_the_old_command_wrote() -> None:
    assert defaults_mk.update("", {"image_dir": "/a"}) == "image_dir               := /a\n"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Zs"])))
def test_any_path_comes_back(value: Any) -> None:
    if not value or value.endswith("\\"):
        return
    text = defaults_mk.update("x := 1\n", {"image_dir": value})
    assert defaults_mk.parse(text) == {"x": "1", "image_dir": value}
