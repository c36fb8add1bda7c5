"""Writes the table in ``docs/settings.md``: ``python -m puavo_repository.settings.table FILE``."""

from __future__ import annotations

import sys
from pathlib import Path

from puavo_repository.settings.model import Model, about, default_text
from puavo_repository.settings.sources import variable

BEGIN, END = "<!-- written by python -m puavo_repository.settings.table -->\n", "<!-- end -->\n"


def render() -> str:
    """Return the table, a part for each section."""
    lines, section = [], ""
    for name in Model.model_fields:
        found = about(name)
        if found.section != section:
            section = found.section
            lines += ["", f"## {section.capitalize()}", ""]
            lines += ["| Setting | Default | What it is for | Value |", "|---|---|---|---|"]
        default = default_text(name)
        default = default if found.otherwise or not default else f"`{default}`"
        lines.append(f"| `{variable(name)}` | {default} | {found.text} | {found.expected} |")
    return "\n".join([*lines, "", ""])


def updated(document: str) -> str:
    """Return a document with the present table between its two marks."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}{render()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
