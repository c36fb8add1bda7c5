"""What a person does in the UI, with a real scheduler and a real browser.

One Airflow serves the whole story, told in order: log in, find the page, start the first night
by the form, see a bad image named, mend it, see it gone, and see the mirror published. Who is
responsible gets a message of what failed or is late, by mail and by webhook.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from support.airflow_server import AUDIT, PREPARE, PUBLISH, ROLLBACK, Airflow, running_airflow
from support.browser import Browser, browser
from support.repository import V1, V2, V3, Repository, name
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
    """Return a repository of two images and one that is none."""
    found = Repository(tmp_path_factory.mktemp("repository"))
    for version in (V1, V2):
        found.add(name(version))
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


def test_the_first_night_from_login_to_the_form(
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
    chromium.leave_frame()
    chromium.find("button", "Trigger").click()
    chromium.find("button", "Which rdiffs").click()
    chromium.find("input[name=element_targets]").send_keys("1")
    dialog = chromium.find("[role=dialog]", "Single Run")
    buttons = dialog.find_elements(By.TAG_NAME, "button")
    next(button for button in buttons if button.text == "Trigger").click()
    chromium.find("body", "manual__")
    # A page that is drawn anew each second takes the time of what is awaited; this one is not.
    chromium.driver.get(f"{airflow.url}/api/v2/version")
    (run,) = airflow.ended(PREPARE)
    assert run["conf"]["targets"] == 1
    assert run["state"] == "failed"
    # The last one that can be used is the target; the bad one takes no place.
    assert len(list((night.mirror / "rdiffs").iterdir())) == 1


def test_a_bad_image_is_named_with_its_reason_in_the_dark_too(
    airflow: Airflow, chromium: Browser
) -> None:
    chromium.theme("dark")
    chromium.driver.get(f"{airflow.url}/plugin/puavo-repository")
    chromium.enter_frame()
    wrong = chromium.find("#problems", name(V3)).text
    assert "not a squashfs image" in wrong
    assert "Replace it" in wrong
    assert "dark" in (chromium.find("html").get_attribute("class") or "")
    chromium.find("#runs a", "prepare").click()
    chromium.leave_frame()
    chromium.find("body", "Plan and report").find_element(
        By.PARTIAL_LINK_TEXT, "Plan and report"
    ).click()
    chromium.enter_frame()
    chromium.wait("Problems")
    assert "2 images read" in chromium.text()
    chromium.leave_frame()


def test_a_dry_run_shows_its_plan_and_changes_nothing(
    airflow: Airflow, chromium: Browser, night: Repository
) -> None:
    airflow.ended(PUBLISH)  # what the first night left to publish
    (night.images / name(V3)).unlink()
    night.add(name(V3))
    before = sorted(night.mirror.rglob("*"))
    run_id = airflow.trigger(PREPARE, dry_run=True)
    assert airflow.ended(PREPARE, 2)[0]["state"] == "success"
    assert sorted(night.mirror.rglob("*")) == before
    chromium.driver.get(
        f"{airflow.url}/puavo-repository/runs/?dag_id={PREPARE}&run_id={run_id.replace('+', '%2B')}"
    )
    chromium.wait("What this run would do")
    assert "1 to read" in chromium.text()
    assert name(V3) in chromium.text()


def test_a_good_night_clears_it_and_is_published_by_itself(
    airflow: Airflow, chromium: Browser, night: Repository
) -> None:
    chromium.theme("light")
    chromium.driver.get(f"{airflow.url}/puavo-repository/")
    assert "dark" not in (chromium.find("html").get_attribute("class") or "")
    chromium.find("button", "Prepare now").click()
    assert airflow.ended(PREPARE, 3)[0]["state"] == "success"
    assert {run["state"] for run in airflow.ended(PUBLISH, 2)} == {"success"}
    chromium.wait("Everything is up to date")
    chromium.find("#mirrors", "up to date")
    assert "file://" in chromium.find("#mirrors").text
    assert (
        night.mirror.joinpath("CKSUMS").read_bytes()
        == (night.root / "remote" / "CKSUMS").read_bytes()
    )
    assert chromium.hosts() == {airflow.url.removeprefix("http://")}


def test_an_audit_shows_what_it_found_and_what_to_do(
    airflow: Airflow, chromium: Browser, night: Repository
) -> None:
    assert airflow.runs(AUDIT) == [], "the first one waits for its hour"
    image = night.root / "remote" / name(V2)
    data = image.read_bytes()
    image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    airflow.trigger(AUDIT, audit_https=False)
    assert airflow.ended(AUDIT)[0]["state"] == "failed"
    chromium.driver.get(f"{airflow.url}/puavo-repository/")
    wrong = chromium.find("#problems", name(V2)).text
    assert "sha256" in wrong
    assert "repair" in wrong
    airflow.trigger(AUDIT, audit_https=False, repair=True)
    assert airflow.ended(AUDIT, 2)[0]["state"] == "success"
    assert image.read_bytes() == data
    chromium.find("#audit", "1 repaired")
    chromium.wait("Everything is up to date")


def test_a_step_back_shows_where_clients_are_now(
    airflow: Airflow, chromium: Browser, night: Repository
) -> None:
    before = airflow.trigger(ROLLBACK, dry_run=True)
    assert airflow.ended(ROLLBACK)[0]["state"] == "success"
    query = f"dag_id={ROLLBACK}&run_id={before.replace('+', '%2B')}"
    chromium.driver.get(f"{airflow.url}/puavo-repository/runs/?{query}")
    chromium.find("li", "clients see it")
    airflow.trigger(ROLLBACK)
    assert airflow.ended(ROLLBACK, 2)[0]["state"] == "success"
    assert name(V3) not in (night.root / "remote" / "CKSUMS").read_text()
    chromium.driver.get(f"{airflow.url}/puavo-repository/")
    assert "Take the bad image out" in chromium.find("#problems", "rolled back").text


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
