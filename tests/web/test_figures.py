"""Figures: inside their frames, and as large as what they show."""

from __future__ import annotations

from pathlib import Path

from puavo_repository.web import figures, view
from puavo_repository.web.disk import Reader
from web.mirrors import make_mirror
from web.test_page import STAGES, stages
from web.test_view import run


def test_figures_stay_in_their_frames(tmp_path: Path) -> None:
    make_mirror(tmp_path, series=3, images=5, share=0.2)
    found = view.repository(Reader(tmp_path).read())
    runs = [run("success", hours=n, stages=stages(3, 1, n)) for n in range(30)]
    drawn = [
        figures.sizes_over_time(found.series),
        figures.durations(runs, STAGES),
        figures.timeline(found.series[0]),
    ]
    for figure in drawn:
        assert figure is not None
        for mark in figure.marks:
            assert 0 <= mark.x <= mark.x + mark.width <= figures.WIDTH
            assert 0 <= round(mark.y, 1) <= mark.y + mark.height <= figure.height + 0.1


def test_a_column_is_as_high_as_its_run_was_long(tmp_path: Path) -> None:
    figure = figures.durations([run("success", stages=stages(50, 150))], STAGES)
    assert figure is not None
    first, second = figure.marks
    assert second.height == 3 * first.height
    assert second.y + second.height == first.y or abs(second.y + second.height - first.y) < 0.2
    assert figures.durations([run("running")], STAGES) is None


def test_the_lines_of_a_figure_are_named_as_they_are(tmp_path: Path) -> None:
    make_mirror(tmp_path, images=2, share=0.04)
    figure = figures.sizes_over_time(view.repository(Reader(tmp_path).read()).series)
    assert figure is not None
    assert [label for _, label in figure.up] == ["0.0%", "2.5%", "5.0%"]


def test_saving_is_coloured_by_steps() -> None:
    assert [figures.heat(share) for share in (0, 0.05, 0.1, 0.55, 0.9, 1, 7)] == [
        0,
        0,
        1,
        5,
        9,
        9,
        9,
    ]
