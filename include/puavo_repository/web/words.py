"""Moments and durations in words, in the language that is spoken. Pure."""

from datetime import UTC, datetime

from puavo_repository import language
from puavo_repository.language import _, gettext, number


def when(moment: datetime | None) -> str:
    """Render a moment as it stands in a sentence; ``page.told`` shows it as people write it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else gettext("never")


def written(moment: datetime) -> str:
    """Render a moment as people write it."""
    if language.current() == language.SOURCE:  # that of no country
        return when(moment)
    from babel.dates import format_time

    time = format_time(moment, "short", tzinfo=UTC, locale=language.current())
    return f"{day(moment)}, {time} UTC"


def day(moment: datetime) -> str:
    """Render a day as people write it."""
    if language.current() == language.SOURCE:
        return f"{moment:%Y-%m-%d}"
    from babel.dates import format_date

    return format_date(moment, locale=language.current())


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
