"""What people read, taken from the code, and the catalogs of the languages: ``make catalogs``."""

from __future__ import annotations

import io
import itertools
import os
import re
import tempfile
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.frontend import CommandLineInterface
from babel.messages.pofile import read_po, write_po

from puavo_repository.language import LOCALES, NAMES, SOURCE, catalog
from puavo_repository.settings.model import Model, about
from puavo_repository.web.model import AUDIT, PREPARE, PUBLISH
from support.repository import ROOT

TRANSLATED = [name for name in NAMES if name != SOURCE]
# What of a catalog's header says nothing, or changes each time.
_SILENT = re.compile(
    r'^"(Project-Id-Version|Report-Msgid-Bugs-To|POT-Creation-Date|PO-Revision-Date|Last-Translator'
    r"|Language-Team|Generated-By): .*\n",
    re.MULTILINE,
)


def extracted() -> Catalog:
    """Return all that is to be translated; ``pyproject.toml`` says where that is."""
    with tempfile.NamedTemporaryFile() as found:
        arguments = (
            *("--mapping", str(ROOT / "pyproject.toml"), "--output-file", found.name),
            *("--keywords", "gettext_noop counted:1,2"),
            *("--add-location", "file"),
            *(os.path.relpath(ROOT / folder) for folder in ("include", "dags")),
        )
        command: Any = CommandLineInterface()
        command.run(["pybabel", "--quiet", "extract", *arguments])
        template = read_po(found)
    where: Any = ("include/puavo_repository/settings/model.py", None)
    for text in sorted(of_settings()):
        template.add(text, locations=[where])
    return template


def of_settings() -> set[str]:
    """Return what forms say of the settings that they have: their model holds it as docstrings."""
    texts = set()
    for name in sorted(in_forms()):
        found, told = about(name), Model.model_fields[name].json_schema_extra
        more = told if isinstance(told, dict) else {}
        texts |= {found.section, found.text, found.otherwise}
        texts |= {str(more.get("expected", "")), str(more.get("unit", ""))}
    return texts - {"", "share"}


def in_forms() -> set[str]:
    """Return the settings that the page has in forms."""
    code = [ROOT / f"dags/{name}.py" for name in (PREPARE, PUBLISH, AUDIT)]
    code.append(ROOT / "include/puavo_repository_airflow/tasks.py")
    calls = (re.findall(r"\bfields\(([^()]*)\)", path.read_text()) for path in code)
    named = re.findall(r'"(\w+)"', " ".join(itertools.chain.from_iterable(calls)))
    return {name for name in named if name in Model.model_fields}


def write(language: str, found: Catalog) -> None:
    """Write a catalog, sorted and without what changes each time."""
    text = io.BytesIO()
    write_po(text, found, width=0, sort_by_file=True, ignore_obsolete=True)
    path = LOCALES / language / "LC_MESSAGES" / "messages.po"
    path.write_text(_SILENT.sub("", text.getvalue().decode()))


def update() -> None:
    """Bring it into the catalogs. What has changed is new: its old translation goes."""
    template = extracted()
    for language in TRANSLATED:
        found = catalog(language)
        found.update(template, no_fuzzy_matching=True)
        write(language, found)


if __name__ == "__main__":
    update()
