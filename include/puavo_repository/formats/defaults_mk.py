"""``defaults.mk``: the three make variables by which the old system was set up.

It is read as settings and never run: ``name := value`` lines, comments, and ``$(name)`` of
variables that the same file set before. Every other line is kept as it is. No library does it:
those that read make files run them, or do not write them back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_ASSIGNMENT = re.compile(r"^\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*(?::|\?)?=\s*(?P<value>.*?)\s*$")
_REFERENCE = re.compile(r"\$(?:[({](?P<name>[A-Za-z_][A-Za-z0-9_]*)[)}]|(?P<dollar>\$))")
_COMMENT = re.compile(r"(?<!\\)#.*")


def parse(text: str) -> dict[str, str]:
    """Return the variables of a ``defaults.mk``, references among them expanded.

    A reference to a variable that the file does not set stays as it is written.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _ASSIGNMENT.match(_COMMENT.sub("", line))
        if match:
            value = _REFERENCE.sub(
                lambda m: m["dollar"] or found.get(m["name"], m[0]), match["value"]
            )
            found[match["name"]] = value.replace("\\#", "#")
    return found


def update(text: str, values: Mapping[str, str]) -> str:
    """Return the text with these variables set, in the place where they were.

    Args:
        text: The present content, empty for a new file.
        values: Names and values; new ones are added at the end.

    Returns:
        The text itself, unchanged to the byte, where it says all that already.
    """
    for _ in values:  # setting one may change another that refers to it
        now = parse(text)
        wanted = {name: value for name, value in values.items() if now.get(name) != value}
        if not wanted:
            break
        text = _set(text, values, now, wanted)
    return text


def _set(
    text: str, values: Mapping[str, str], now: Mapping[str, str], wanted: dict[str, str]
) -> str:
    lines = []
    for line in text.splitlines():
        match = _ASSIGNMENT.match(line)
        if match and match["name"] in wanted:
            value = wanted.pop(match["name"])
            lines.append(_render(match["name"], value))
        elif match and match["name"] in values and now.get(match["name"]) != values[match["name"]]:
            continue  # a second assignment of a variable that was just set
        else:
            lines.append(line)
    lines += [_render(name, value) for name, value in wanted.items()]
    return "\n".join(lines) + "\n"


def _render(name: str, value: str) -> str:
    escaped = value.replace("$", "$$").replace("#", "\\#")
    return f"{name:<23} := {escaped}"
