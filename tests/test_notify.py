"""Notifications: off until configured, sent by a real HTTP request, without any secret in them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from puavo_repository.mirror.records import AlertRecord, State
from support.airflow_server import ALERT, beside, run_dag
from support.repository import V1, Repository, name
from support.sinks import Mail, Webhook, serving

# Runs beside: Airflow reads its settings when it is first imported.
NOTIFY = """
import json, logging, sys, traceback
from types import SimpleNamespace
from airflow.sdk.execution_time.callback_supervisor import execute_callback
from puavo_repository_airflow import notify
class Log(SimpleNamespace):
    debug = info = exception = lambda self, *said, **more: logging.warning("%s %s", said, more)
dag_id = sys.argv[1] if len(sys.argv) > 1 else "puavo_repository_prepare"
run = SimpleNamespace(dag_id=dag_id, run_id="manual__1+1")
dag = SimpleNamespace(dag_id=dag_id, task_ids=["discover"])
notify.XCom = SimpleNamespace(get_all=lambda **_: sys.argv[2:])
code = 0
for notifier in notify.on_failure():
    try:
        notifier({"dag_run": run, "dag": dag})
    except Exception:
        traceback.print_exc()
        code = 1
alert = notify.deadline()
if alert is not None:
    print("DEADLINE", alert.interval, alert.callback.path, alert.callback.kwargs)
    run = {"dag_id": "puavo_repository_prepare", "dag_run_id": "scheduled__2"}
    given = {"context": {"dag_run": run}, **alert.callback.kwargs}
    for path in (alert.callback.path, "puavo_repository_airflow.notify.Notifier"):
        done, _ = execute_callback(path, given, "", None, Log())
        code = code or int(not done)
print("RESULT " + json.dumps({"code": code}))
"""


# Why tasks failed, without an Airflow to ask.
KEPT = """
import json
from types import SimpleNamespace
from puavo_repository.errors import ImageError
from puavo_repository_airflow import notify
kept = []
ti = SimpleNamespace(task_id="upload", xcom_push=lambda key, value: kept.append(value))
for error in (ImageError("a.img", "is bad"), ValueError("secret-token"), None):
    notify.keep({"ti": ti, "exception": error})
dag = SimpleNamespace(dag_id="puavo_repository_prepare", task_ids=["discover"])
unread = notify.kept(dag, "manual__1")
said = {"plan": ["why"], "report": ["why, and more"]}
notify.XCom = SimpleNamespace(get_all=lambda task_id, **_: said.pop(task_id, []))
dag.task_ids = ["report", "plan"]
whys = notify.kept(dag, "1")
notify.kept = lambda *_: [f"cause {number}" for number in range(12)]
_, told = notify.message("failed", {"dag": dag, "run_id": "1"})
print("RESULT " + json.dumps({"kept": [kept, unread, told.splitlines(), whys]}))
"""


# Somebody is told of a late run, where nobody wants to be told any more.
TOLD = """
import json
from puavo_repository_airflow import notify
run = {"dag_id": "puavo_repository_prepare", "dag_run_id": "scheduled__2"}
notify.tell({"dag_run": run}, "not done after 5 hours")
print("RESULT " + json.dumps({}))
"""


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    found = Webhook()
    with serving(found):
        yield found


def notify(airflow: dict[str, str], *dag_id_and_whys: str, **more: str) -> tuple[int, str]:
    """Return whether a message could not be sent, and what was said."""
    done = beside(airflow, NOTIFY, *dag_id_and_whys, **more)
    return done["code"], done["log"]


def configured(webhook: Webhook) -> dict[str, str]:
    return {
        "AIRFLOW_CONN_HOOK": webhook.connection,
        "PUAVO_REPOSITORY_NOTIFY_WEBHOOK": "hook",
    }


def test_nothing_is_sent_until_something_is_configured(airflow: dict[str, str]) -> None:
    code, said = notify(airflow, PUAVO_REPOSITORY_DEADLINE="5")
    assert code == 0, said
    assert "DEADLINE" not in said


def test_a_failure_says_what_is_wrong_and_where_to_look(
    airflow: dict[str, str], repository: Repository, webhook: Webhook
) -> None:
    repository.prepare()
    why = f"{name(V1)}: this is not a squashfs image"
    code, said = notify(
        airflow,
        "puavo_repository_prepare",
        why,
        PUAVO_REPOSITORY_IMAGE_DIR=str(repository.images),
        PUAVO_REPOSITORY_MIRROR_DIR=str(repository.mirror),
        **configured(webhook),
    )
    assert code == 0, said
    kept = State(repository.mirror).alerts.get("alert")
    assert kept is not None
    assert (kept.subject, kept.problem) == ("puavo_repository_prepare: failed", "")
    assert kept.sent == kept.at
    ((path, sent),) = webhook.got
    assert path == "/hooks/secret-token"
    lines = sent["text"].splitlines()
    assert lines[0] == "puavo_repository_prepare: failed"
    assert why in lines
    assert "https://airflow.example/plugin/puavo-repository" in lines
    assert lines[-1].endswith("/dags/puavo_repository_prepare/runs/manual__1%2B1")


def test_where_nobody_is_told_nothing_is_kept_of_it(
    airflow: dict[str, str], repository: Repository
) -> None:
    repository.add(name(V1))
    repository.prepare()
    alerts = State(repository.mirror).alerts
    unsent = AlertRecord("alert", 99.0, "prepare: failed", 77.0, "by_email: no answer")
    alerts.put(unsent)
    places = {
        "PUAVO_REPOSITORY_IMAGE_DIR": str(repository.images),
        "PUAVO_REPOSITORY_MIRROR_DIR": str(repository.mirror),
    }
    beside(airflow, TOLD, **places)
    assert alerts.get("alert") == unsent


def test_a_late_run_is_reported(airflow: dict[str, str], webhook: Webhook) -> None:
    """Airflow keeps the name of what is called with the run: also one of a version before."""
    code, said = notify(airflow, PUAVO_REPOSITORY_DEADLINE="5.5", **configured(webhook))
    assert "DEADLINE 5:30:00 puavo_repository_airflow.notify.tell" in said, said
    assert code == 0, said
    _, *late = webhook.got
    assert len(late) == 2
    for _, sent in late:
        assert "not done after 5.5 hours" in sent["text"]
        assert "scheduled__2" in sent["text"]


def test_why_tasks_failed_is_kept_and_told_within_bounds(airflow: dict[str, str]) -> None:
    """What others raise may hold a secret; what cannot be read holds no message back."""
    kept, unread, told, whys = beside(airflow, KEPT)["kept"]
    assert kept == ["a.img: is bad", "upload: ValueError, see the task's log"]
    assert unread == ["No task said why: one was killed, or ended by hand. See their logs"]
    assert told[1:12] == [*(f"cause {number}" for number in range(10)), "and 2 more"]
    assert whys == ["why", "why, and more"], "a report says what others said before, and more"


def test_a_test_says_that_it_is_one(
    airflow: dict[str, str], repository: Repository, webhook: Webhook
) -> None:
    places = {"PUAVO_REPOSITORY_IMAGE_DIR": str(repository.images)}
    code, said = notify(airflow, ALERT, **places, **configured(webhook))
    assert code == 0, said
    assert webhook.texts()[0].startswith("puavo_repository_alert: a test\n")
    run = run_dag(airflow, ALERT, {}, **places, **configured(webhook))
    assert run["state"] == "failed"
    assert "This is a test: this failed on purpose" in run["log"]
    silent = run_dag(airflow, ALERT, {}, **places)
    assert silent["state"] == "failed"
    assert "nobody is told when something fails" in silent["log"]


def test_what_cannot_be_sent_is_an_error_that_holds_no_secret(
    airflow: dict[str, str], repository: Repository
) -> None:
    """One way that fails does not hold back the other."""
    repository.add(name(V1))
    repository.prepare()
    alerts = State(repository.mirror).alerts
    refusing, mail = Webhook(status=500), Mail()
    ways = {
        **configured(refusing),
        "PUAVO_REPOSITORY_IMAGE_DIR": str(repository.images),
        "PUAVO_REPOSITORY_MIRROR_DIR": str(repository.mirror),
        "PUAVO_REPOSITORY_NOTIFY_EMAIL": "ict@school.example",
        "AIRFLOW_CONN_SMTP_DEFAULT": mail.connection,
    }
    with serving(refusing, mail):
        code, said = notify(airflow, **ways)
        assert len(refusing.got) == len(mail.got) == 1
        assert code == 1
        assert "could not be sent by_webhook: HTTP Error 500" in said
        kept = alerts.get("alert")
        assert kept is not None
        assert kept.problem.startswith("by_webhook: HTTP Error 500")
        assert kept.sent == kept.at, "the other way arrived"
        assert "secret-token" not in said

        for url, reason in {
            "secret-token": "the password of the connection hook is not an http or https URL",
            f"{refusing.url} x": "by_webhook: InvalidURL",
        }.items():
            ways["AIRFLOW_CONN_HOOK"] = json.dumps({"conn_type": "http", "password": url})
            code, said = notify(airflow, **ways)
            assert reason in said
            assert "secret-token" not in said

        del ways["AIRFLOW_CONN_HOOK"], ways["AIRFLOW_CONN_SMTP_DEFAULT"]
        code, said = notify(airflow, "puavo_repository_publish", **ways)
        assert code == 1
        later = alerts.get("alert")
        assert later is not None
        assert later.at > (later.sent or 0) >= kept.at, "when one last went out stays known"
        assert later.subject == "puavo_repository_prepare: failed", "and what it said"
        assert "set AIRFLOW_CONN_…" in later.problem
        assert "school" not in later.problem
        assert "hook" not in later.problem.lower().replace("by_webhook", "")
        for connection in ("AIRFLOW_CONN_HOOK", "AIRFLOW_CONN_SMTP_DEFAULT"):
            assert f"set {connection} in the environment" in said


def test_a_mail_that_is_refused_is_an_error(
    airflow: dict[str, str], repository: Repository
) -> None:
    repository.add(name(V1))
    repository.prepare()
    mail = Mail(refuses=True)
    with serving(mail):
        code, said = notify(
            airflow,
            PUAVO_REPOSITORY_IMAGE_DIR=str(repository.images),
            PUAVO_REPOSITORY_MIRROR_DIR=str(repository.mirror),
            PUAVO_REPOSITORY_NOTIFY_EMAIL="ict@school.example",
            AIRFLOW_CONN_SMTP_DEFAULT=mail.connection,
        )
    assert code == 1
    assert "by_email: " in said
    assert "nobody here" in said
    kept = State(repository.mirror).alerts.get("alert")
    assert kept is not None
    assert kept.problem.startswith("by_email: ")
    assert "school" not in kept.problem
