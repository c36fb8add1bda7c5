"""The page: everything escaped, nothing from elsewhere, figures inside their frames."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.formats.names import rdiff_name
from puavo_repository.language import NAMES, spoken
from puavo_repository.web import model, page, view
from puavo_repository.web.disk import Reader
from puavo_repository.web.model import AUDIT, DRY_RUN, PREPARE, Repository, Stage
from web import samples
from web.mirrors import (
    IMAGE_SIZE,
    edit_metadata,
    fail,
    image_names,
    make_mirror,
    too_large,
)
from web.samples import PROBLEMS
from web.test_view import NIGHT, run

STAGES = ["discover", "configure", "dry_run", "plan", "fingerprint", "pairs", "diff", "describe"]


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
    return [
        Stage(name=name, state="success", seconds=spent, tasks=1, failed=0)
        for name, spent in zip(STAGES, seconds, strict=False)
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
    scripts = [attributes for tag, attributes in found.found if tag == "script"]
    assert all(set(one) in ({"src", "defer"}, {"type", "id"}) for one in scripts)
    assert not [attrs for _, attrs in found.found if any(a.startswith("on") for a in attrs)]
    assert evil in found.text


def test_nothing_comes_from_another_host_and_no_style_is_inline(tmp_path: Path) -> None:
    make_mirror(tmp_path)
    html = rendered(tmp_path, run("success", stages=stages(1, 2)))
    for tag, attributes in Elements(html).found:
        assert "style" not in attributes, tag
        assert "//" not in (attributes.get("src") or ""), tag
        assert tag == "a" or "//" not in (attributes.get("href") or ""), "a link loads nothing"
    for static in page.STATIC.iterdir():
        text = re.sub(r"http://www\.w3\.org/(2000/svg|1999/xhtml)", "", static.read_text())
        assert not re.search(r"https?://|@import|url\(", text), static


def test_an_empty_repository_says_how_to_begin(tmp_path: Path) -> None:
    text = Elements(rendered(tmp_path / "missing")).text
    assert "There is no such folder yet" in text
    assert "offers no image yet" in text
    assert "No run yet" in text


@pytest.mark.parametrize("name", NAMES)
def test_what_is_good_looks_so_in_every_language(tmp_path: Path, name: str) -> None:
    make_mirror(tmp_path)
    with spoken(name):
        found = Elements(rendered(tmp_path)).found
    assert [a["class"] for _, a in found if a.get("id") == "right"] == ["card good state"]


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
    assert states_from(table, "20200101120000") == {
        "20200101120000": None,
        "20200201120000": "offered",
        "20200301120000": None,
    }
    assert states_from(table, "20200201120000")["20200301120000"] == "too large"
    (stranger,) = table["strangers"]
    assert stranger == "20010101000000"
    assert states_from(table, stranger)["20200301120000"] == "offered"
    found = view.repository(Reader(tmp_path).read())
    text = Elements(page.render_series(found.series[0], found)).text
    assert "400.0 MB10.0%" in text
    assert "not in this series" in text
    assert "too large" in text


def states_from(table: Any, source: str) -> dict[str, str | None]:
    """Return what leads from one version to each target."""
    found = {t.version: table["rdiffs"].get((source, t.version)) for t in table["targets"]}
    return {target: rdiff and rdiff.state.value for target, rdiff in found.items()}


def test_a_run_shows_its_plan_its_report_or_that_there_is_none_yet() -> None:
    plan = {
        "did": DRY_RUN,
        "sections": [
            ["", ["1 to read"]],
            ["Problems", ["bad.img: <b>no</b> image"]],
            ["Files to remove", ["old.img"]],
        ],
    }
    shown = Elements(page.render_run("dag", "run", {"summary": plan})).text
    for text in ("What this run would do", "1 to read", "old.img", "<b>no</b> image"):
        assert text in shown
    report = {"did": "1 file to 1 mirror", "sections": [["file:///mirror", ["1 file sent"]]]}
    found = {"summary": report, "failure": ["file:///mirror: <i>is full"]}
    shown = Elements(page.render_run("dag", "run", found)).text
    for text in ("What this run did", "file:///mirror", "1 file sent", "1 failure", "<i>is full"):
        assert text in shown
    nothing = Elements(page.render_run("dag", "<run>", {})).text
    assert "Nothing to show" in nothing
    assert "<run>" in nothing


def test_what_others_wrote_is_as_they_gave_it() -> None:
    said, _, library = (page.STATIC / "idiomorph.min.js").read_text().partition("\n")
    assert hashlib.sha256(library.encode()).hexdigest() in said


def test_the_id_of_the_next_run_is_the_same_for_all_who_see_the_same() -> None:
    night = run("success").model_copy(update={"run_id": "scheduled__2026-01-02T01:30:00+00:00/Ä"})
    first = page.next_run_id([night], PREPARE)
    assert first == "page__1__after_scheduled__2026-01-02T01:30:00+00:00--"
    again = night.model_copy(update={"run_id": first})
    assert page.next_run_id([again, night], PREPARE) == first.replace("__1__", "__2__")
    assert page.next_run_id([again, night], AUDIT) == "page__1__after_none"
    long = night.model_copy(update={"run_id": "x" * 250})
    assert len(page.next_run_id([long], PREPARE)) < 200


def test_a_test_alert_may_be_sent_again_and_again(tmp_path: Path) -> None:
    """The page does not show its runs, so it knows of no last one."""
    make_mirror(tmp_path, images=1)
    buttons = Elements(page.render(samples.good(tmp_path))).found
    bodies = {a["id"]: json.loads(a["data-body"] or "") for _, a in buttons if "data-body" in a}
    assert "dag_run_id" not in bodies["test-alert"]
    assert "dag_run_id" in bodies["prepare"]


@pytest.mark.parametrize(
    ("free", "said"),
    [
        ([800, 790], None),
        ([800, 790, 780, 770, 760, 750, 740, 730], "lasts about 73 days"),
        ([800] * 8, "does not get less"),
        ([100_000, *[99_999] * 8], None),  # for a hundred years
    ],
)
def test_of_a_disk_is_said_what_is_known(tmp_path: Path, free: list[int], said: str | None) -> None:
    found, days = samples.good(tmp_path), [f"2026-11-{day:02}" for day in range(1, 31)]
    space = model.Space.left(dict(zip(days, free, strict=False)))
    summary = found.summary.model_copy(update={"space": space, "remotes": []})
    text = Elements(page.render(found.model_copy(update={"summary": summary}))).text
    assert [one for one in ("lasts about", "does not get less") if one in text] == [
        one for one in ("lasts about", "does not get less") if said and said.startswith(one)
    ]
    assert said is None or said in text


@pytest.mark.parametrize("more", [{"progress": [samples.sending()]}, {"active": {PREPARE: "r"}}])
def test_it_asks_more_often_while_something_goes_on(tmp_path: Path, more: Any) -> None:
    def often(html: str) -> float:
        (main,) = (attrs for tag, attrs in Elements(html).found if tag == "main")
        return float(main["data-refresh"] or 0)

    assert often(page.render(samples.good(tmp_path))) == page.REFRESH
    assert often(page.render(samples.good(tmp_path, **more))) == page.SOON


def test_what_is_not_known_of_settings_and_schedule_is_not_made_up(tmp_path: Path) -> None:
    found = samples.good(tmp_path)

    def text(**more: object) -> str:
        summary = found.summary.model_copy(update=more)
        return page.render(found.model_copy(update={"summary": summary}))

    assert "Not known: the settings cannot be read." in text(alerts=None)
    assert "none: by hand alone" in text(schedule="")
    assert "none: by hand alone" not in text(schedule=None)
    assert "<dt>Schedule</dt><dd>unknown</dd>" in text(schedule=None)


def test_what_would_do_nothing_is_not_offered(tmp_path: Path) -> None:
    make_mirror(tmp_path, images=1)

    def buttons(found: Repository) -> set[str | None]:
        return {a.get("id") for tag, a in Elements(page.render(found)).found if tag == "button"}

    alerts, sound = samples.good(tmp_path), {"test-alert", "audit-all"}
    assert sound <= buttons(alerts)
    assert "repair" not in buttons(alerts)
    nobody = model.Alerts(ways=[], last=None, subject="", problem="")
    changed = {"alerts": nobody, "audit": samples.bad(tmp_path).summary.audit}
    summary = alerts.summary.model_copy(update=changed)
    found = buttons(alerts.model_copy(update={"summary": summary}))
    assert "test-alert" not in found, "nobody would get it"
    assert "repair" in found


@pytest.mark.parametrize(
    ("cron", "kind", "at"),
    [
        ("30 1 * * *", "day", "2026-01-02 01:30"),
        ("0 12 * * 0", "week", "2026-01-04 12:00"),
        ("0 12 * * 5", "week", "2026-01-02 12:00"),
    ],
)
def test_a_usual_schedule_is_told_in_words(cron: str, kind: str, at: str) -> None:
    found = page.rhythm(cron, NIGHT)
    assert found is not None
    assert (found[0], f"{found[1]:%Y-%m-%d %H:%M}") == (kind, at)


def test_another_schedule_is_told_as_it_is() -> None:
    assert page.rhythm("*/5 1-3 * * *", NIGHT) is None
    assert page.rhythm("", NIGHT) is None


def test_what_looks_like_a_moment_and_is_none_stays_as_it_is() -> None:
    assert page.told("not read: 2026-13-01 10:00 UTC") == "not read: 2026-13-01 10:00 UTC"
    assert "<time" in page.told("last seen 2026-12-01 10:00 UTC")


def test_a_series_has_a_problem_where_one_of_its_files_has(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path, series=2)
    (mirror.rdiffs / rdiff_name(*image_names(1, 2))).unlink()
    found = view.repository(Reader(tmp_path).read())
    assert [page.troubled(one, []) for one in found.series] == [False, True]
    problem = PROBLEMS[0].model_copy(update={"name": image_names(0, 1)[0]})
    assert page.troubled(found.series[0], [problem])
    assert not page.troubled(found.series[0], PROBLEMS)


def test_a_list_without_end_is_shown_in_part(tmp_path: Path) -> None:
    make_mirror(tmp_path, images=2)
    many = [PROBLEMS[1].model_copy(update={"name": f"m{n}"}) for n in range(page.PROBLEMS + 7)]
    text = Elements(page.render(samples.good(tmp_path, problems=many, ok=False))).text
    assert "57 problems, and what to do" in text
    assert "and 7 more: api/v1/summary has all of them" in text
    assert text.count("Take the bad image out") == page.PROBLEMS
