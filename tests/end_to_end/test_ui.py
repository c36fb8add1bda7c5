"""What a person does in the UI, with a real scheduler and a real browser.

One Airflow serves the whole story, told in order. A morning: log in, find the page, start the first
night with options, see a bad image named while the rest is published, put a good one in its place
and try again from the page. Then: a test alert, an audit that finds something and its repair, a
rollback of one series, and forward again. Who is responsible gets a message of what failed or is
late, by mail and by webhook.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from support.airflow_server import (
    ALERT,
    AUDIT,
    PREPARE,
    PUBLISH,
    ROLLBACK,
    Airflow,
    running_airflow,
)
from support.browser import Browser, browser
from support.repository import AMXA, FREE, V1, V2, V3, Repository, name
from support.sinks import Mail, Webhook, serving, wait_for


@dataclass
class Office:
    """Where messages arrive."""

    mail: Mail = field(default_factory=Mail)
    webhook: Webhook = field(default_factory=Webhook)

    def told(self, event: str, *words: str) -> None:
        """Wait until this was said by mail and by webhook."""

        def arrived() -> bool:
            mails = [f"{subject}\n{text}" for _, subject, text in self.mail.got]
            return all(
                any(event in text and all(word in text for word in words) for text in texts)
                for texts in (mails, self.webhook.texts())
            )

        try:
            wait_for(arrived)
        except AssertionError:
            raise AssertionError((event, words, self.mail.got, self.webhook.got)) from None


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    found = Office()
    with serving(found.mail, found.webhook):
        yield found


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return a repository of two series, and one image that is none."""
    found = Repository(tmp_path_factory.mktemp("repository"))
    for version in (V1, V2):
        found.add(name(version))
    found.add(name(V1, FREE))
    (found.images / name(V3)).write_bytes(b"no image")
    (found.root / "remote").mkdir()
    return found


@pytest.fixture(scope="module")
def airflow(
    night: Repository, office: Office, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Airflow]:
    with running_airflow(
        tmp_path_factory.mktemp("airflow"),
        PUAVO_REPOSITORY_IMAGE_DIR=str(night.images),
        PUAVO_REPOSITORY_MIRROR_DIR=str(night.mirror),
        PUAVO_REPOSITORY_PUAVO_OS=str(night.puavo_os),
        PUAVO_REPOSITORY_REMOTE=f"file://{night.root}/remote",
        PUAVO_REPOSITORY_REPLACE_PAUSE="0",
        PUAVO_REPOSITORY_BANDWIDTH="12k",  # so that somebody can look on
        PUAVO_REPOSITORY_AUDIT_HTTPS="false",
        PUAVO_REPOSITORY_NOTIFY_EMAIL="ict@school.example",
        PUAVO_REPOSITORY_NOTIFY_WEBHOOK="chat",
        PUAVO_REPOSITORY_DEADLINE="0.0003",
        AIRFLOW_CONN_SMTP_DEFAULT=office.mail.connection,
        AIRFLOW_CONN_CHAT=office.webhook.connection,
    ) as found:
        yield found


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_logged_out_there_is_nothing_to_see(airflow: Airflow, chromium: Browser) -> None:
    chromium.driver.get(f"{airflow.url}/puavo-repository/")
    chromium.wait("for those who are logged in")
    assert "images" not in chromium.text()


def look(airflow: Airflow, chromium: Browser) -> None:
    """Open the page, by itself."""
    chromium.driver.get(f"{airflow.url}/puavo-repository/")


def look_away(airflow: Airflow, chromium: Browser) -> None:
    """Open something that takes no time of what is awaited, as a page that is drawn anew does."""
    chromium.driver.get(f"{airflow.url}/api/v2/version")


def test_the_first_night_from_login_to_its_start_with_options(
    airflow: Airflow, chromium: Browser, night: Repository
) -> None:
    chromium.driver.get(airflow.url)
    chromium.find("input[name=username]").send_keys("admin")
    chromium.find("input[name=password]").send_keys(airflow.password)
    chromium.find("button[type=submit]").click()
    chromium.find("a[href*='plugin/puavo-repository']").click()
    chromium.enter_frame()
    chromium.wait("There is no such folder yet")
    chromium.find("a", "Prepare with options").click()
    targets = chromium.find("input[name=targets]")
    targets.send_keys("one")
    chromium.find("#start:not([aria-disabled])").click()
    chromium.find("#refused-targets", "a whole number, 0 or more")
    targets.clear()
    targets.send_keys("1")
    chromium.find("#start:not([aria-disabled])").click()
    chromium.find("h1", "What this run did")
    chromium.leave_frame()
    look_away(airflow, chromium)
    (run,) = airflow.ended(PREPARE)
    assert run["conf"] == {"targets": 1}
    assert run["state"] == "failed"
    # The last one that can be used is the target; the bad one takes no place.
    assert len(list((night.mirror / "rdiffs").iterdir())) == 1


def test_a_bad_image_is_named_while_the_rest_is_published(
    airflow: Airflow, chromium: Browser
) -> None:
    chromium.theme("dark")
    chromium.driver.get(f"{airflow.url}/plugin/puavo-repository")
    chromium.enter_frame()
    wrong = chromium.find(".problem", name(V3)).text
    assert "not a squashfs image" in wrong
    assert "Replace it" in wrong
    assert "dark" in (chromium.find("html").get_attribute("class") or "")
    chromium.find("#mirrors progress")
    chromium.find("#mirrors .progress", "%")
    chromium.find(".problem a", "Its log").click()
    chromium.leave_frame()
    chromium.until(lambda: "/tasks/fingerprint/mapped/" in chromium.driver.current_url)
    look_away(airflow, chromium)
    assert airflow.ended(PUBLISH)[0]["state"] == "success"


def test_a_good_image_in_its_place_is_tried_again_from_the_page(
    airflow: Airflow, chromium: Browser, night: Repository
) -> None:
    (night.images / name(V3)).unlink()
    night.add(name(V3))
    look(airflow, chromium)
    chromium.theme("light")
    look(airflow, chromium)
    assert "dark" not in (chromium.find("html").get_attribute("class") or "")
    problem = chromium.find(".problem", name(V3))
    problem.find_element(By.XPATH, ".//button[text()='Retry']").click()
    chromium.find(".answer", "It is tried again")
    look_away(airflow, chromium)
    (run,) = airflow.ended(PREPARE)
    assert run["state"] == "success", "the same run"
    assert {run["state"] for run in airflow.ended(PUBLISH, 2)} == {"success"}
    look(airflow, chromium)
    chromium.wait("Everything is up to date")
    assert "file://" in chromium.find("#mirrors", "up to date").text
    assert published(night) == (night.mirror / "CKSUMS").read_text()
    assert name(V3) in published(night)
    chromium.find("#runs a", "prepare").click()
    chromium.find("body", "Plan and report").find_element(
        By.PARTIAL_LINK_TEXT, "Plan and report"
    ).click()
    chromium.enter_frame()
    chromium.wait("On offer")
    chromium.leave_frame()
    assert chromium.hosts() == {airflow.url.removeprefix("http://")}


def published(night: Repository) -> str:
    return (night.root / "remote" / "CKSUMS").read_text()


def test_a_test_alert_takes_the_way_of_a_real_one(
    airflow: Airflow, chromium: Browser, office: Office
) -> None:
    look(airflow, chromium)
    chromium.find("#test-alert").click()
    chromium.find("#alerts .answer", "Started")
    office.told(f"{ALERT}: a test", "This is a test")
    chromium.find("#told", ALERT)
    chromium.wait("Everything is up to date")


def test_an_audit_shows_what_it_found_and_repairs_it_when_asked(
    airflow: Airflow, chromium: Browser, night: Repository
) -> None:
    assert airflow.runs(AUDIT) == [], "the first one waits for its hour"
    image = night.root / "remote" / name(V2)
    data = image.read_bytes()
    image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    look(airflow, chromium)
    chromium.find("#audit-all").click()
    chromium.find("#audit .answer", "Started")
    look_away(airflow, chromium)
    assert airflow.ended(AUDIT)[0]["state"] == "failed"
    look(airflow, chromium)
    wrong = chromium.find(".problem", name(V2)).text
    assert "sha256" in wrong
    assert "repair" in wrong
    chromium.find("a", "Audit with options").click()
    chromium.find("[name=repair]").click()
    chromium.find("#start:not([aria-disabled])").click()
    chromium.find("h1", "What this run did")
    look_away(airflow, chromium)
    assert airflow.ended(AUDIT, 2)[0]["state"] == "success"
    assert image.read_bytes() == data
    look(airflow, chromium)
    chromium.find("#audit", "1 repaired")
    chromium.wait("Everything is up to date")


def test_one_series_is_rolled_back_and_forward_again(
    airflow: Airflow, chromium: Browser, night: Repository
) -> None:
    look(airflow, chromium)
    before = published(night)
    chromium.find("#mirrors a", "Roll back").click()
    chromium.find("#choose")  # as the dry run found them
    chromium.find("[name=generation]:not([disabled])").click()
    chromium.find(f"[name=series][value='{AMXA}-amd64']").click()
    chromium.find("#go-on").click()
    assert "1 image" in chromium.find("#sure", "Of 1 series").text
    assert published(night) == before, "nothing was done yet"
    chromium.find("#roll-back:not([aria-disabled])").click()  # when the dry run has ended
    chromium.find("h1", "What this run did")
    look_away(airflow, chromium)
    assert airflow.ended(ROLLBACK, 2)[0]["state"] == "success"
    assert name(V3) not in published(night)
    assert name(V1, FREE) in published(night)
    look(airflow, chromium)
    assert "Take the bad image out" in chromium.find("#mirrors", "rolled back").text
    chromium.find("#mirrors button:not([aria-disabled])", "Publish it again").click()
    chromium.find("#yes").click()
    chromium.find("#mirrors .answer", "Started")
    look_away(airflow, chromium)
    assert airflow.ended(PUBLISH, 3)[0]["state"] == "success"
    assert published(night) == before
    look(airflow, chromium)
    chromium.wait("Everything is up to date")


def test_the_failed_and_late_first_night_was_told_by_mail_and_webhook(
    airflow: Airflow, office: Office
) -> None:
    run = airflow.runs(PREPARE)[-1]["dag_run_id"]
    office.told(f"{PREPARE}: failed", run, name(V3), "this is not a squashfs image")
    office.told(f"{PREPARE}: not done after 0.0003 hours", run)
    assert {receivers[0] for receivers, *_ in office.mail.got} == {"ict@school.example"}


def test_a_failed_publish_and_a_value_that_cannot_be_used_are_told_with_their_cause(
    airflow: Airflow, office: Office, tmp_path: Path
) -> None:
    ended = len(airflow.runs(PUBLISH)), len(airflow.runs(PREPARE))
    run = airflow.trigger(PUBLISH, mirrors=[f"file://{tmp_path}/nowhere"])
    airflow.trigger(PREPARE, image_dir=str(tmp_path / "missing"))
    airflow.ended(PUBLISH, ended[0] + 1)
    airflow.ended(PREPARE, ended[1] + 1)
    office.told(f"{PUBLISH}: failed", run, f"{tmp_path}/nowhere", "no such")
    office.told(f"{PREPARE}: failed", f"{tmp_path}/missing: there is no such folder")


def test_all_of_it_ends_at_once(airflow: Airflow) -> None:
    airflow.process.terminate()
    assert airflow.process.wait(60) == 0
    children = [path for path in Path("/proc").glob("[0-9]*/environ") if _belongs(path, airflow)]
    assert children == []


def _belongs(path: Path, airflow: Airflow) -> bool:
    try:
        return airflow.url.encode() in path.read_bytes() and path.parent.name != str(os.getpid())
    except OSError:
        return False
