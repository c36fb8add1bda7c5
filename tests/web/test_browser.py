"""The page in a real browser: themes, a large mirror, copying, starting a run, other hosts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from selenium.webdriver.common.by import By

from browser import Browser, browser
from puavo_repository.web.app import Backend, Place, create_app
from web.mirrors import fail, image_names, make_mirror
from web.test_app import dags, document, runs


@contextmanager
def served(root: Path, started: list[str] | None = None) -> Iterator[str]:
    """Serve the page of a mirror at the place that it has in Airflow; yield its URL."""
    outer = FastAPI()

    @outer.post("/api/v2/dags/{dag_id}/dagRuns")
    def start(dag_id: str) -> dict[str, str]:
        assert started is not None
        started.append(dag_id)
        return {}

    outer.mount(
        "/puavo-repository", create_app(Backend(lambda: Place(root), [], runs, dags, document))
    )
    server = uvicorn.Server(uvicorn.Config(outer, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/puavo-repository/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def brightness(colour: str) -> float:
    red, green, blue = (int(part) for part in colour.split("(")[1].strip(")").split(",")[:3])
    return (red + green + blue) / 765


def test_both_themes_can_be_read_and_nothing_else_is_asked(
    chromium: Browser, tmp_path: Path
) -> None:
    make_mirror(tmp_path)
    with served(tmp_path) as url:
        chromium.driver.get(url)
        for theme, dark in (("light", False), ("dark", True)):
            chromium.theme(theme)
            chromium.driver.get(url)
            chromium.wait("Everything is up to date")
            for css in ("body", ".card", "details.series", "td.name", "figcaption"):
                ground = chromium.colour(
                    css if css in ("body", ".card") else "details", "background-color"
                )
                ink = chromium.colour(css, "color")
                assert (brightness(ground) < brightness(ink)) is dark
                assert abs(brightness(ground) - brightness(ink)) > 0.3, css
        assert chromium.hosts() == {url.split("/")[2]}
        assert chromium.complaints() == []


def test_a_large_mirror_is_shown_whole_and_opens_where_asked(
    chromium: Browser, tmp_path: Path
) -> None:
    make_mirror(tmp_path, series=40, images=10)
    with served(tmp_path) as url:
        chromium.driver.get(url)
        chromium.wait("400 images")
        rows = chromium.driver.find_elements(By.CSS_SELECTOR, "details.series")
        assert len(rows) == 40
        cells = rows[-1].find_elements(By.CSS_SELECTOR, "td[class*=heat-]")
        assert len(cells) == 90
        assert not cells[0].is_displayed()
        rows[-1].find_element(By.TAG_NAME, "summary").click()
        assert cells[0].is_displayed()
        # The page as a whole does not scroll sideways, the table in it does.
        assert chromium.driver.execute_script(
            "return document.documentElement.scrollWidth <= window.innerWidth"
        )


def test_what_changes_appears_by_itself_and_leaves_open_what_is_open(
    chromium: Browser, tmp_path: Path
) -> None:
    mirror = make_mirror(tmp_path, series=5)
    with served(tmp_path) as url:
        chromium.driver.get(url)
        chromium.find("details.series:nth-of-type(2) summary").click()
        chromium.wait("Everything is up to date")
        fail(mirror, image_names(0, 1)[0], "<i>broken</i>. Copy it again")
        chromium.find("#problems", "<i>broken</i>")
        assert "Copy it again" in chromium.find("#problems").text
        opened = chromium.driver.find_elements(By.CSS_SELECTOR, "details[open]")
        assert len(opened) == 1


def test_an_empty_repository_and_the_button_that_begins(chromium: Browser, tmp_path: Path) -> None:
    started: list[str] = []
    with served(tmp_path / "missing", started) as url:
        chromium.driver.get(url)
        chromium.wait("There is no such folder yet")
        chromium.find("button", "Prepare now").click()
        chromium.find("button", "Started")
    assert started == ["puavo_repository_prepare"]


def test_a_digest_is_copied(chromium: Browser, tmp_path: Path) -> None:
    make_mirror(tmp_path, images=2)
    with served(tmp_path) as url:
        chromium.driver.get(url)
        button: Any = chromium.find("button[data-copy]", "sha512")
        digest = button.get_attribute("data-copy")
        assert len(digest) == 128
        button.click()
        chromium.find("button.done", "sha512")
