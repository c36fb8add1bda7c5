"""The page: everything escaped, nothing from elsewhere, figures inside their frames."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from puavo_repository.audit.report import Finding, Severity
from puavo_repository.formats.names import rdiff_name
from puavo_repository.publish.report import PublishReport
from puavo_repository.web import figures, page, view
from puavo_repository.web.disk import Reader
from puavo_repository.web.model import Stage
from web.mirrors import (
    IMAGE_SIZE,
    audited,
    edit_metadata,
    fail,
    image_names,
    make_mirror,
    too_large,
)
from web.test_view import run


class Elements(HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def within(self, section: str) -> list[tuple[str, dict[str, str | None]]]:
        """Return the elements of a section of the page."""
        start = self.found.index(("section", {"id": section}))
        rest = self.found[start + 1 :]
        return rest[: next((i for i, one in enumerate(rest) if one[0] == "section"), None)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(root: Path, *runs: Any) -> str:
    return page.render(view.repository(Reader(root).read(), runs=runs))


def stages(*seconds: float) -> list[Stage]:
    names = page.STAGES[view.PREPARE]
    return [
        Stage(name=name, state="success", seconds=spent, tasks=1, failed=0)
        for name, spent in zip(names, seconds, strict=False)
    ]


def test_names_from_files_cannot_become_markup(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path)
    evil = "<script>alert(1)</script>\"'onload=x"

    def poison(document: Any) -> None:
        document[evil] = document.pop(next(iter(document)))
        document[evil]["images"][0]["version"] = evil
        document[evil]["images"][0]["sha256"] = evil

    edit_metadata(mirror, poison)
    fail(mirror, "x.img", evil)
    html = rendered(tmp_path, run("success", did=evil))
    found = Elements(html)
    assert [tag for tag, _ in found.found if tag == "script"] == ["script"]
    assert not [attrs for _, attrs in found.found if any(a.startswith("on") for a in attrs)]
    assert evil in found.text


def test_nothing_comes_from_another_host_and_no_style_is_inline(tmp_path: Path) -> None:
    make_mirror(tmp_path)
    html = rendered(tmp_path, run("success", stages=stages(1, 2)))
    for tag, attributes in Elements(html).found:
        assert "style" not in attributes, tag
        for name in ("src", "href"):
            assert "//" not in (attributes.get(name) or ""), tag
    for static in page.STATIC.iterdir():
        text = static.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(", text), static


def test_an_empty_repository_says_how_to_begin(tmp_path: Path) -> None:
    text = Elements(rendered(tmp_path / "missing")).text
    assert "There is no such folder yet" in text
    assert "offers no image yet" in text
    assert "No run yet" in text


def test_the_matrix_tells_what_a_client_fetches(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path, images=3, share=0.1)
    names = image_names(0, 3)

    def drop(document: Any) -> None:
        for content in document.values():
            content["images"][-1]["diffs"].pop()
            content["images"][-1]["diffs"][0]["version"] = "20010101000000"

    edit_metadata(mirror, drop)
    too_large(mirror, rdiff_name(names[1], names[2]), IMAGE_SIZE)
    series = view.repository(Reader(tmp_path).read()).series[0]
    table = page.matrix(series)
    assert [target.version for target in table["targets"]] == [i.version for i in series.images]
    rows = {image.version: dict_of(cells) for image, cells in table["rows"]}
    assert rows["20200101120000"] == {
        "20200101120000": None,
        "20200201120000": "offered",
        "20200301120000": None,
    }
    assert rows["20200201120000"]["20200301120000"] == "too large"
    ((stranger, cells),) = table["strangers"]
    assert stranger == "20010101000000"
    assert dict_of(cells)["20200301120000"] == "offered"
    text = Elements(rendered(tmp_path)).text
    assert "400.0 MB10.0%" in text
    assert "not in this series" in text
    assert "too large" in text


def dict_of(cells: Any) -> dict[str, str | None]:
    return {target.version: rdiff and rdiff.state.value for target, rdiff in cells}


def test_figures_stay_in_their_frames(tmp_path: Path) -> None:
    make_mirror(tmp_path, series=3, images=5, share=0.2)
    found = view.repository(Reader(tmp_path).read())
    names = page.STAGES[view.PREPARE]
    runs = [run("success", hours=n, stages=stages(3, 1, n)) for n in range(30)]
    drawn = [
        figures.sizes_over_time(found.series),
        figures.savings(found.series),
        figures.durations(runs, names),
        figures.timeline(found.series[0]),
    ]
    for figure in drawn:
        assert figure is not None
        for mark in figure.marks:
            assert 0 <= mark.x <= mark.x + mark.width <= figures.WIDTH
            assert 0 <= round(mark.y, 1) <= mark.y + mark.height <= figure.height + 0.1


def test_a_column_is_as_high_as_its_run_was_long(tmp_path: Path) -> None:
    names = page.STAGES[view.PREPARE]
    figure = figures.durations([run("success", stages=stages(50, 150))], names)
    assert figure is not None
    first, second = figure.marks
    assert second.height == 3 * first.height
    assert second.y + second.height == first.y or abs(second.y + second.height - first.y) < 0.2
    assert figures.durations([run("running")], names) is None


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


def test_a_run_shows_its_plan_its_report_or_that_there_is_none_yet(tmp_path: Path) -> None:
    plan = {
        "series": {},
        "fingerprints": ["new.img"],
        "rdiffs": {"present": ["a"], "too large": [], "missing": ["b.rdiff"], "waiting": []},
        "stale": ["old.img"],
        "failures": [{"message": "bad.img: <b>no</b> image"}],
        "space_needed": 5,
        "space_free": 10**9,
    }
    shown = Elements(page.render_run("dag", "run", {"plan": plan})).text
    for text in ("What this run would do", "new.img", "b.rdiff", "old.img", "<b>no</b> image"):
        assert text in shown
    report = {
        "images_read": 3,
        "rdiffs_made": 2,
        "bytes_read": 5_000_000,
        "seconds": 61.0,
        "rdiffs": [],
        "removed": ["gone.img"],
        "notes": ["something to know"],
        "failures": [{"message": "bad.img: no image"}],
        "series": [
            {
                "name": "puavo-os-x",
                "images": 2,
                "newest": "new.img",
                "newest_size": 5,
                "rdiffs": 2,
                "update": None,
                "saving": 0.0,
            }
        ],
    }
    shown = Elements(page.render_run("dag", "run", {"report": report})).text
    for text in ("3 images read", "gone.img", "something to know", "bad.img: no image", "whole"):
        assert text in shown
    published = PublishReport(
        "file:///mirror", plan=["upload x"], uploaded={"y": 5}, waiting_for={"meta/s.json": ["x"]}
    )
    shown = Elements(page.render_run("dag", "run", {"published": [published.to_dict()]})).text
    for text in ("file:///mirror", "upload x", "1 file sent", "meta/s.json waits for x"):
        assert text in shown
    shown = Elements(page.render_run("dag", "run", {"published": []})).text
    assert "PUAVO_REPOSITORY_REMOTE" in shown
    stepped = {
        "target": "file:///mirror",
        "generation": 9,
        "restored": 7,
        "documents": ["meta/s.json"],
        "rejected": ["bad.img"],
    }
    shown = Elements(page.render_run("dag", "run", {"rolled_back": [stepped]})).text
    for text in ("Generation 9", "generation 7 again", "meta/s.json", "bad.img"):
        assert text in shown
    step = {"number": 8, "at": 1_790_000_000, "newest": {"s": "20260101120000"}, "missing": 0}
    older = {**step, "number": 7, "missing": 3}
    found = {"target": "file:///mirror", "steps": [step, older]}
    shown = Elements(page.render_run("dag", "run", {"rolled_back": [found]})).text
    for text in ("2026-09-21", "s 2026-01-01 12:00", "clients see it", "3 are gone"):
        assert text in shown
    stray = Finding(Severity.WARNING, "local", "<i>.bin", "is described by nothing")
    report = audited(make_mirror(tmp_path), stray, repaired=(stray,)).to_dict()
    shown = Elements(page.render_run("dag", "run", {"audit": report})).text
    for text in ("1 finding", "<i>.bin", "the canary flew", "number 7", "1 repaired"):
        assert text in shown
    nothing = Elements(page.render_run("dag", "<run>", None)).text
    assert "Nothing to show" in nothing
    assert "<run>" in nothing
