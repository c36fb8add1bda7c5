"""Who is responsible is told by a running Airflow: a run failed, and why; a run is late."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.airflow_server import PREPARE, PUBLISH, Airflow, running_airflow
from support.repository import V1, V2, Repository, name
from support.sinks import Mail, Webhook, serving, wait_for


@dataclass
class Office:
    """Where messages arrive, and the Airflow that sends them."""

    repository: Repository
    mail: Mail
    webhook: Webhook
    airflow: Airflow

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
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    found = Repository(tmp_path_factory.mktemp("repository"))
    found.add(name(V1))
    (found.images / name(V2)).write_bytes(b"no image")
    mail, webhook = Mail(), Webhook()
    with (
        serving(mail, webhook),
        running_airflow(
            tmp_path_factory.mktemp("airflow"),
            PUAVO_REPOSITORY_IMAGE_DIR=str(found.images),
            PUAVO_REPOSITORY_MIRROR_DIR=str(found.mirror),
            PUAVO_REPOSITORY_PUAVO_OS=str(found.puavo_os),
            PUAVO_REPOSITORY_REMOTE=f"file://{found.root}/nowhere",
            PUAVO_REPOSITORY_NOTIFY_EMAIL="ict@school.example",
            PUAVO_REPOSITORY_NOTIFY_WEBHOOK="chat",
            PUAVO_REPOSITORY_DEADLINE="0.0003",
            AIRFLOW_CONN_SMTP_DEFAULT=mail.connection,
            AIRFLOW_CONN_CHAT=webhook.connection,
        ) as airflow,
    ):
        yield Office(found, mail, webhook, airflow)


def test_a_failed_and_late_night_is_told_by_mail_and_webhook(office: Office) -> None:
    run = office.airflow.trigger(PREPARE)
    office.airflow.ended(PREPARE)
    office.told(f"{PREPARE}: failed", run, name(V2), "this is not a squashfs image")
    office.told(f"{PREPARE}: not done after 0.0003 hours", run)
    assert {receivers[0] for receivers, *_ in office.mail.got} == {"ict@school.example"}


def test_a_failed_publish_names_the_mirror_and_the_cause(office: Office) -> None:
    run = office.airflow.runs(PUBLISH) or [{"dag_run_id": office.airflow.trigger(PUBLISH)}]
    office.airflow.ended(PUBLISH)
    office.told(
        f"{PUBLISH}: failed", run[0]["dag_run_id"], f"{office.repository.root}/nowhere", "no such"
    )


def test_a_value_of_a_form_that_cannot_be_used_is_told(office: Office, tmp_path: Path) -> None:
    office.airflow.trigger(PREPARE, image_dir=str(tmp_path / "missing"))
    office.airflow.ended(PREPARE, 2)
    office.told(f"{PREPARE}: failed", f"{tmp_path}/missing: there is no such folder")
