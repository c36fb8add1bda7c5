"""The languages that people read: sentences from gettext catalogs, and how numbers are written.

English is the source, and what is said where nobody chose a language: in logs, records, messages
and the API. A context variable holds the language while a page is built, so requests that are
served side by side do not meet. The catalogs are read as translators keep them, in
``locales/<language>/LC_MESSAGES/messages.po``; ``make catalogs`` brings them up to date.
"""

import gettext as standard
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from puavo_repository.progress import format_bytes

if TYPE_CHECKING:  # each process of Airflow loads the page, few build it in another language
    from babel.messages.catalog import Catalog

SOURCE = "en"
NAMES = {"en": "English", "de": "Deutsch", "fi": "Suomi", "fr": "Français"}
LOCALES = Path(__file__).with_name("locales")
_RANGE = re.compile(r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*")
_current: ContextVar[str] = ContextVar("language", default=SOURCE)


@contextmanager
def spoken(language: str) -> Iterator[None]:
    """Say everything in a language, one of ``NAMES``, as long as the block lasts."""
    token = _current.set(language)
    try:
        yield
    finally:
        _current.reset(token)


def speak(language: str) -> None:
    """Say everything in a language from here on, in the present task or thread alone."""
    _current.set(language)


def current() -> str:
    """Return the language that is spoken now."""
    return _current.get()


def choose(*wanted: str, accepted: str = "") -> str:
    """Return the first language of ``wanted`` that there is, else the best that is accepted.

    Args:
        wanted: Languages, or anything else.
        accepted: The value of the header Accept-Language (RFC 9110, section 12.5.4).
    """
    ranges = (found for one in accepted.split(",") if (found := _RANGE.fullmatch(one)))
    weighed = [(float(found[2] or 1), found[1].lower()) for found in ranges]
    liked = (name for weight, name in sorted(weighed, key=lambda one: -one[0]) if weight)
    return next((one for one in (*wanted, *liked) if one in NAMES), SOURCE)


def gettext_noop(text: str) -> str:
    """Return a text as it is, which is to be translated where it is shown."""
    return text


def gettext(text: str) -> str:
    """Return the translation of a text."""
    return _translations(current()).gettext(text) if text else ""  # which is a catalog's header


def ngettext(one: str, many: str, number: int) -> str:
    """Return the translation of a text that goes with a number."""
    return _translations(current()).ngettext(one, many, number)


def _(text: str, **values: object) -> str:
    """Return the translation of a text with values for its ``%(name)s``; ``%%`` is a per cent."""
    return gettext(text) % values


def counted(one: str, many: str, number: int, **values: object) -> str:
    """Return the same of a text that goes with a number, which is its ``%(num)s``."""
    return ngettext(one, many, number) % {"num": number, **values}


def catalog(language: str) -> "Catalog":
    """Return what there is of a language, as translators keep it."""
    from babel.messages.pofile import read_po

    with (LOCALES / language / "LC_MESSAGES" / "messages.po").open("rb") as stream:
        return read_po(stream, locale=language)


@cache
def _translations(language: str) -> standard.NullTranslations:
    if language == SOURCE:
        return standard.NullTranslations()
    from babel.messages.mofile import write_mo

    binary = io.BytesIO()
    write_mo(binary, catalog(language))
    binary.seek(0)
    return standard.GNUTranslations(binary)


class Form(NamedTuple):
    """How a language writes numbers."""

    decimal: str  # its mark
    percent: str  # what follows a number


@cache
def _form(language: str) -> Form:
    if language == SOURCE:
        return Form(".", "%")
    from babel import Locale

    found = Locale.parse(language)
    return Form(found.number_symbols["latn"]["decimal"], found.percent_formats[None].suffix[0])


def number(value: float, digits: int = 0) -> str:
    """Render a number with so many digits after the mark."""
    return marked(f"{value:.{digits}f}")


def marked(digits: str) -> str:
    """Put the language's decimal mark into a number."""
    return digits.replace(".", _form(current()).decimal)


def percent(share: float, digits: int = 1) -> str:
    """Render a share; what is rounded to all of it is all."""
    digits = 0 if share >= 0.9995 else digits
    return number(100 * share, digits) + _form(current()).percent


_UNITS = (
    gettext_noop("B"),
    gettext_noop("kB"),
    gettext_noop("MB"),
    gettext_noop("GB"),
    gettext_noop("TB"),
)  # those of ``format_bytes``


def size(count: float) -> str:
    """Render a number of bytes."""
    digits, unit = format_bytes(count).split()
    return f"{marked(digits)} {gettext(unit)}"
