"""Notifications: off until configured, sent by a real HTTP request, without any secret in them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.audit.report import AuditReport, Checked, Finding, Severity, remember
from repository import ROOT, V1, Repository, environment, name

# Runs in a process of its own: Airflow reads its settings when it is first imported.
NOTIFY = """
import sys
from types import SimpleNamespace
from puavo_repository_airflow import notify
dag_id = sys.argv[1] if len(sys.argv) > 1 else "puavo_repository_prepare"
run = SimpleNamespace(dag_id=dag_id, run_id="manual__1+1")
for notifier in notify.on_failure():
    notifier({"dag_run": run})
alert = notify.deadline()
if alert is not None:
    print("DEADLINE", alert.interval, alert.callback.path, alert.callback.kwargs)
    run = {"dag_id": "puavo_repository_prepare", "dag_run_id": "scheduled__2"}
    notify.Notifier(**alert.callback.kwargs)({"dag_run": run})
"""


class Webhook:
    """A server that takes POSTs, or refuses them."""

    def __init__(self, status: int = 200) -> None:
        self.got: list[tuple[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((self.path, json.loads(body)))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hooks/secret-token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    found = Webhook()
    yield found
    found.server.shutdown()


def notify(tmp_path: Path, *dag_id: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", NOTIFY, *dag_id],
        env=environment(
            AIRFLOW_HOME=str(tmp_path),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            AIRFLOW__API__BASE_URL="https://airflow.example",
            **more,
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def configured(webhook: Webhook) -> dict[str, str]:
    return {
        "AIRFLOW_CONN_HOOK": json.dumps({"conn_type": "http", "password": webhook.url}),
        "PUAVO_REPOSITORY_NOTIFY_WEBHOOK": "hook",
    }


def test_nothing_is_sent_until_something_is_configured(tmp_path: Path) -> None:
    done = notify(tmp_path, PUAVO_REPOSITORY_DEADLINE="5")
    assert done.returncode == 0, done.stderr
    assert "DEADLINE" not in done.stdout


def test_a_failure_says_what_is_wrong_and_where_to_look(
    tmp_path: Path, repository: Repository, webhook: Webhook
) -> None:
    (repository.images / name(V1)).write_bytes(b"no image")
    repository.prepare()
    done = notify(
        tmp_path / "airflow",
        PUAVO_REPOSITORY_IMAGE_DIR=str(repository.images),
        PUAVO_REPOSITORY_MIRROR_DIR=str(repository.mirror),
        **configured(webhook),
    )
    assert done.returncode == 0, done.stderr
    ((path, sent),) = webhook.got
    assert path == "/hooks/secret-token"
    lines = sent["text"].splitlines()
    assert lines[0] == "puavo_repository_prepare: failed"
    assert "this is not a squashfs image" in sent["text"]
    assert "https://airflow.example/plugin/puavo-repository" in lines
    assert lines[-1].endswith("/dags/puavo_repository_prepare/runs/manual__1%2B1")


def test_a_failed_audit_names_its_findings(
    tmp_path: Path, repository: Repository, webhook: Webhook
) -> None:
    repository.prepare()
    finding = Finding(
        Severity.ERROR, "https://images.example", "", "the certificate ends in 5 days"
    )
    audit = AuditReport(0.0, 1.0, 0, (Checked("https://images.example", findings=(finding,)),))
    remember(repository.mirror, audit)
    done = notify(
        tmp_path / "airflow",
        "puavo_repository_audit",
        PUAVO_REPOSITORY_IMAGE_DIR=str(repository.images),
        PUAVO_REPOSITORY_MIRROR_DIR=str(repository.mirror),
        **configured(webhook),
    )
    assert done.returncode == 0, done.stderr
    ((_, sent),) = webhook.got
    assert "https://images.example: the certificate ends in 5 days" in sent["text"]


def test_a_late_run_is_reported(tmp_path: Path, webhook: Webhook) -> None:
    done = notify(tmp_path, PUAVO_REPOSITORY_DEADLINE="5.5", **configured(webhook))
    assert "DEADLINE 5:30:00 puavo_repository_airflow.notify.Notifier" in done.stdout, done.stderr
    _, (_, sent) = webhook.got
    assert "not done after 5.5 hours" in sent["text"]
    assert "scheduled__2" in sent["text"]


def test_a_refusal_does_not_give_the_secret_away(tmp_path: Path) -> None:
    refusing = Webhook(status=500)
    done = notify(tmp_path, **configured(refusing))
    refusing.server.shutdown()
    assert len(refusing.got) == 1
    assert "could not be sent" in done.stdout + done.stderr
    assert "secret-token" not in done.stdout + done.stderr
