"""The page in a real browser: what changes leaves alone what a person is at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By

from puavo_repository.mirror.mirror import Mirror
from puavo_repository.web import page
from puavo_repository.web.model import PUBLISH, State
from support.browser import Browser
from web import samples
from web.mirrors import fail, image_names, make_mirror
from web.samples import PROBLEMS, remote
from web.site import Site

UP_TO_DATE = State.UP_TO_DATE


def answers(chromium: Browser) -> str:
    """Return what buttons were answered."""
    return " ".join(one.text for one in chromium.driver.find_elements(By.CSS_SELECTOR, ".answer"))


def test_what_a_person_is_at_stays_while_the_page_changes(chromium: Browser, site: Site) -> None:
    """Focus, a text half written, what is open, what is loaded, and where the page stands."""
    make_mirror(site.root, series=5)
    site.show(samples.good(site.root))
    script = chromium.driver.execute_script
    with site.up():
        chromium.driver.get(site.url)
        rows = chromium.driver.find_elements(By.CSS_SELECTOR, "details.series")
        rows[1].find_element(By.TAG_NAME, "summary").click()
        chromium.find(".part table")
        chromium.find("#older summary").click()
        chromium.find("#search").send_keys("class0")
        script("window.was = document.activeElement; scrollTo(0, 400)")
        where = script("return document.querySelector('#search').getBoundingClientRect().top")
        site.show(samples.good(site.root, ok=False, status="2 problems", problems=PROBLEMS))
        chromium.find("#problems", "not a squashfs image")
        assert script("return window.was === document.activeElement && window.was.id") == "search"
        assert script("return document.querySelector('#search').value") == "class0"
        assert rows[1].get_attribute("open")
        assert rows[1].find_element(By.CSS_SELECTOR, ".part table").is_displayed()
        now = script("return document.querySelector('#search').getBoundingClientRect().top")
        assert abs(now - where) < 2


def test_a_click_reaches_the_button_that_was_pressed(chromium: Browser, site: Site) -> None:
    first = samples.good(site.root, remotes=[remote("www", UP_TO_DATE)])
    more = samples.good(
        site.root, remotes=[remote("backup", UP_TO_DATE), remote("www", UP_TO_DATE)]
    )
    site.show(first)
    with site.up():
        chromium.driver.get(site.url)
        ActionChains(chromium.driver).click_and_hold(
            chromium.find("#mirrors button", "Publish")
        ).perform()
        site.show(more)
        chromium.driver.execute_async_script("setTimeout(arguments[0], 900)")
        ActionChains(chromium.driver).release().perform()
        chromium.until(lambda: site.asked != [])
        chromium.find("#mirrors", "backup")
    assert site.asked[0][1] == f"dags/{PUBLISH}/dagRuns"


def test_a_change_is_said_once_to_who_cannot_see_it(chromium: Browser, site: Site) -> None:
    site.show(samples.good(site.root))
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        script = chromium.driver.execute_script
        script(
            "window.said = []; new MutationObserver(() => said.push(document.getElementById('said')"
            ".textContent)).observe(document.getElementById('said'), {childList: true})"
        )
        site.show(samples.busy(site.root))
        chromium.find("#night", "Preparing now")
        chromium.driver.execute_async_script("setTimeout(arguments[0], 700)")
        (text,) = script("return window.said")
    assert "1 mirror is not up to date yet" in text
    assert "www: publishing" in text
    assert "%" not in text, "how far it is would be said again and again"


def test_it_asks_more_often_while_something_runs(
    chromium: Browser, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "REFRESH", 3600)
    monkeypatch.setattr(page, "SOON", 0.3)
    site.show(samples.busy(site.root))
    with site.up():
        chromium.driver.get(site.url)
        chromium.find("#night", "diff: 3 of 9, about 2 min left")
        chromium.find("#mirrors progress")
        site.show(samples.good(site.root))
        chromium.find("#night", "success")


def test_a_start_is_asked_for_once(chromium: Browser, site: Site) -> None:
    """In two windows, by two people: what comes second is told so."""
    site.show(samples.good(site.root))
    with site.up():
        chromium.driver.get(site.url)
        chromium.find("button", "Prepare now").click()
        chromium.until(lambda: "Started." in answers(chromium))
        chromium.find("button", "Prepare now").click()
        chromium.until(lambda: "Not started: somebody else" in answers(chromium))
        ((method, path, body),) = site.asked
        assert (method, path) == ("POST", "dags/puavo_repository_prepare/dagRuns")
        assert body == {"dag_run_id": body["dag_run_id"], "logical_date": None, "conf": {}}
        site.show(samples.busy(site.root))
        chromium.find("button[aria-disabled]", "Preparing…").click()
        site.refuse = 403
        chromium.find("button", "Send a test alert").click()
        chromium.until(lambda: "You may not do this" in answers(chromium))
    assert len(site.asked) == 1


def test_a_mirror_is_published_again_only_after_a_yes(chromium: Browser, site: Site) -> None:
    bad = samples.bad(site.root)
    site.show(bad)
    with site.up():
        chromium.driver.get(site.url)
        school = chromium.find(".mirror", "school")
        for choice in ("Cancel", "Publish it again"):
            school.find_element(By.XPATH, ".//button[.='Publish it again']").click()
            chromium.find("#confirm", "Clients of school will see again")
            chromium.find("#confirm button", choice).click()
            chromium.gone("#confirm")
        chromium.until(lambda: "Started." in answers(chromium))
        chromium.find("#problems button", "Retry").click()
        chromium.until(lambda: "tried again" in answers(chromium))
        chromium.find("button", "Resume").click()
        chromium.until(lambda: "Resumed" in answers(chromium))
    (_, _, again), (_, retried, tasks), (method, resumed, paused) = site.asked
    assert again["conf"] == {"allow_rolled_back": True, "mirrors": ["school"]}
    assert retried.endswith("prepare/clearTaskInstances")
    assert tasks["task_ids"] == [["fingerprint", 2]]
    assert tasks["dry_run"] is False
    assert (method, resumed, paused) == ("PATCH", f"dags/{PUBLISH}", {"is_paused": False})


def test_the_plan_of_a_dry_run_opens(chromium: Browser, site: Site) -> None:
    site.show(samples.good(site.root))
    with site.up():
        chromium.driver.get(site.url)
        chromium.find(".mirror button", "Dry run").click()
        chromium.wait("Nothing to show yet")
        (_, _, body) = site.asked[0]
        assert body["conf"] == {"dry_run": True, "mirrors": ["www"]}
        assert f"run_id={body['dag_run_id']}" in chromium.driver.current_url
        chromium.find("a", "Puavo repository").click()
        chromium.find(".mirror button", "Audit").click()
        assert "runs/?dag_id" in (
            chromium.find(".answer a", "Its report").get_attribute("href") or ""
        )


def test_series_are_found_and_sorted_and_stay_so(chromium: Browser, site: Site) -> None:
    def shown() -> list[str]:
        rows = chromium.driver.find_elements(By.CSS_SELECTOR, "details.series .name")
        return [row.text[14:16] for row in rows if row.is_displayed()]

    def choose(what: str, option: str) -> None:
        chromium.find(f"#{what} option[value={option}]").click()

    make_mirror(site.root, series=5)
    found = samples.good(site.root)
    series = [
        one.model_copy(update={"update": None if n == 3 else 100 * (n % 3)})
        for n, one in enumerate(found.series)
    ]
    site.show(found.model_copy(update={"series": series}))
    with site.up():
        chromium.driver.get(site.url)
        chromium.find("#tools")
        assert shown() == ["00", "01", "02", "03", "04"]
        choose("sort", "update")
        assert shown() == ["03", "02", "01", "04", "00"]
        choose("filter", "whole")
        assert shown() == ["03"]
        chromium.find("#found", "1 of 5")
        site.show(found.model_copy(update={"series": series[1:]}))  # and now it is the 1st of 4
        chromium.find("#found", "1 of 4")
        choose("filter", "problem")
        assert shown() == []
        chromium.driver.execute_script("document.getElementById('filter').value = ''")
        chromium.find("#search").send_keys("CLASS04")
        assert shown() == ["04"]


def test_a_digest_and_the_lines_of_clients_are_copied(chromium: Browser, tmp_path: Path) -> None:
    site = Site(tmp_path)
    make_mirror(tmp_path, images=2)
    found = samples.good(tmp_path)
    site.show(found)
    with site.up():
        chromium.driver.get(site.url)  # the only series is open
        button: Any = chromium.find("button[data-copy]", "sha512")
        assert len(button.get_attribute("data-copy")) == 128
        button.click()
        chromium.find("button.done", "sha512")
    lines = page.client_lines(found.series[0].name, "https://images.example.org/")
    assert json.loads(lines["puavo.image.servers"]) == "images.example.org"
    urls = json.loads(json.loads(lines["puavo.image.series.urls"]))
    assert urls == [f"https://images.example.org/meta/{found.series[0].name}.json"]


def test_a_new_version_of_the_program_is_loaded(
    chromium: Browser, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site.up():
        chromium.driver.get(site.url)
        chromium.wait("Everything is up to date")
        chromium.driver.execute_script("window.old = true")
        monkeypatch.setitem(page.FILES, "page.css", page.FILES["page.css"] + b"main { color: red }")
        fail(Mirror(site.root), image_names(0, 1)[0], "broken. Copy it again")
        chromium.until(lambda: not chromium.driver.execute_script("return window.old"))
        assert "rgb(255, 0, 0)" in chromium.colour("main", "color").replace("rgba", "rgb").replace(
            ", 1)", ")"
        )
