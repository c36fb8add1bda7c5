"""The page as HTML, and the geometry of its figures, which the template draws as SVG. Pure.

Everything is escaped by the template engine, and nothing comes from elsewhere. A figure's
coordinates are SVG user units; its colours are classes of the style sheet, so that it follows
the theme.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from puavo_repository.errors import printable
from puavo_repository.fleet.advice import advise
from puavo_repository.fleet.explanation import VIEWS, Explanation
from puavo_repository.fleet.usage import Usage
from puavo_repository.formats.names import image_name
from puavo_repository.progress import count, format_bytes
from puavo_repository.web import model, status, words
from puavo_repository.web.model import Repository, Run
from puavo_repository.web.offered import Series
from puavo_repository.web.words import seconds

REFRESH = 10  # seconds between two looks of a page that is open
STATIC = Path(__file__).with_name("static")
WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, GROUND = 56, WIDTH - 12, 12, HEIGHT - 26  # edges of what is drawn


def moment(at: datetime | None) -> Markup:
    """Render a moment; the page's script says how long ago that is."""
    if at is None:
        return Markup("never")
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat(timespec="seconds"), words.when(at)
    )


def matrix(series: Series) -> dict[str, Any]:
    """Return what a client on each image of a series fetches to reach a target.

    That is, the ``targets`` that rdiffs lead to, the ``rdiffs`` by the versions of source and
    target, and the ``strangers`` among the sources: versions from outside the series.
    """
    targets = [image for image in series.images if image.rdiffs]
    rdiffs = {(r.source, r.target): r for image in targets for r in image.rdiffs}
    versions = {image.version for image in series.images}
    strangers = dict.fromkeys(source for source, _ in rdiffs if source not in versions)
    return {"targets": targets, "rdiffs": rdiffs, "strangers": list(strangers)}


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
            (image.built, r.share, f"{one.name} {image.version}: {r.share:.1%} of the image")
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
    up = [(_height(part), f"{top * part:.0%}") for part in (0, 0.5, 1)]
    placed = [
        [Mark(x(at), round(_height(share / top), 1), label) for at, share, label in line]
        for line in lines
    ]
    paths = [" ".join(f"{mark.x},{mark.y}" for mark in line) for line in placed if len(line) > 1]
    return Figure([mark for line in placed for mark in line], paths, ticks, up)


def savings(series: Sequence[Series]) -> Figure | None:
    """Draw a bar a series: what a client saves that goes from the last image but one."""
    row, left, right = 20, 250, 60
    marks: list[Mark] = []
    figures = []
    for one in series:
        if len(one.images) < 2:
            continue
        width, y = max(one.saving, 0) * (WIDTH - left - right), len(marks) * row + 4
        marks.append(Mark(left, y, one.name, heat(1 - one.saving), round(width, 1), row - 8))
        figures.append((left + width + 6, f"{one.saving:.1%}"))
    return Figure(marks, across=figures, height=len(marks) * row + 4) if marks else None


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
            across.append((x + step * 0.35, f"{run.started:%m-%d}"))
    up = [(_height(part), seconds(top * part)) for part in (0, 0.5, 1)]
    return Figure(marks, across=across, up=up)


def fetched(usage: Usage | None) -> Figure | None:
    """Draw a column a day, or a week: what clients fetched in rdiffs, whole images and by rsync."""
    days = usage.days if usage else ()
    size = 1 if len(days) <= 60 else 7
    parts = [days[start : start + size] for start in range(0, len(days), size)]
    kinds = "rdiffs", "images", "rsync"
    sums = [[sum(getattr(day, kind) for day in part) for kind in kinds] for part in parts]
    most = max(map(sum, sums), default=0)
    if not most:
        return None
    top, step = _round_up(most), min((RIGHT - LEFT) / len(parts), 60)
    marks = []
    for index, (part, counts) in enumerate(zip(parts, sums, strict=True)):
        x, y = round(LEFT + index * step + step * 0.15, 1), float(GROUND)
        for colour, (kind, amount) in enumerate(zip(kinds, counts, strict=True)):
            height = amount / top * (GROUND - TOP)
            y -= height
            label = f"{kind} {format_bytes(amount)}, from {part[0].day}"
            marks.append(Mark(x, round(y, 1), label, colour, round(step * 0.7, 1), height))
    across = [(float(LEFT), days[0].day), (float(RIGHT), days[-1].day)]
    up = [(_height(share), format_bytes(top * share)) for share in (0, 0.5, 1)]
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


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


def of_image(name: str) -> str:
    """Render the version in an image's name."""
    return words.version(image_name(name).number)


_FILTERS = count, heat, matrix, words.percent, words.version, moment, of_image, seconds, timeline
_ENVIRONMENT.filters |= {one.__name__: one for one in _FILTERS} | {"size": format_bytes}
_ENVIRONMENT.globals |= {"WIDTH": WIDTH, "LEFT": LEFT, "RIGHT": RIGHT, "GROUND": GROUND}
_ENVIRONMENT.globals |= {"model": model, "status": status, "refresh": lambda: REFRESH}


def render(found: Repository) -> str:
    """Render the page."""
    prepares = [run for run in found.runs if run.dag_id == model.PREPARE]
    # In their order, as the run that came furthest had them.
    furthest = sorted(prepares, key=lambda run: len(run.stages), reverse=True)
    stages = list(dict.fromkeys(stage.name for run in furthest for stage in run.stages))
    return _ENVIRONMENT.get_template("page.html").render(
        up="",
        summary=found.summary,
        series=found.series,
        runs=found.runs,
        latest=next((run for run in prepares if run.counts), None),
        sizes=sizes_over_time(found.series),
        savings=savings(found.series),
        durations=durations(prepares, stages),
        usage=found.usage,
        fetched=fetched(found.usage),
        stages=stages,
    )


def render_run(dag_id: str, run_id: str, document: Mapping[str, Any]) -> str:
    """Render what a run did, or what a dry run would do.

    The document has its ``summary`` (``did`` in a few words, and ``sections`` of a title and lines
    each) and its ``failure`` texts; neither where there is nothing yet.
    """
    return _ENVIRONMENT.get_template("run.html").render(
        up="../",
        dag_id=dag_id,
        run_id=run_id,
        summary=document.get("summary") or {"did": "", "sections": []},
        failures=document.get("failure", []),
    )


def render_explanation(name: str, found: Explanation | str) -> str:
    """Render why an rdiff is so large, or in words why that is not known."""
    problem = found if isinstance(found, str) else ""
    return _ENVIRONMENT.get_template("explanation.html").render(
        up="../",
        name=printable(name),
        problem=problem,
        found=found,
        views=list(VIEWS),
        advice=advise(found) if isinstance(found, Explanation) else [],
    )


def render_refused(code: int, detail: str) -> str:
    """Render what somebody sees who may not see the page."""
    return _ENVIRONMENT.get_template("refused.html").render(code=code, detail=detail)
