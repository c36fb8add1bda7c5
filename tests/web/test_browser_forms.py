"""The pages on which a run is set up, as a person uses them: a rollback, and options."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.rollback.changes import Change
from puavo_repository.web import page
from puavo_repository.web.model import PREPARE, ROLLBACK
from puavo_repository.web.offered import Choices, Generation, Generations
from support.browser import Browser
from web.mirrors import make_mirror
from web.site import Site

FOUR: dict[str, Any] = {"images": 1, "rdiffs": 3, "images_again": 0, "rdiffs_again": 0}
ONE = Change(series="one", now="20261122120000", then="20261101120000", **FOUR)
TWO = replace(ONE, series="two")


# The shorter what is asked for, the later its answer comes.
OVERTAKING = """
    const real = window.fetch;
    window.answers = 0;
    window.fetch = async (url, ...more) => {
        if (!String(url).includes("folders")) return real(url, ...more);
        window.answers += 1;
        const answer = await real(url, ...more);
        const read = answer.json.bind(answer);
        answer.json = async () => {
            const found = await read();
            await new Promise((resolve) => setTimeout(resolve, 3000 - 20 * url.length));
            setTimeout(() => window.answers -= 1);
            return found;
        };
        return answer;
    };
"""


def generation(number: int, *differences: Change, **more: Any) -> Generation:
    there: dict[str, Any] = {
        "at": datetime(2026, 11, number, tzinfo=UTC),
        "current": False,
        "problem": "",
    }
    return Generation(number=number, differences=list(differences), **{**there, **more})


KEPT = [
    generation(9, current=True),
    generation(8, ONE),
    generation(7, ONE, TWO),
    generation(6, ONE, problem="its metadata is lost"),
]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(page, "REFRESH", 0.3)
    make_mirror(tmp_path)
    return Site(tmp_path, remotes=("www",))


def pick(chromium: Browser, name: str, value: str) -> None:
    chromium.find(f'[name="{name}"][value="{value}"]').click()


def test_a_rollback_is_looked_up_chosen_and_confirmed(chromium: Browser, site: Site) -> None:
    with site.up():
        chromium.driver.get(f"{site.url}rollback/?mirror=www")
        chromium.find("#looking")  # the dry run is asked for by itself
        chromium.until(lambda: "run_id=page__1__after_" in chromium.driver.current_url)
        ((method, path, body),) = site.asked
        assert (method, path) == ("POST", f"dags/{ROLLBACK}/dagRuns")
        assert body["conf"] == {"dry_run": True, "mirrors": ["www"]}
        site.choices = Choices(
            mirrors=[Generations(mirror="www", generations=KEPT, more=2)], failures=[]
        )
        chromium.find("#choose", "Generation 8")
        assert chromium.barriers() == []
        assert not chromium.driver.find_elements("css selector", "#choose :checked"), "by itself"
        go_on = chromium.find("#go-on")
        go_on.click()
        chromium.find(".answer", "Choose a generation")
        assert not chromium.find("[value='6']").is_enabled()
        pick(chromium, "generation", "8")
        go_on.click()
        chromium.find(".answer", "Choose a generation")
        assert not chromium.find("[value='two']").is_enabled(), "it does not differ there"
        pick(chromium, "series", "one")
        go_on.click()
        sure = chromium.find("#sure", "Clients will see generation 8 again").text
        assert "Of 1 series; all others stay as they are." in sure
        assert "not offered any more: 1 image, 3 rdiffs" in sure
        assert chromium.barriers() == []
        assert len(site.asked) == 1
        chromium.find("a", "Choose again").click()
        pick(chromium, "generation", "7")
        pick(chromium, "series", "*")
        chromium.find("#go-on").click()
        chromium.find("#sure", "Of all series.")
        site.asked.clear()  # of another number in Airflow, which this is not
        chromium.find("button", "Roll back now").click()
        chromium.until(lambda: "runs/?dag_id=" in chromium.driver.current_url)
    ((*_, body),) = site.asked
    assert body["conf"] == {"generation": 7, "series": [], "mirrors": ["www"]}


def test_a_mirror_that_has_changed_since_is_looked_up_again(chromium: Browser, site: Site) -> None:
    failed = "www: no answer"
    site.choices = Choices(mirrors=[], failures=[failed])
    with site.up():
        chromium.driver.get(f"{site.url}rollback/?mirror=www&run_id=r")
        chromium.find("#failures", failed)
        chromium.find("button", "Look again")
        assert site.asked == []


def test_options_are_checked_where_they_are_typed(
    chromium: Browser, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = site.root / "srv" / "images"
    images.mkdir(parents=True)
    monkeypatch.setenv("PUAVO_REPOSITORY_IMAGE_DIR", str(images))
    with site.up():
        chromium.driver.get(f"{site.url}options/?dag_id={PREPARE}")
        chromium.find("h1", "Prepare with options")
        assert chromium.barriers() == []
        field = chromium.find("[name=image_dir]")
        assert field.get_attribute("placeholder") == str(images)
        chromium.driver.execute_script(OVERTAKING)
        field.send_keys(f"{images.parent}/i")
        chromium.until(lambda: chromium.driver.execute_script("return window.answers === 0"))
        offered = (
            "return [...document.querySelectorAll('#folders-image_dir option')].map(o => o.value)"
        )
        assert chromium.driver.execute_script(offered) == [str(images)]
        chromium.find("[name=targets]").send_keys("many")
        chromium.find("#start").click()
        chromium.find("#refused-targets", "expected a whole number, 0 or more")
        chromium.find(".actions .answer", "Not started")
        assert chromium.driver.switch_to.active_element.get_attribute("name") == "targets"
        assert chromium.barriers() == []
        assert site.asked == []
        chromium.find("[name=targets]").clear()
        chromium.find("[name=targets]").send_keys("2")
        chromium.find("#start").click()
        chromium.find("#refused-image_dir", "there is no such folder")
        chromium.find("[name=image_dir]").send_keys("mages")
        chromium.find("[name=dry_run]").click()
        chromium.find("#start").click()
        chromium.until(lambda: "runs/?dag_id=" in chromium.driver.current_url)
    ((_, path, body),) = site.asked
    assert path == f"dags/{PREPARE}/dagRuns"
    assert body["conf"] == {"dry_run": True, "image_dir": str(images), "targets": 2}


def test_a_series_is_told_from_one_whose_name_ends_like_it(chromium: Browser, site: Site) -> None:
    other = replace(ONE, series="someone")
    kept = [generation(9, current=True), generation(8, other), generation(7, ONE, other)]
    site.choices = Choices(mirrors=[Generations(mirror="www", generations=kept)], failures=[])
    with site.up():
        chromium.driver.get(f"{site.url}rollback/?mirror=www&run_id=r")
        pick(chromium, "generation", "8")
        assert chromium.find("[value=someone]").is_enabled()
        assert not chromium.find("[value=one]").is_enabled()
        pick(chromium, "generation", "7")
        assert chromium.find("[value=one]").is_enabled()
        pick(chromium, "series", "*")
        assert not chromium.find("[value=one]").is_enabled()
