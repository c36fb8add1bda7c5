"""Amounts and moments in words, the same on the page, in the API and in messages. Pure."""

from __future__ import annotations

from datetime import datetime


def count(number: int, thing: str) -> str:
    """Render so many of something."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def when(moment: datetime | None) -> str:
    """Render a moment."""
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"
