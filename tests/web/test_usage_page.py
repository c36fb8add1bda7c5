"""What clients fetch, on the page and in the API."""

from __future__ import annotations

import time
from datetime import date, timedelta
from pathlib import Path

from fastapi.testclient import TestClient

from puavo_repository.fleet import usage
from puavo_repository.fleet.history import Share
from puavo_repository.fleet.usage import Day, SeriesUsage, Unused, Usage, Wanted
from puavo_repository.formats.names import rdiff_name
from puavo_repository.web.app import create_app
from puavo_repository.web.disk import Place
from puavo_repository.web.model import Dag, Run
from web.mirrors import image_names, make_mirror
from web.test_app import choices, document, schemas
from web.test_page import Elements

FIRST = date(2025, 6, 1)


def client(root: Path) -> TestClient:
    def nothing() -> tuple[list[Run], list[Dag]]:
        return [], []

    return TestClient(create_app(lambda: Place(root), [], nothing, document, choices, schemas))


def known(series: int, images: int, days: int) -> Usage:
    names = [image_names(number, images) for number in range(series)]
    every = [
        Day((FIRST + timedelta(n)).isoformat(), 10**9 + n, 10**8, 10**7, 5, 10**11, 900 + n)
        for n in range(days)
    ]
    fleet = [
        SeriesUsage(
            "puavo-os-<b>", 1000, tuple(Share(image, 9, 0.1, 0.02, 5) for image in reversed(one))
        )
        for one in names
    ]
    (old, *_, new), last = names[0], every[-1].day
    return Usage(
        usage.NAME,
        last,
        ("a <note>",),
        tuple(every),
        tuple(fleet),
        tuple(Unused(rdiff_name(new, old), 10**7, last) for _ in range(50)),
        10**9,
        tuple(Wanted(old, new, 7, 7 * 10**9) for _ in range(50)),
    )


def test_the_page_and_the_api_show_the_figures(tmp_path: Path) -> None:
    make_mirror(tmp_path, images=2)
    asked = client(tmp_path)
    assert asked.get("/api/v1/usage").status_code == 404
    assert "No log was read yet" in asked.get("/").text
    found = known(1, 7, 30)
    usage.records(tmp_path).put(found)
    html = asked.get("/").text
    page = Elements(html)
    assert "a <note>" in page.text
    assert "puavo-os-<b>" in page.text
    assert "10.0% ± 2.0%" in page.text
    assert "and 2 older" in page.text
    assert "9 of 10 had the newest" in page.text
    assert "30.0 GB in rdiffs" in page.text
    heights = [a["height"] for tag, a in page.within("usage") if tag == "rect" and a.get("x")]
    assert len(heights) == 90
    answer = asked.get("/api/v1/usage").json()
    assert answer["days"][0]["rdiffs"] == 10**9
    assert answer["series"][0]["shares"][0]["off"] == 0.02
    assert asked.get("/api/v1/repository").json()["usage"] == answer
    schema = asked.get("/api/openapi.json").json()["components"]["schemas"]
    assert set(schema["Wanted"]["properties"]) == {"source", "target", "clients", "bytes"}


def test_the_page_with_forty_series_and_a_year_of_usage_is_quick(tmp_path: Path) -> None:
    make_mirror(tmp_path, series=40, images=5)
    usage.records(tmp_path).put(known(40, 20, 366))
    asked, spent = client(tmp_path), []
    asked.get("/")
    for turn in range(4):
        found = known(40, 20, 366 - turn)  # of another fold: nothing that was shown before counts
        usage.records(tmp_path).put(found)
        begin = time.process_time()
        assert f"As of {found.day}" in asked.get("/").text
        spent.append(time.process_time() - begin)
    assert min(spent) < 0.3, spent
