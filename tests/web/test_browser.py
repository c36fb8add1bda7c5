"""The page in a real browser: what it knows, and what it says when it can no longer know."""

from __future__ import annotations

import pytest
from fastapi import Response
from fastapi.responses import HTMLResponse, RedirectResponse

from puavo_repository.mirror.mirror import Mirror
from puavo_repository.web import page
from support.browser import Browser
from web.mirrors import fail, image_names
from web.site import Site


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
    with site.up():
        chromium.gone("#stale")
        assert is_green(chromium)
        assert chromium.driver.title == "Puavo repository: Everything is up to date"


@pytest.mark.alike(2)
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


def test_a_browser_without_network_says_so_before_it_asks(
    chromium: Browser, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "REFRESH", 3600)
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    command = "Network.emulateNetworkConditions"
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        chromium.driver.execute_cdp_cmd("Network.enable", {})
        chromium.driver.execute_cdp_cmd(command, {"offline": True, **network})
        chromium.find("#stale", "connection lost")
        chromium.driver.execute_cdp_cmd(command, {"offline": False, **network})
        chromium.gone("#stale")
