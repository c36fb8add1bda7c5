"""Moments, shares and durations in words. Pure."""

from datetime import UTC, datetime


def when(moment: datetime | None) -> str:
    """Render a moment."""
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"


def percent(share: float) -> str:
    """Render a share."""
    return f"{share:.1%}" if share < 0.9995 else "100%"


def seconds(value: float) -> str:
    """Render a duration."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def built(number: str) -> datetime | None:
    """Return the moment that a version names."""
    try:
        return datetime.strptime(number, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def version(number: str) -> str:
    """Render a version as the moment that it names."""
    found = built(number)
    return f"{found:%Y-%m-%d %H:%M}" if found else number


def moment(since: float | None) -> datetime | None:
    """Return the moment so many seconds after the epoch."""
    return datetime.fromtimestamp(since, UTC) if since else None
