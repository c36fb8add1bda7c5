"""The languages: complete catalogs, the reader's own, and what stays English."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from babel.messages.catalog import Catalog, Message

from puavo_repository import language
from puavo_repository.language import NAMES, catalog, choose, spoken
from puavo_repository.web import page, words
from support.catalogs import TRANSLATED, extracted
from support.repository import ROOT

CODE = ROOT / "include" / "puavo_repository"
SAYS = {"_": 1, "gettext": 1, "gettext_noop": 1, "ngettext": 2, "counted": 2}  # and its texts


def texts(value: str | tuple[str, ...] | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def parts(text: str) -> list[str]:
    """Return what a translation has to keep: places for values, elements of HTML, code."""
    return sorted(re.findall(r"%\(\w+\)s|%%|\{\w+\}|</?\w[^>]*>|`[^`]+`", text))


@pytest.fixture(scope="module")
def template() -> Catalog:
    return extracted()


@pytest.mark.parametrize("name", TRANSLATED)
def test_every_sentence_is_translated_and_none_is_stale(template: Catalog, name: str) -> None:
    """Make catalogs has what is new in them, for you to translate."""
    found: dict[object, Message] = {one.id: one for one in catalog(name) if one.id}
    assert found.keys() == {one.id for one in template if one.id}
    for key, one in found.items():
        assert not one.fuzzy, key
        assert all(texts(one.string)), key
        assert len(texts(one.string)) == (1 if isinstance(key, str) else 2), key
        for source, text in zip(texts(one.id), texts(one.string), strict=True):
            assert parts(text) == parts(source), text


def said_in_python() -> Iterator[tuple[str, ast.Call]]:
    for path in CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in SAYS:
                yield path.name, node


def test_all_that_is_said_was_found(template: Catalog) -> None:
    """Babel finds no text in an f-string, and none that a variable holds."""
    known = {text for one in template for text in texts(one.id)}
    for file, call in said_in_python():
        for text in call.args[: SAYS[getattr(call.func, "id", "")]]:
            if isinstance(text, ast.Constant):
                assert text.value in known, (file, text.value)
            assert not isinstance(text, ast.JoinedStr | ast.BinOp), (file, ast.unparse(call))


@pytest.mark.parametrize(
    ("wanted", "accepted", "found"),
    [
        ((), "", "en"),
        ((), "de-CH, de;q=0.9, en;q=0.8", "de"),
        ((), "sv-FI, sv;q=0.9, en;q=0.5, fi;q=0.7", "fi"),
        ((), "fr;q=0, en", "en"),
        ((), "<script>, ;q=, de;q=2", "en"),
        (("", "fi"), "de", "fi"),
        (("xx", "../de"), "fr", "fr"),
    ],
)
def test_a_language_is_chosen(wanted: tuple[str, ...], accepted: str, found: str) -> None:
    assert choose(*wanted, accepted=accepted) == found


@pytest.mark.parametrize(
    ("name", "size", "share", "duration"),
    [
        ("en", "1.50 GB", "12.3%", "3.4 s"),
        ("de", "1,50 GB", "12,3\xa0%", "3,4 s"),
        ("fi", "1,50 Gt", "12,3\xa0%", "3,4 s"),
        ("fr", "1,50 Go", "12,3\xa0%", "3,4 s"),
    ],
)
def test_numbers_are_written_as_people_write_them(
    name: str, size: str, share: str, duration: str
) -> None:
    with spoken(name):
        assert (language.size(1.5e9), language.percent(0.123)) == (size, share)
        assert words.seconds(3.4) == duration


def test_moments_in_sentences_can_be_shown_in_the_readers_own_time() -> None:
    at = datetime(2026, 11, 30, 1, 30, tzinfo=UTC)
    with spoken("fi"):
        shown = page.told(f"<b> {words.when(at)}; then")
    assert shown == (
        '&lt;b&gt; <time datetime="2026-11-30T01:30:00+00:00" data-show="moment">'
        "2026-11-30 01:30 UTC</time>; then"
    )


def test_requests_side_by_side_do_not_meet() -> None:
    def ask(name: str) -> bool:
        with spoken(name):
            return all(language.current() == name for _ in range(2000))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, [*NAMES] * 4))
    assert language.current() == "en"
