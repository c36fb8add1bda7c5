"""Moments and durations in words, in the language that is spoken. Pure."""

from datetime import UTC, datetime

from puavo_repository.language import _, gettext, number


def when(moment: datetime | None) -> str:
    """Render a moment as it stands in a sentence; the page's script shows it as people write it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else gettext("never")


def seconds(value: float) -> str:
    """Render a duration."""
    if value < 120:
        return _("%(number)s s", number=number(value, 1 if value < 10 else 0))
    if value < 7200:
        return _("%(number)s min", number=number(value / 60))
    return _("%(number)s h", number=number(value / 3600, 1))


def built(number: str) -> datetime | None:
    """Return the moment that a version names."""
    try:
        return datetime.strptime(number, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def version(number: str) -> str:
    """Render a version as the moment that it names: it is a name, the same in every language."""
    found = built(number)
    return f"{found:%Y-%m-%d %H:%M}" if found else number


def moment(since: float | None) -> datetime | None:
    """Return the moment so many seconds after the epoch."""
    return datetime.fromtimestamp(since, UTC) if since else None
