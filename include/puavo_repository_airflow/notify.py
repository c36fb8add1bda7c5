"""Notifications by Airflow's own means: a run that failed, a night that did not come to its end.

Off until configured, by environment variables that every part of Airflow has:

- ``PUAVO_REPOSITORY_NOTIFY_EMAIL``: addresses, sent to through the Airflow connection
  ``smtp_default``;
- ``PUAVO_REPOSITORY_NOTIFY_WEBHOOK``: the id of an Airflow connection whose password is the
  webhook's whole URL; it gets a POST of ``{"text": …}``, as Slack, Mattermost, Teams' workflows
  and many others take it;
- ``PUAVO_REPOSITORY_DEADLINE``: hours after its start by which a run has to be done.

This stands beside the package, which does not know Airflow: the DAGs import it, and so does
whichever process Airflow calls it in.
"""

from __future__ import annotations

import json
import os
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
from puavo_repository.storage.mirror import Mirror

EMAIL = "PUAVO_REPOSITORY_NOTIFY_EMAIL"
WEBHOOK = "PUAVO_REPOSITORY_NOTIFY_WEBHOOK"
DEADLINE = "PUAVO_REPOSITORY_DEADLINE"
AUDIT = "puavo_repository_audit"
_TIMEOUT = 30  # seconds
_FAILURES_NAMED = 10

Send = Callable[[str, str], None]


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
        """Send it; one way that fails does not hold back the other."""
        subject, text = message(self.event, context)
        for send in ways():
            try:
                send(subject, text)
            except Exception:  # noqa: BLE001 - whatever a mail or web server answers
                # Its text may hold the webhook's URL, which is a secret.
                self.log.error("the notification could not be sent by %s", send.__name__)


def on_failure() -> list[Notifier]:
    """Return what to call when a run failed: nothing where nothing is configured."""
    return [Notifier("failed")] if ways() else []


def deadline() -> DeadlineAlert | None:
    """Return the alert for a run that takes too long, None where none is configured."""
    hours = float(os.environ.get(DEADLINE) or 0)
    if not hours or not ways():
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=hours),
        callback=SyncCallback(Notifier, {"event": f"not done after {hours:g} hours"}),
    )


def ways() -> list[Send]:
    """Return how to send: what is configured."""
    return [
        send for name, send in ((EMAIL, by_email), (WEBHOOK, by_webhook)) if os.environ.get(name)
    ]


def by_email(subject: str, text: str) -> None:
    """Send an e-mail through the connection ``smtp_default``."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    paragraphs = "".join(f"<p>{_escaped(line)}</p>" for line in text.splitlines())
    with SmtpHook() as hook:
        hook.send_email_smtp(
            to=os.environ[EMAIL].replace(",", " ").split(),
            subject=subject,
            html_content=paragraphs,
        )


def by_webhook(subject: str, text: str) -> None:
    """Send a POST to the URL that is the password of the configured connection."""
    url = Connection.get(os.environ[WEBHOOK]).password or ""
    if urlsplit(url).scheme not in {"http", "https"}:
        raise ValueError("the connection's password is not an http or https URL")
    request = urllib.request.Request(  # noqa: S310 - checked above
        url,
        json.dumps({"text": f"{subject}\n{text}"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310
        pass


def message(event: str, context: Mapping[str, Any]) -> tuple[str, str]:
    """Return subject and text: what happened, what is wrong in the mirror, where to look.

    Args:
        event: What happened.
        context: Airflow's; of a deadline it holds plain values instead of objects.
    """
    run = context.get("dag_run")
    if isinstance(run, Mapping):
        dag_id, run_id = str(run["dag_id"]), str(run["dag_run_id"])
    else:
        dag_id, run_id = context["dag_run"].dag_id, context["dag_run"].run_id
    lines = [f"Run {run_id}", *failures(dag_id)]
    base = conf.get("api", "base_url", fallback="") or ""
    if base:
        path = f"dags/{quote(dag_id)}/runs/{quote(run_id)}"
        lines += [f"{base.rstrip('/')}/plugin/puavo-repository", f"{base.rstrip('/')}/{path}"]
    return f"{dag_id}: {event}", "\n".join(lines)


def failures(dag_id: str) -> list[str]:
    """Return what the mirror's own records say is wrong: the last night's, or the last audit's."""
    try:
        mirror = Mirror(settings.load({}).mirror_dir)
        if dag_id == AUDIT:
            audit = report.last(mirror.root)
            found = [str(one) for one in audit.findings] if audit else []
        else:
            found = [failure.message for failure in mirror.state.failures]
    except RepositoryError as error:
        return [str(error)]
    more = len(found) - _FAILURES_NAMED
    return found[:_FAILURES_NAMED] + ([f"and {more} more"] if more > 0 else [])


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
