"""Audit: is the mirror right here, on every remote, and as clients see it?

Runs weekly, and by hand with a form; an empty field of it is as this installation is set up. All
digests of the local mirror are computed again, the remote trees are compared with it, and the
clients' view is checked by https: metadata, sizes, ranges, the certificate, and one update as a
laptop makes it. Nothing is changed, unless repairs are asked for. The run fails where clients are,
or soon will be, led to something wrong or cut off; each finding names the file, what was expected
and found, and what to do.
"""

import logging
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, get_current_context, task

from puavo_repository.audit.audit import conclude, repair_local, repair_remote
from puavo_repository.audit.clients import clients as audit_clients
from puavo_repository.audit.local import local as audit_local
from puavo_repository.audit.remote import remote as audit_remote
from puavo_repository.audit.report import CHECKED, Checked, error
from puavo_repository.errors import PermanentError
from puavo_repository.language import gettext_noop
from puavo_repository.progress import LoggedWatcher, count
from puavo_repository.remote.target import without_password
from puavo_repository.settings import usable
from puavo_repository_airflow import summary, tasks
from puavo_repository_airflow.tasks import asked, begun, chosen

logger = logging.getLogger("puavo_repository.audit")
PARAMS = {
    "repair": tasks.flag(
        gettext_noop("Repair what is safe to repair"),
        gettext_noop(
            "A file on a mirror that is missing or wrong, and right here, is sent again; a wrong "
            "rdiff here is withdrawn, and made anew by the next run of prepare. Images here are "
            "never touched, and files that nobody described never removed"
        ),
    ),
    **tasks.fields("audit_share", "audit_https", "repository"),
    **tasks.MIRRORS,
}


def logged(found: Checked) -> dict[str, Any]:
    """Return what a check found, after its task's log has it."""
    for one in found.findings:
        logger.warning("%s: %s", one.severity, one)
    values: dict[str, Any] = CHECKED.dump_python(found, mode="json")
    return values


def every_check(mirrors: list[str] | None) -> Iterator[Checked]:
    """Yield what each check found, and that some did not end."""
    remote = [tasks.returned("remote", index) for index in range(len(mirrors or ()))]
    parts = [tasks.returned("local"), *remote, tasks.returned("clients")]
    yield from (CHECKED.validate_python(part) for part in parts if part)
    unknown = mirrors is None  # their checks did not even begin
    if missing := parts.count(None) + unknown - (not chosen().audit_https):
        problem = f"checks that did not come to their end: {missing}"
        finding = error("", problem, remedy="See the log of their tasks")
        yield Checked("audit", findings=(finding,), whole=False)


@dag(
    schedule=tasks.schedule(usable().audit_schedule),
    **tasks.common(__doc__, PARAMS, 3, timedelta(seconds=30), timedelta(hours=24)),
)
def puavo_repository_audit() -> None:
    """Look at everything again."""

    @task(queue=tasks.COMPUTE)
    def local() -> dict[str, Any]:
        os.nice(10)
        here = chosen()
        found = audit_local(here, LoggedWatcher())
        if asked("repair"):
            found = repair_local(here, found, f"DAG run {get_current_context()['run_id']}")
        return logged(found)

    @task(map_index_template="{{ label }}", queue=tasks.TRANSFER)
    def remote(mirror: str) -> dict[str, Any]:
        tasks.label(without_password(mirror))
        here = chosen()
        target = tasks.target(mirror, here)
        found = audit_remote(here, target, LoggedWatcher())
        return logged(repair_remote(here, target, found) if asked("repair") else found)

    @task(trigger_rule="all_done")
    def clients() -> dict[str, Any] | None:
        here = chosen()
        if not here.audit_https:
            return None
        return logged(audit_clients(here, LoggedWatcher()))

    @task(trigger_rule="all_done")
    def report(mirrors: list[str] | None) -> None:
        found = conclude(chosen(), begun(), list(every_check(mirrors)))
        sys.stdout.write("\n".join(found.lines()) + "\n")
        summary.audited(found)
        if not found.ok:
            problem, named = count(len(found.errors), "error"), map(str, found.errors[:10])
            raise PermanentError("audit", problem, found="; ".join(named))

    every = tasks.mirrors()
    # Clients come last: they see what was repaired before.
    [local(), remote.expand(mirror=every)] >> clients() >> report(every)


puavo_repository_audit()
