"""Small records as the page shows them: how far something is, room on a disk, messages. Pure."""

from puavo_repository.mirror import space
from puavo_repository.mirror.records import AlertRecord
from puavo_repository.mirror.under_way import UnderWay
from puavo_repository.web.disk import Place
from puavo_repository.web.model import Alerts, Progress, Space
from puavo_repository.web.words import moment


def progress(one: UnderWay) -> Progress:
    """Return how far something is."""
    values = {name: getattr(one, name) for name in ("what", "done", "total", "seconds_left")}
    return Progress(unit="bytes", **values)


def space_left(history: space.History, free: int | None = None) -> Space | None:
    """Return what a disk has left, by default at the last look; None where nobody knows."""
    if free is None:
        free = next(reversed(list(history.values())), None)
    return None if free is None else Space(free=free, days=space.days_left(history, free))


def alerts(place: Place, last: AlertRecord | None) -> Alerts | None:
    """Return who is told when something fails, and what became of the last message."""
    if place.ways is None:
        return None
    return Alerts(
        ways=list(place.ways),
        last=moment(last.sent) if last else None,
        subject=last.subject if last else "",
        problem=last.problem if last else "",
    )
