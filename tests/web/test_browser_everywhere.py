"""The page in a real browser: for everybody, in light and dark, on a phone and on a wall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from puavo_repository.web import page
from support.browser import Browser
from web import samples
from web.mirrors import make_mirror
from web.site import Site


def resized(chromium: Browser, width: int) -> None:
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    chromium.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.mark.alike(2)
@pytest.mark.parametrize("state", samples.STATES)
def test_nothing_is_in_anybodys_way(chromium: Browser, tmp_path: Path, state: str) -> None:
    """By WCAG 2.2 AA, as far as axe-core can tell, with all that can be opened open."""
    site = Site(tmp_path)
    make_mirror(tmp_path, series=2, images=3)
    site.show(samples.STATES[state](tmp_path))
    with site.up():
        chromium.driver.get(site.url)
        chromium.driver.execute_script(
            "for (const one of document.querySelectorAll('details')) one.open = true"
        )
        if state != "nothing":
            chromium.find(".part .clients")
        assert chromium.barriers() == []
        chromium.driver.execute_script("document.documentElement.classList.add('dark')")
        assert chromium.barriers() == []
        assert chromium.hosts() == {site.url.split("/")[2]}
        assert chromium.complaints() == []


def test_nor_on_the_other_pages(chromium: Browser, site: Site) -> None:
    found = samples.bad(site.root)
    site.show(found)
    with site.up():
        for path in (
            f"series/{found.series[0].name}/",
            "runs/?dag_id=d&run_id=r",
            "rdiffs/no.rdiff",
        ):
            chromium.driver.get(site.url + path)
            chromium.find("h1")
            assert chromium.barriers() == [], path
        chromium.driver.get(site.url)
        chromium.find("button", "Publish it again").click()
        assert chromium.barriers() == [], "a question"
    chromium.find("#stale", "connection lost")
    assert chromium.barriers() == []


def test_it_fits_on_a_phone_and_on_a_wall(chromium: Browser, tmp_path: Path) -> None:
    site = Site(tmp_path)
    found = samples.bad(tmp_path)
    long = found.summary.problems[0].model_copy(update={"message": f"(expected {64 * '4f'})"})
    summary = found.summary.model_copy(update={"problems": [long, *found.summary.problems]})
    site.show(found.model_copy(update={"summary": summary}))
    script = chromium.driver.execute_script
    try:
        with site.up():
            for width in (390, 768, 1280, 2560):
                resized(chromium, width)
                chromium.driver.get(site.url)
                script("for (const one of document.querySelectorAll('details')) one.open = true")
                chromium.find(".part table")
                assert script("return innerWidth") == width
                page_width = script("return document.documentElement.scrollWidth")
                assert page_width == script("return document.documentElement.clientWidth"), width
                if width == 390:
                    moved = script(
                        "const box = document.querySelector('.part .scroll'); box.scrollLeft = 200;"
                        "const cell = box.querySelector('tbody th');"
                        "return [box.scrollLeft, cell.getBoundingClientRect().left"
                        " - box.getBoundingClientRect().left]"
                    )
                    assert moved == [200, 0], "the first column stays in sight"
    finally:
        chromium.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_all_of_it_can_be_done_with_the_keyboard(chromium: Browser, site: Site) -> None:
    site.show(samples.good(site.root))
    with site.up():
        chromium.driver.get(site.url)
        focus = chromium.driver.switch_to

        def press(key: str) -> Any:
            focus.active_element.send_keys(key)
            return focus.active_element

        skip = press(Keys.TAB)
        assert skip.text == "Skip to the content"
        assert skip.location["y"] >= 0
        assert (
            press(Keys.ENTER).get_attribute("id") == "page"
            or press("").get_attribute("id") == "page"
        )
        order = []
        for _ in range(16):
            one = press(Keys.TAB)
            order.append(one.text)
            assert one.value_of_css_property("outline-style") == "solid", one.text
        assert order[:2] == ["Prepare with options", "Prepare now"]
        assert order[10:15] == [
            "https://www.images.example/",
            "Publish",
            "Dry run",
            "Audit",
            "Roll back…",
        ]
        chromium.find(".part table")  # the only series is open
        chromium.driver.execute_script("document.querySelector('details.series summary').focus()")
        press(Keys.ENTER)
        chromium.gone(".part table")


def test_an_answer_has_its_place_before_it_comes(chromium: Browser, site: Site) -> None:
    """A screen reader tells what changes in a place that it knows, and not what is new there."""
    site.show(samples.good(site.root))
    with site.up():
        chromium.driver.get(site.url)
        chromium.find("#prepare")
        nodes = chromium.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        known = [one for one in nodes if one.get("role", {}).get("value") == "status"]
        places = chromium.driver.find_elements(By.CSS_SELECTOR, "[role=status]")
    assert len(known) == len(places)


def test_moments_are_the_readers_own(chromium: Browser, site: Site) -> None:
    chromium.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})
    try:
        site.show(samples.good(site.root))
        with site.up():
            chromium.driver.get(site.url)
            clock = chromium.find("#tonight time[data-show=clock]", "10:30")
            assert "01:30 UTC" in (clock.get_attribute("title") or "")
            assert (clock.get_attribute("datetime") or "").endswith("+00:00")
    finally:
        chromium.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def test_a_large_mirror_opens_where_asked_and_its_page_stays_small(
    chromium: Browser, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    found = samples.good(tmp_path, series=40, images=10)
    assert len(page.render(found)) < 250_000
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("400 images")
        rows = chromium.driver.find_elements(By.CSS_SELECTOR, "details.series")
        assert len(rows) == 40
        rows[-1].find_element(By.TAG_NAME, "summary").click()
        chromium.find(".part table")
        cells = rows[-1].find_elements(By.CSS_SELECTOR, "td[class*=heat-]")
        assert len(cells) == 90
        link = cells[0].find_element(By.TAG_NAME, "a").get_attribute("href") or ""
        assert link.startswith(f"{site.url}rdiffs/")


def test_an_empty_repository_says_how_to_begin(chromium: Browser, tmp_path: Path) -> None:
    site = Site(tmp_path / "missing")
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("There is no such folder yet")
        chromium.find("button", "Prepare now").click()
        chromium.until(lambda: site.asked != [])
    assert site.asked[0][1] == "dags/puavo_repository_prepare/dagRuns"
