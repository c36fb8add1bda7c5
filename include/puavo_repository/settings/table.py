"""Writes the table in ``docs/settings.md``: ``python -m puavo_repository.settings.table FILE``."""

import sys
from itertools import groupby
from pathlib import Path

from puavo_repository.settings import variable
from puavo_repository.settings.model import Model, about

BEGIN, END = "<!-- written by python -m puavo_repository.settings.table -->\n", "<!-- end -->\n"


def updated(document: str) -> str:
    """Return a document with the present table, a part for each section, between its two marks."""
    lines = []
    for section, names in groupby(Model.model_fields, lambda name: about(name).section):
        lines += ["", f"## {section.capitalize()}", ""]
        lines += ["| Setting | Default | What it is for | Value |", "|---|---|---|---|"]
        for name in names:
            found = about(name)
            default = found.otherwise or (found.default and f"`{found.default}`")
            lines.append(f"| `{variable(name)}` | {default} | {found.text} | {found.expected} |")
    before, _, rest = document.partition(BEGIN)
    table = "\n".join([*lines, "", ""])
    return f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
