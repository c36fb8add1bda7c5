"""Notifications by Airflow's own means: a run that failed, a night that did not come to its end.

Off until configured, by environment variables that every part of Airflow has:

- ``PUAVO_REPOSITORY_NOTIFY_EMAIL``: addresses, sent to through the Airflow connection
  ``smtp_default``;
- ``PUAVO_REPOSITORY_NOTIFY_WEBHOOK``: the id of an Airflow connection whose password is the
  webhook's whole URL; it gets a POST of ``{"text": …}``, as Slack, Mattermost, Teams' workflows
  and many others take it;
- ``PUAVO_REPOSITORY_DEADLINE``: hours after its start by which a run has to be done.

The connections have to be in the environment, too, as ``AIRFLOW_CONN_SMTP_DEFAULT`` and so on:
Airflow calls a deadline's callback in a process that may not read those in its database.

A message that cannot be sent is an error: the callback ends failed, and its log says why.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseNotifier, Connection, conf
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from puavo_repository import settings
from puavo_repository.audit import report
from puavo_repository.errors import RepositoryError
from puavo_repository.mirror import published
from puavo_repository.mirror.mirror import Mirror
from puavo_repository_airflow import dag_settings, failures

PREPARE, PUBLISH = "puavo_repository_prepare", "puavo_repository_publish"
AUDIT = "puavo_repository_audit"
SMTP = "smtp_default"
_TIMEOUT = 30  # seconds
_FAILURES_NAMED = 10

Send = Callable[[str, str], None]


class UndeliveredError(Exception):
    """A message could not be sent; its text holds no secret."""


class Notifier(BaseNotifier):
    """Tells whoever is configured about a run.

    Args:
        event: What happened to it, such as ``failed``.
        context: Given by Airflow.
    """

    def __init__(self, event: str, context: Any = None) -> None:
        super().__init__(context)
        self.event = event

    def notify(self, context: Any) -> None:
        """Send it; one way that fails does not hold back the other.

        Raises:
            UndeliveredError: One way failed.
        """
        subject, text = message(self.event, context)
        undelivered = []
        for send in ways():
            try:
                send(subject, text)
            except Exception as error:  # noqa: BLE001 - whatever a mail or web server answers
                undelivered.append(f"{send.__name__}: {_reason(error)}")
        if undelivered:
            raise UndeliveredError(f"{subject}: could not be sent {'; '.join(undelivered)}")


def on_failure() -> list[Notifier]:
    """Return what to call when a run failed: nothing where nothing is configured."""
    return [Notifier("failed")] if ways() else []


def deadline() -> DeadlineAlert | None:
    """Return the alert for a run that takes too long, None where none is configured."""
    hours = dag_settings.usable().deadline
    if not hours or not ways():
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=hours),
        callback=SyncCallback(Notifier, {"event": f"not done after {hours:g} hours"}),
    )


def ways() -> list[Send]:
    """Return how to send: what is configured."""
    found = dag_settings.usable()
    configured = (found.notify_email, by_email), (found.notify_webhook, by_webhook)
    return [send for value, send in configured if value]


def by_email(subject: str, text: str) -> None:
    """Send an e-mail through the connection ``smtp_default``."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    _connection(SMTP)
    paragraphs = "".join(f"<p>{_escaped(line)}</p>" for line in text.splitlines())
    with SmtpHook(smtp_conn_id=SMTP) as hook:
        hook.send_email_smtp(
            to=list(dag_settings.usable().notify_email),
            subject=subject,
            html_content=paragraphs,
        )


def by_webhook(subject: str, text: str) -> None:
    """Send a POST to the URL that is the password of the configured connection."""
    name = dag_settings.usable().notify_webhook
    url = _connection(name).password or ""
    if urlsplit(url).scheme not in {"http", "https"}:
        raise UndeliveredError(f"the password of the connection {name} is not an http or https URL")
    request = urllib.request.Request(  # noqa: S310 - checked above
        url,
        json.dumps({"text": f"{subject}\n{text}"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310
        pass


def message(event: str, context: Mapping[str, Any]) -> tuple[str, str]:
    """Return subject and text: what happened, why, where to look.

    Args:
        event: What happened.
        context: Airflow's; of a deadline it holds plain values instead of objects.
    """
    run, dag = context.get("dag_run"), context.get("dag")
    if isinstance(run, Mapping):
        dag_id, run_id = str(run["dag_id"]), str(run["dag_run_id"])
    elif run is not None:
        dag_id, run_id = run.dag_id, run.run_id
    else:  # Airflow knows no task of this run
        dag_id, run_id = context["dag"].dag_id, context["run_id"]
    lines = [f"Run {run_id}", *causes(dag_id, failures.kept(context) if dag else [])]
    base = conf.get("api", "base_url", fallback="") or ""
    if base:
        path = f"dags/{quote(dag_id)}/runs/{quote(run_id)}"
        lines += [f"{base.rstrip('/')}/plugin/puavo-repository", f"{base.rstrip('/')}/{path}"]
    return f"{dag_id}: {event}", "\n".join(lines)


def causes(dag_id: str, kept: list[str]) -> list[str]:
    """Return what is wrong: what the tasks of the run said, then what the mirror's records say.

    Args:
        dag_id: Whose run it is.
        kept: What the tasks said.
    """
    try:
        recorded = _recorded(dag_id)
    except RepositoryError as error:
        recorded = [str(error)]
    said = "\n".join(kept)
    found = [*kept, *(text for text in recorded if text not in said)]
    more = len(found) - _FAILURES_NAMED
    return found[:_FAILURES_NAMED] + ([f"and {more} more"] if more > 0 else [])


def _recorded(dag_id: str) -> list[str]:
    """Return what the last night, the last publish of each remote or the last audit left wrong."""
    mirror = Mirror(settings.load({}, images=False).mirror_dir)
    if dag_id == AUDIT:
        audit = report.last(mirror.root)
        return [str(one) for one in audit.findings] if audit else []
    if dag_id == PUBLISH:
        return [
            f"{remote.address}: {problem}"
            for remote in published.records(mirror.root)
            for problem in remote.problems.values()
        ]
    return [failure.message for failure in mirror.state.failures] if dag_id == PREPARE else []


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


def _reason(error: Exception) -> str:
    """Return why it failed; the text of other errors may hold the webhook's URL, a secret."""
    known = isinstance(error, OSError | UndeliveredError)  # with smtplib's and urllib's
    return str(error) if known else type(error).__name__


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
