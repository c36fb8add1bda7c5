"""Amounts and moments in words, the same on the page, in the API and in messages. Pure."""

from __future__ import annotations

from datetime import datetime


def size(count: float) -> str:
    """Render bytes in the unit that suits them."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.{2 if count < 10 * limit else 1}f} {unit}"
    return f"{count:.0f} B"


def count(number: int, thing: str) -> str:
    """Render so many of something."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def when(moment: datetime | None) -> str:
    """Render a moment."""
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"
