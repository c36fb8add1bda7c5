"""The geometry of the page's figures, which the templates draw as SVG. Pure.

A figure's coordinates are SVG user units; its colours are classes of the style sheet, so that it
follows the theme. No library of figures (uPlot, Vega-Lite, ECharts) draws them: each would take
away a third of this module, bring 50 kB to 1 MB of script and a description of every figure in that
script, and would draw nothing for who reads with a screen reader, prints, or has no script.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from puavo_repository.fleet.usage import Usage
from puavo_repository.language import _, gettext_noop, percent, size
from puavo_repository.web.model import Run
from puavo_repository.web.offered import Series
from puavo_repository.web.words import seconds

WIDTH, HEIGHT = 640, 220
FETCHED = gettext_noop("rdiffs"), gettext_noop("whole images"), gettext_noop("by rsync")
LEFT, RIGHT, TOP, GROUND = 56, WIDTH - 12, 12, HEIGHT - 26  # edges of what is drawn


class Mark(NamedTuple):
    """One thing in a figure: a dot at (x, y), or a bar from there."""

    x: float
    y: float
    label: str
    kind: int = 0
    width: float = 0.0
    height: float = 0.0


class Figure(NamedTuple):
    """Marks with their axes."""

    marks: Sequence[Mark]
    paths: Sequence[str] = ()  # lines through dots, as ``points`` of a polyline
    across: Sequence[tuple[float, str]] = ()  # places on the horizontal axis, and their names
    up: Sequence[tuple[float, str]] = ()  # on the vertical one
    height: float = HEIGHT  # of the whole figure


def timeline(series: Series) -> Figure | None:
    """Place the images of a series on the time between the first and the last."""
    dated = [(image.built, image) for image in series.images if image.built is not None]
    if not dated:
        return None
    x, ticks = _time([at for at, _ in dated], 10, WIDTH - 10)
    newest = series.images[-1]
    marks = [Mark(x(at), 18, one.filename, kind=int(one is newest)) for at, one in dated]
    return Figure(marks, across=ticks, height=44)


def sizes_over_time(series: Sequence[Series]) -> Figure | None:
    """Place every update, from one image to the next, by its date and its share of the image."""
    lines = [
        [
            (image.built, r.share, _label(one.name, image.version, r.share))
            for before, image in pairwise(one.images)
            if image.built and (r := image.offered_from(before.version))
        ]
        for one in series
    ]
    updates = [update for line in lines for update in line]
    if not updates:
        return None
    x, ticks = _time([at for at, _, _ in updates], LEFT, RIGHT)
    top = _round_up(max(share for _, share, _ in updates))
    digits = 0 if top >= 0.1 else 1  # half of 5% is 2.5%
    up = [(_height(part), percent(top * part, digits)) for part in (0, 0.5, 1)]
    placed = [
        [Mark(x(at), round(_height(share / top), 1), label) for at, share, label in line]
        for line in lines
    ]
    paths = [" ".join(f"{mark.x},{mark.y}" for mark in line) for line in placed if len(line) > 1]
    return Figure([mark for line in placed for mark in line], paths, ticks, up)


def _label(series: str, version: str, share: float) -> str:
    found = _("%(share)s of the image", share=percent(share))
    return f"{series} {version}: {found}"


def durations(runs: Sequence[Run], names: Sequence[str]) -> Figure | None:
    """Draw a column a run of one DAG, newest first; the stages from the bottom to the top."""
    chosen = [run for run in reversed(runs) if run.stages][-20:]
    longest = max((sum(stage.seconds for stage in run.stages) for run in chosen), default=0)
    if not longest:
        return None
    top = _round_up(longest)
    step = min((RIGHT - LEFT) / len(chosen), 60)
    marks, across = [], []
    for index, run in enumerate(chosen):
        x, y = LEFT + index * step + step * 0.15, float(GROUND)
        for stage in sorted(run.stages, key=lambda stage: names.index(stage.name)):
            height = stage.seconds / top * (GROUND - TOP)
            y -= height
            label = f"{stage.name} {seconds(stage.seconds)}, {run.run_id}"
            place, colour = round(x, 1), names.index(stage.name)
            marks.append(Mark(place, round(y, 1), label, colour, round(step * 0.7, 1), height))
        if run.started and (index in (0, len(chosen) - 1) or len(chosen) < 8):
            across.append((x + step * 0.35, f"{run.started:%Y-%m-%d}"))
    up = [(_height(part), seconds(top * part)) for part in (0, 0.5, 1)]
    return Figure(marks, across=across, up=up)


def fetched(usage: Usage | None) -> Figure | None:
    """Draw a column a day, or a week: what clients fetched in rdiffs, whole images and by rsync."""
    days = usage.days if usage else ()
    span = 1 if len(days) <= 60 else 7
    parts = [days[start : start + span] for start in range(0, len(days), span)]
    kinds = "rdiffs", "images", "rsync"
    sums = [[sum(getattr(day, kind) for day in part) for kind in kinds] for part in parts]
    most = max(map(sum, sums), default=0)
    if not most:
        return None
    top, step = _round_up(most), min((RIGHT - LEFT) / len(parts), 60)
    marks = []
    for index, (part, counts) in enumerate(zip(parts, sums, strict=True)):
        x, y = round(LEFT + index * step + step * 0.15, 1), float(GROUND)
        for colour, amount in enumerate(counts):
            height = amount / top * (GROUND - TOP)
            y -= height
            label = f"{_(FETCHED[colour])}: {size(amount)}, {part[0].day}"
            marks.append(Mark(x, round(y, 1), label, colour, round(step * 0.7, 1), height))
    across = [(float(LEFT), days[0].day), (float(RIGHT), days[-1].day)]
    up = [(_height(share), size(top * share)) for share in (0, 0.5, 1)]
    return Figure([mark for mark in marks if mark.height], across=across, up=up)


def heat(share: float) -> int:
    """Return the step, 0 (saves all) to 9 (saves nothing), that an rdiff's share falls in."""
    return min(9, max(0, int(share * 10)))


def _height(part: float) -> float:
    """Return where a part of the vertical axis ends."""
    return GROUND - part * (GROUND - TOP)


def _time(
    moments: Sequence[datetime], left: float, right: float
) -> tuple[Callable[[datetime], float], list[tuple[float, str]]]:
    """Return what places moments between two edges, and the ticks of the first and the last."""
    first, last = min(moments), max(moments)
    span = (last - first).total_seconds()

    def x(moment: datetime) -> float:
        part = (moment - first).total_seconds() / span if span else 0.5
        return round(left + part * (right - left), 1)

    return x, [(x(moment), f"{moment:%Y-%m-%d}") for moment in dict.fromkeys((first, last))]


def _round_up(value: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    steps = (part * 10.0**power for power in range(-7, 20) for part in (1, 2, 5))
    return next(step for step in steps if step >= value * 0.999)
