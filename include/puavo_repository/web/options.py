"""The form of a run with options: its fields, what a value is refused with, and folders to choose.

The fields are those of the DAG's own form. What is said of a setting is what the command and the
documentation say of it, in the reader's language, and so is what a value is refused with.
"""

import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from puavo_repository import settings
from puavo_repository.errors import RepositoryError, SettingsError, printable
from puavo_repository.language import _, gettext
from puavo_repository.settings.model import Model, about

Schemas = Mapping[str, Mapping[str, Any]]
"""The fields of a DAG's form by their names, each as its JSON schema."""

_SHOWN = 50  # folders at a time


class Field(NamedTuple):
    """One field."""

    name: str
    kind: str  # flag, choice, lines, folder or text
    title: str
    help: str
    section: str
    default: str  # what counts where it stays empty
    numeric: bool = False


@dataclass(frozen=True)
class Checked:
    """What values come to."""

    conf: dict[str, Any]  # of the run
    refused: dict[str, str]  # sentences by field; the empty name is for what is of none


def sections(schemas: Schemas) -> list[tuple[str, list[Field]]]:
    """Return the fields by section, each section with its title."""
    installed = _installed()
    every = [_field(name, schema, installed) for name, schema in schemas.items()]
    titles = dict.fromkeys(one.section for one in every)
    return [(title, [one for one in every if one.section == title]) for title in titles]


def _field(name: str, schema: Mapping[str, Any], installed: Mapping[str, str]) -> Field:
    kinds = [kind for kind in _types(schema) if kind != "null"]
    kind = {"boolean": "choice", "array": "lines"}.get(kinds[0], "text")
    kind = "flag" if kinds == _types(schema) == ["boolean"] else kind
    kind = "folder" if name in settings.FOLDERS else kind
    default = installed.get(name, "")
    if name in Model.model_fields:
        found = about(name)
        default = default or found.otherwise or found.default
        said = _("%(what)s. A value: %(value)s", what=found.text, value=found.expected)
        title, section = name.replace("_", " "), gettext(found.section)
    else:
        said = gettext(str(schema.get("description_md", ""))).replace("`", "")
        title, section = gettext(str(schema["title"])), gettext(str(schema.get("section", "")))
    numeric = kinds[0] in {"integer", "number"}
    return Field(name, kind, title, said, section.lower(), default, numeric)


def _types(schema: Mapping[str, Any]) -> list[str]:
    found = schema.get("type", "string")
    return [found] if isinstance(found, str) else list(found)


def _installed() -> dict[str, str]:
    """Return this installation's own values as they are typed, but for those nobody may see."""
    with suppress(RepositoryError):
        found = settings.load({}, images=False)
        values = {n: getattr(found, n) for n in Model.model_fields if not about(n).secret}
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in values.items()
            if value not in (None, "", ()) and not about(name).otherwise
        } | {name: str(getattr(found, name)) for name in settings.FOLDERS}
    return {}


def check(schemas: Schemas, typed: Mapping[str, Any], *, images: bool) -> Checked:
    """Return the run's params for what was typed, and a sentence for each value that is refused.

    Args:
        schemas: Of the form.
        typed: Texts by the field's name; True for a box that is checked.
        images: Whether the run needs the image directory.
    """
    conf: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name, schema in schemas.items():
        value = typed.get(name)
        value = value.strip() if isinstance(value, str) else value
        if value in (None, "", False):
            continue
        try:
            conf[name] = _value(name, schema, value)
        except SettingsError as error:
            refused[name] = sentence(error)
    if not refused:
        try:
            settings.load(conf, images=images)
        except SettingsError as error:
            folders = (n for n in conf if n in settings.FOLDERS and _is(conf[n], error.subject))
            refused[next(folders, "")] = sentence(error)
    return Checked(conf, refused)


def _value(name: str, schema: Mapping[str, Any], value: Any) -> Any:
    if isinstance(value, bool):
        return value
    text = str(value)
    kinds = _types(schema)
    as_setting = name if name in Model.model_fields else "remote"
    if "array" in kinds:
        lines = text.split()
        settings.read({as_setting: lines}, {})
        return lines
    found = getattr(settings.read({as_setting: text}, {}), as_setting)
    return found if {"integer", "number", "boolean"} & {*kinds} else text


def _is(typed: Any, subject: str) -> bool:
    return printable(Path(str(typed)).expanduser().resolve()) == subject


def sentence(error: SettingsError) -> str:
    """Return what a value is refused with, without its name: it stands beside it."""
    text = error.problem
    if error.expected:
        text += " " + _("(expected %(expected)s)", expected=error.expected)
    return f"{text}. {error.remedy}" if error.remedy else text


def folders(prefix: str, configured: Sequence[Path]) -> list[str]:
    """Return the folders whose path begins so: beside or below those that are configured, alone.

    Files and what is hidden are not told of, and links are not followed.
    """
    parents = {path.parent if path.parent != Path("/") else path for path in configured}
    there = Path(prefix if prefix.endswith("/") else str(Path(prefix).parent))
    with suppress(OSError, ValueError):
        real = there.resolve(strict=True)
        if any(real.is_relative_to(parent.resolve()) for parent in parents):
            return list(_below(real, prefix))
    return [str(path) for path in sorted(parents) if str(path).startswith(prefix)]


def _below(folder: Path, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        paths = (
            entry.path
            for entry in entries
            if not entry.name.startswith(".")
            and entry.path.startswith(prefix)
            and entry.is_dir(follow_symlinks=False)
        )
        yield from heapq.nsmallest(_SHOWN, (path for path in paths if path == printable(path)))
