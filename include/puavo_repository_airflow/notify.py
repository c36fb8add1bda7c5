"""Notifications by Airflow's own means: a run that failed, a night that did not come to its end.

Off until ``PUAVO_REPOSITORY_NOTIFY_EMAIL``, ``_NOTIFY_WEBHOOK`` or ``_DEADLINE`` are set in the
environment of every part of Airflow. The webhook's URL is the password of a connection; it gets a
POST of ``{"text": …}``, as Slack, Mattermost, Teams' workflows and many others take it. Connections
have to be in the environment, too, as ``AIRFLOW_CONN_SMTP_DEFAULT`` and so on: Airflow calls a
deadline's callback in a process that may not read those in its database. A message that cannot be
sent is an error: the callback ends failed, and its log says why.

Airflow gives a DAG's failure callback the run, but not its tasks' errors. So each task that fails
keeps its error's text as the XCom ``failure`` of the run. Airflow forgets it when the task is tried
again.
"""

import html
import json
import logging
import re
import time
import urllib.request
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.sdk import Connection, conf
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.execution_time.xcom import XCom

from puavo_repository import settings
from puavo_repository.errors import RepositoryError
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import AlertRecord
from puavo_repository.web.model import ALERT, FAILURE, REPORT

SMTP = "smtp_default"
_TIMEOUT = 30  # seconds
_FAILURES_NAMED = 10
_LONGEST = 2000  # characters: of thousands of files the first ones are enough
logger = logging.getLogger("puavo_repository.notify")


class UndeliveredError(Exception):
    """A message could not be sent; its text holds no secret."""


def tell(context: Mapping[str, Any], event: str = "failed") -> None:
    """Tell whoever is configured about a run; one way that fails does not hold back the other.

    Raises:
        UndeliveredError: One way failed.
    """
    subject, text = message(event, context)
    undelivered = []
    chosen = ways()
    for send in chosen:
        try:
            send(subject, text)
        except (OSError, UndeliveredError) as error:  # with smtplib's and urllib's
            undelivered.append(f"{send.__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - its text may hold the URL, a secret
            undelivered.append(f"{send.__name__}: {type(error).__name__}")
    if chosen:
        _record(subject, undelivered, sent=len(undelivered) < len(chosen))
    if undelivered:
        raise UndeliveredError(f"{subject}: could not be sent {'; '.join(undelivered)}")


Notifier = tell  # as Airflow's database has it with runs of a version before: it imports the name


def on_failure() -> list[Callable[[Mapping[str, Any]], None]]:
    """Return what to call when a run failed: nothing where nothing is configured."""
    return [tell] if ways() else []


def deadline() -> DeadlineAlert | None:
    """Return the alert for a run that takes too long, None where none is configured."""
    hours = settings.usable().deadline
    if not hours or not ways():
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=hours),
        callback=SyncCallback(tell, {"event": f"not done after {hours:g} hours"}),
    )


def ways() -> list[Callable[[str, str], None]]:
    """Return how to send a subject and a text: what is configured."""
    found = settings.usable()
    configured = (found.notify_email, by_email), (found.notify_webhook, by_webhook)
    return [send for value, send in configured if value]


def by_email(subject: str, text: str) -> None:
    """Send an e-mail through the connection ``smtp_default``."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    _connection(SMTP)
    lines = "".join(f"<p>{html.escape(line, quote=False)}</p>" for line in text.splitlines())
    with SmtpHook(smtp_conn_id=SMTP) as hook:
        to = list(settings.usable().notify_email)
        hook.send_email_smtp(to=to, subject=subject, html_content=lines)


def by_webhook(subject: str, text: str) -> None:
    """Send a POST to the URL that is the password of the configured connection."""
    name = settings.usable().notify_webhook
    url = _connection(name).password or ""
    if urlsplit(url).scheme not in {"http", "https"}:
        raise UndeliveredError(f"the password of the connection {name} is not an http or https URL")
    body = json.dumps({"text": f"{subject}\n{text}"}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310 - checked above
        pass


def _record(subject: str, undelivered: list[str], *, sent: bool) -> None:
    """Keep for the page whether a message went out; it is shown without addresses and ids."""
    hidden = [*settings.usable().notify_email, settings.usable().notify_webhook]
    problem = "; ".join(undelivered)
    for word in map(re.escape, filter(None, hidden)):
        problem = re.sub(rf"(?<![A-Za-z0-9]){word}(?![A-Za-z0-9])", "…", problem, flags=re.I)
    problem = re.sub(r"[^\s'\"<>]+@[^\s'\"<>]+", "…", problem)[:_LONGEST]
    try:
        state = Mirror(settings.load({}, images=False).mirror_dir).state
        if state.folder.is_dir():
            before, now = state.alerts.get("alert"), time.time()
            said, last = (before.subject, before.sent) if before else ("", None)
            if sent:
                said, last = subject, now
            state.alerts.put(AlertRecord("alert", now, said, last, problem))
    except (RepositoryError, OSError) as error:
        logger.warning("that a message was sent cannot be kept: %s", error)


def _connection(name: str) -> Connection:
    """Return a connection, or say where it has to be for those who may not read the database."""
    try:
        found: Connection = Connection.get(name)
    except Exception as error:
        raise UndeliveredError(
            f"the connection {name} cannot be read here ({type(error).__name__}): set "
            f"AIRFLOW_CONN_{name.upper()} in the environment of every part of Airflow"
        ) from error
    return found


def message(event: str, context: Mapping[str, Any]) -> tuple[str, str]:
    """Return subject and text: what happened, why, where to look.

    Airflow's context of a deadline holds plain values and no DAG: its callback runs where no XCom
    may be read, and nothing has ended yet.
    """
    run, dag = context.get("dag_run"), context.get("dag")
    if isinstance(run, Mapping):
        dag_id, run_id = str(run["dag_id"]), str(run["dag_run_id"])
    elif run is not None:
        dag_id, run_id = run.dag_id, run.run_id
    else:  # Airflow knows no task of this run
        dag_id, run_id = context["dag"].dag_id, context["run_id"]
    said = kept(dag, run_id) if dag else []
    lines = [f"Run {run_id}", *said[:_FAILURES_NAMED]]
    if (more := len(said) - _FAILURES_NAMED) > 0:
        lines.append(f"and {more} more")
    if base := (conf.get("api", "base_url", fallback="") or "").rstrip("/"):
        lines.append(f"{base}/plugin/puavo-repository")
        lines.append(f"{base}/dags/{quote(dag_id)}/runs/{quote(run_id)}")
    event = "a test" if dag_id == ALERT else event
    return f"{dag_id}: {event}", "\n".join(lines)


def keep(context: Mapping[str, Any]) -> None:
    """Keep why a task failed; called in the task's process after its last try."""
    error = context.get("exception")
    if error is None:  # the task was killed: this is another process, which knows nothing of it
        return
    text, ours = str(error), isinstance(error, RepositoryError)
    logger.error("error: %s", text, exc_info=None if ours else error)  # for who looks on
    if not ours:  # what others say may hold a secret
        text = f"{context['ti'].task_id}: {type(error).__name__}, see the task's log"
    context["ti"].xcom_push(FAILURE, text[:_LONGEST])


def kept(dag: Any, run_id: str) -> list[str]:
    """Return why the tasks of a failed run of a DAG failed; what the report adds comes last."""
    found: list[str] = []
    try:
        for task_id in sorted(dag.task_ids, key=lambda name: name == REPORT):
            where = {"dag_id": dag.dag_id, "task_id": task_id, "run_id": run_id}
            found += XCom.get_all(key=FAILURE, **where) or []
    except Exception:  # the message has to go out, whatever Airflow's answer is
        logger.exception("what the tasks of %s said could not be read", run_id)
    return found or ["No task said why: one was killed, or ended by hand. See their logs"]
