"""The page in a real browser: themes, a large mirror, copying, starting a run, other hosts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from selenium.webdriver.common.by import By

from puavo_repository.mirror.mirror import Mirror
from puavo_repository.web import page
from puavo_repository.web.app import create_app
from support.browser import Browser, browser
from web.mirrors import fail, image_names, make_mirror
from web.test_app import document, known


@dataclass
class Site:
    """The page of a mirror at the place that it has in Airflow, and what becomes of its server."""

    root: Path
    started: list[str] = field(default_factory=list)
    answer: Response | None = None  # in the place of the page
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/puavo-repository/"

    def app(self) -> FastAPI:
        outer = FastAPI()

        @outer.post("/api/v2/dags/{dag_id}/dagRuns")
        def start(dag_id: str) -> dict[str, str]:
            self.started.append(dag_id)
            return {}

        @outer.middleware("http")
        async def maybe(request: Request, call_next: Any) -> Response:
            path = request.url.path
            if self.answer is not None and path == "/puavo-repository/":
                return self.answer
            found: Response = await call_next(request)
            return found

        app = create_app(lambda: (self.root, ()), [], known, document)
        outer.mount("/puavo-repository", app)
        return outer

    @contextmanager
    def up(self) -> Iterator[None]:
        server = uvicorn.Server(uvicorn.Config(self.app(), port=self.port, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                thread.join(0.05)
            self.port = server.servers[0].sockets[0].getsockname()[1]
            yield
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def served(root: Path) -> Iterator[str]:
    """Serve the page of a mirror; yield its URL."""
    site = Site(root)
    with site.up():
        yield site.url


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
    chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "REFRESH", 0.3)
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
    site = Site(tmp_path / "missing")
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("There is no such folder yet")
        chromium.find("button", "Prepare now").click()
        chromium.find("button", "Started")
    assert site.started == ["puavo_repository_prepare"]


def test_a_digest_is_copied(chromium: Browser, tmp_path: Path) -> None:
    make_mirror(tmp_path, images=2)
    with served(tmp_path) as url:
        chromium.driver.get(url)
        button: Any = chromium.find("button[data-copy]", "sha512")
        digest = button.get_attribute("data-copy")
        assert len(digest) == 128
        button.click()
        chromium.find("button.done", "sha512")


@pytest.fixture
def site(chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return the page of a good mirror, that asks several times a second."""
    monkeypatch.setattr(page, "REFRESH", 0.3)
    make_mirror(tmp_path)
    return Site(tmp_path)


def is_green(chromium: Browser) -> bool:
    """Tell whether the page shows a state that is good, and known to be so now."""
    card = chromium.find("#right")
    kinds = card.get_attribute("class") or ""
    stale = "stale" in (chromium.find("html").get_attribute("class") or "")
    return "good" in kinds and not stale


def test_a_lost_connection_is_said_at_once_and_over_when_it_is_back(
    chromium: Browser, site: Site
) -> None:
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        assert is_green(chromium)
        assert chromium.driver.title == "Puavo repository: Everything is up to date"
    said = chromium.find("#stale", "connection lost").text
    assert said.startswith("As of ")
    assert not is_green(chromium)
    assert "connection lost" in chromium.driver.title
    icon = chromium.driver.find_element(By.CSS_SELECTOR, "link[rel=icon]")
    assert "unknown" in (icon.get_attribute("href") or "")
    with site.up():
        chromium.gone("#stale")
        assert is_green(chromium)
        assert chromium.driver.title == "Puavo repository: Everything is up to date"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Response(status_code=401), "logged out"),
        (RedirectResponse("https://login.example/"), "logged out"),
        (HTMLResponse("<main>Who are you?</main>"), "logged out"),
        (Response(status_code=403), "no permission"),
        (Response(status_code=500), "the server answers 500"),
    ],
)
def test_a_logout_is_said_and_the_old_state_is_not_shown_as_new(
    chromium: Browser, site: Site, answer: Response, said: str
) -> None:
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        site.answer = answer
        assert said in chromium.find("#stale", "As of ").text
        assert not is_green(chromium)
        assert "Everything is up to date" in chromium.find("#right").text, "as it was then"
        site.answer = None
        chromium.gone("#stale")
        assert is_green(chromium)


def test_a_page_that_gets_no_answer_at_all_gets_old(chromium: Browser, site: Site) -> None:
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        chromium.driver.execute_script("window.fetch = () => new Promise(() => {})")
        chromium.find("#stale", "no answer")
        assert not is_green(chromium)


def test_a_background_tab_follows_and_says_so_in_its_title(chromium: Browser, site: Site) -> None:
    def title() -> str:
        """Return the title of the tab in the background, without bringing it to the front."""
        targets = chromium.driver.execute_cdp_cmd("Target.getTargets", {})["targetInfos"]
        (found,) = (one["title"] for one in targets if one["url"] == site.url)
        return str(found)

    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        chromium.driver.execute_script(
            "document.addEventListener('visibilitychange', () => window.was ??= document.hidden)"
        )
        first = chromium.driver.current_window_handle
        chromium.driver.switch_to.new_window("tab")
        fail(Mirror(site.root), image_names(0, 1)[0], "broken. Copy it again")
        chromium.until(lambda: title() == "Puavo repository: 1 problem")
    chromium.until(lambda: "connection lost" in title())
    chromium.driver.close()
    chromium.driver.switch_to.window(first)
    assert chromium.driver.execute_script("return window.was"), "it was hidden meanwhile"
    assert not is_green(chromium)


def test_a_tab_that_comes_to_the_front_is_refreshed_at_once(
    chromium: Browser, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "REFRESH", 3600)
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        first = chromium.driver.current_window_handle
        chromium.driver.switch_to.new_window("tab")
        fail(Mirror(site.root), image_names(0, 1)[0], "broken. Copy it again")
        chromium.driver.close()
        chromium.driver.switch_to.window(first)
        chromium.find("#right", "1 problem")
