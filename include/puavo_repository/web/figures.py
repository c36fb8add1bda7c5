"""Geometry of the page's figures; the template draws them as SVG. Pure.

Coordinates are SVG user units. Colours are classes of the style sheet, so that a figure
follows the theme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from puavo_repository.web.model import RdiffState, Run, Series
from puavo_repository.web.words import seconds

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 26


@dataclass(frozen=True)
class Mark:
    """One thing in a figure: a dot at (x, y), or a bar from there."""

    x: float
    y: float
    label: str
    kind: int = 0
    width: float = 0.0
    height: float = 0.0


@dataclass(frozen=True)
class Tick:
    """One place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Figure:
    """Marks with their axes.

    Attributes:
        marks: What is drawn.
        paths: Lines through dots, as ``points`` of a polyline.
        across: Ticks of the horizontal axis.
        up: Ticks of the vertical axis.
        height: Of the whole figure.
    """

    marks: tuple[Mark, ...]
    paths: tuple[str, ...] = ()
    across: tuple[Tick, ...] = ()
    up: tuple[Tick, ...] = ()
    height: float = HEIGHT


def timeline(series: Series) -> Figure | None:
    """Place the images of a series on the time between the first and the last."""
    dated = [(image.built, image) for image in series.images if image.built is not None]
    if not dated:
        return None
    scale = _Time([moment for moment, _ in dated], 10, WIDTH - 10)
    marks = tuple(
        Mark(scale.x(moment), 18, image.filename, kind=int(image is series.images[-1]))
        for moment, image in dated
    )
    return Figure(marks, across=scale.ticks(), height=44)


def sizes_over_time(series: Sequence[Series]) -> Figure | None:
    """Place every update, from one image to the next, by its date and its share of the image."""
    lines: list[list[tuple[datetime, float, str]]] = []
    for one in series:
        line = []
        for before, image in zip(one.images, one.images[1:], strict=False):
            for rdiff in image.rdiffs:
                if (
                    rdiff.source == before.version
                    and rdiff.state is RdiffState.OFFERED
                    and image.built is not None
                ):
                    label = f"{one.name} {image.version}: {rdiff.share:.1%} of the image"
                    line.append((image.built, rdiff.share, label))
        if line:
            lines.append(line)
    if not lines:
        return None
    scale = _Time([moment for line in lines for moment, _, _ in line], LEFT, WIDTH - RIGHT)
    top = _nice(max(share for line in lines for _, share, _ in line))
    ground = HEIGHT - BOTTOM

    def y(share: float) -> float:
        return round(ground - share / top * (ground - TOP), 1)

    placed = [[Mark(scale.x(at), y(share), label) for at, share, label in line] for line in lines]
    return Figure(
        tuple(mark for line in placed for mark in line),
        paths=tuple(" ".join(f"{m.x},{m.y}" for m in line) for line in placed if len(line) > 1),
        across=scale.ticks(),
        up=tuple(Tick(y(top * part), f"{top * part:.0%}") for part in (0, 0.5, 1)),
    )


def savings(series: Sequence[Series]) -> Figure | None:
    """Draw a bar a series: what a client saves that goes from the last image but one."""
    chosen = [one for one in series if len(one.images) > 1]
    if not chosen:
        return None
    row, name, figure = 20, 250, 60
    room = WIDTH - name - figure
    return Figure(
        tuple(
            Mark(
                name,
                index * row + 4,
                one.name,
                kind=heat(1 - one.saving),
                width=round(max(one.saving, 0) * room, 1),
                height=row - 8,
            )
            for index, one in enumerate(chosen)
        ),
        across=tuple(
            Tick(name + max(one.saving, 0) * room + 6, f"{one.saving:.1%}") for one in chosen
        ),
        height=len(chosen) * row + 4,
    )


def durations(runs: Sequence[Run], names: Sequence[str]) -> Figure | None:
    """Draw a column a run, of the stages' durations.

    Args:
        runs: Of one DAG, newest first.
        names: The stages from the bottom to the top.
    """
    chosen = [run for run in reversed(runs) if run.stages][-20:]
    totals = [sum(stage.seconds for stage in run.stages) for run in chosen]
    if not chosen or not max(totals):
        return None
    top = _nice(max(totals))
    ground = HEIGHT - BOTTOM
    step = min((WIDTH - LEFT - RIGHT) / len(chosen), 60)
    marks: list[Mark] = []
    across = []
    for index, run in enumerate(chosen):
        x, y = LEFT + index * step + step * 0.15, float(ground)
        for stage in sorted(run.stages, key=lambda s: names.index(s.name)):
            height = stage.seconds / top * (ground - TOP)
            y -= height
            label = f"{stage.name} {seconds(stage.seconds)}, {run.run_id}"
            colour = names.index(stage.name)
            marks.append(
                Mark(round(x, 1), round(y, 1), label, colour, round(step * 0.7, 1), height)
            )
        if run.started and (index in (0, len(chosen) - 1) or len(chosen) < 8):
            across.append(Tick(x + step * 0.35, f"{run.started:%m-%d}"))
    ticks = tuple(Tick(ground - part * (ground - TOP), seconds(top * part)) for part in (0, 0.5, 1))
    return Figure(tuple(marks), across=tuple(across), up=ticks)


def heat(share: float) -> int:
    """Return the step, 0 (saves all) to 9 (saves nothing), that an rdiff's share falls in."""
    return min(9, max(0, int(share * 10)))


class _Time:
    """Places moments between two edges."""

    def __init__(self, moments: Sequence[datetime], left: float, right: float) -> None:
        self.first, self.last = min(moments), max(moments)
        self.left, self.right = left, right

    def x(self, moment: datetime) -> float:
        span = (self.last - self.first).total_seconds()
        part = (moment - self.first).total_seconds() / span if span else 0.5
        return round(self.left + part * (self.right - self.left), 1)

    def ticks(self) -> tuple[Tick, ...]:
        ends = dict.fromkeys((self.first, self.last))
        return tuple(Tick(self.x(moment), f"{moment:%Y-%m-%d}") for moment in ends)


def _nice(value: float) -> float:
    """Return the next round number from a value upwards."""
    scale = 1.0
    while scale < value:
        scale *= 10
    while scale >= value * 10 and scale > 1e-6:
        scale /= 10
    return next(scale * part for part in (0.1, 0.2, 0.5, 1) if scale * part >= value * 0.999)
