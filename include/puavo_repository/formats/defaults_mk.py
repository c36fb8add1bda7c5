"""``defaults.mk``: the three make variables by which the old system was set up.

It is read as settings and never run: ``name := value`` lines, ``name ?= value`` of what no line
before it sets, comments, and ``$(name)`` of variables that the same file set before. Every other
line is kept as it is. No library does it: those that read make files run them, or do not write
them back.
"""

import re
from collections.abc import Mapping

_ASSIGNMENT = re.compile(
    r"^\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*(?P<kind>[:?]?)=\s*(?P<value>.*?)\s*$"
)
_REFERENCE = re.compile(r"\$(?:[({](?P<name>[A-Za-z_][A-Za-z0-9_]*)[)}]|(?P<dollar>\$))")
_COMMENT = re.compile(r"(?<!\\)#.*")


def parse(text: str) -> dict[str, str]:
    """Return the variables of a ``defaults.mk``, references among them expanded.

    A reference to a variable that the file does not set stays as it is written.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := _ASSIGNMENT.match(_COMMENT.sub("", line)):
            if match["kind"] == "?" and match["name"] in found:
                continue
            value = _REFERENCE.sub(
                lambda m: m["dollar"] or found.get(m["name"], m[0]), match["value"]
            )
            found[match["name"]] = value.replace("\\#", "#")
    return found


def update(text: str, values: Mapping[str, str]) -> str:
    """Return the text with these variables set where they were, new ones at the end.

    A text that says all that already is returned unchanged to the byte.
    """
    end = "\r\n" if "\r\n" in text else "\n"
    for _ in values:  # setting one may change another that refers to it
        now = parse(text)
        wanted = {name: value for name, value in values.items() if now.get(name) != value}
        if not wanted:
            break
        lines = []
        left = {
            name: f"{name:<23} := " + value.replace("$", "$$").replace("#", "\\#")
            for name, value in wanted.items()
        }
        for line in text.splitlines():
            match = _ASSIGNMENT.match(line)
            if not match or match["name"] not in wanted:
                lines.append(line)
            elif match["name"] in left:  # a second assignment goes
                lines.append(left.pop(match["name"]))
        text = end.join([*lines, *left.values()]) + end
    return text
