"""Audit: is the mirror right here, on every remote, and as clients see it?

Weekly, and by hand with a form. All digests of the local mirror are computed again, the remote
trees compared with it, and clients' way walked by https: metadata, sizes, ranges, the certificate,
and one update as a laptop makes it. Nothing is changed, unless repairs are asked for. The run
fails where clients are, or soon will be, led to something wrong or cut off; each finding names the
file, what was expected and found, and what to do.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, get_current_context, task

from puavo_repository import settings
from puavo_repository.audit.audit import conclude, turns_before
from puavo_repository.audit.clients import clients as audit_clients
from puavo_repository.audit.local import local as audit_local
from puavo_repository.audit.remote import remote as audit_remote
from puavo_repository.audit.repair import repair_local, repair_remote
from puavo_repository.audit.report import LOCAL, Checked, Finding, Severity
from puavo_repository.errors import PermanentError
from puavo_repository.progress import LoggedWatcher
from puavo_repository.publish import options as publish_options
from puavo_repository.remote.target import without_password
from puavo_repository.settings import Settings
from puavo_repository.settings.model import default
from puavo_repository_airflow import dag_settings, notify, remotes
from puavo_repository_airflow.tasks import WHERE, Facts, field, label, retries, run_here

HOW = "How"
PARAMS = {
    "repair": remotes.flag(
        "Repair what is safe to repair",
        "A file on a mirror that is missing or wrong, and right here, is sent again; a wrong rdiff "
        "here is withdrawn, and made anew by the next run of prepare. Images here are never "
        "touched, and files that nobody described never removed",
        HOW,
    ),
    "audit_share": field(
        "number",
        "Share",
        "Of the remote files that are read whole, and of the rdiffs that are applied again; "
        f"another part each time. Default {default('audit_share')}; 1 for all of them",
        HOW,
        minimum=0,
        maximum=1,
    ),
    "audit_https": field(
        "boolean",
        "Look at what clients see",
        "By https, at the repository's address. Default: yes",
        HOW,
    ),
    "repository": field(
        "string",
        "Repository",
        "Host name, or https URL, under which clients reach the mirror",
        WHERE,
        examples=["images.example.org"],
    ),
    **remotes.PARAMS,
}


logger = logging.getLogger("puavo_repository.audit")


def chosen() -> Settings:
    """Return the settings of this run: the environment, then its params."""
    return settings.load(get_current_context()["params"])


def repairs() -> bool:
    """Tell whether this run repairs."""
    return bool(get_current_context()["params"]["repair"])


def told(found: Checked) -> Facts:
    """Return what a check found, after its task's log has it."""
    for finding in found.findings:
        logger.warning("%s: %s", finding.severity.value, finding)
    return found.to_dict()


def unmade(count: int) -> Finding:
    """Return the finding that some checks were not made."""
    problem = f"checks that did not come to their end: {count}"
    return Finding(Severity.ERROR, "audit", "", problem, remedy="See the log of their tasks")


@dag(
    # Without a start date the first one waits for its hour.
    schedule=dag_settings.audit_schedule(),
    catchup=False,
    max_active_runs=1,
    default_args=retries(2, timedelta(minutes=5), timedelta(hours=24)),
    params=PARAMS,
    on_failure_callback=notify.on_failure(),
    tags=["puavo"],
    doc_md=__doc__,
)
def puavo_repository_audit() -> None:
    """Look at everything again."""

    @task
    def begin() -> Facts:
        found = chosen()
        mirrors = [{"mirror": name} for name in remotes.mirrors()]
        return {"begun": time.time(), "turns": dict(turns_before(found)), "mirrors": mirrors}

    @task
    def local(audit: Facts) -> Facts:
        os.nice(10)
        found = audit_local(chosen(), None, audit["turns"].get(LOCAL, 0), LoggedWatcher())
        if repairs():
            run = f"DAG run {get_current_context()['run_id']}"
            found = repair_local(chosen(), found, run)
        return told(found)

    @task
    def mirrors(audit: Facts) -> list[Facts]:
        return [{**mirror, "turns": audit["turns"]} for mirror in audit["mirrors"]]

    @task(map_index_template="{{ label }}")
    def remote(work: Facts) -> Facts:
        label(without_password(work["mirror"]))
        options, here = publish_options.load({}), chosen()
        target = remotes.target(work["mirror"], options)
        # A connection's id is the mirror's name wherever it is shown.
        where = target.url if "://" in work["mirror"] else work["mirror"]
        found = audit_remote(
            here.mirror_dir,
            target,
            work["turns"].get(where, 0),
            options,
            share=here.audit_share,
            watcher=LoggedWatcher(),
        )
        if repairs():
            found = repair_remote(here.mirror_dir, target, found, options)
        return told(found.named(where))

    @task(trigger_rule="all_done")
    def clients(audit: Facts) -> Facts | None:
        if not chosen().audit_https:
            return None
        turn = audit["turns"].get(chosen().repository, 0)
        return told(audit_clients(chosen(), turn, LoggedWatcher()))

    @task(trigger_rule="all_done")
    def report(audit: Facts, local: Any, remote: Any, clients: Any) -> None:
        parts = [local, *(remote[index] for index in range(len(remote or ()))), clients]
        checks = [Checked.from_dict(part) for part in parts if part]
        missing = len(audit["mirrors"]) + 1 + chosen().audit_https - len(checks)
        if missing:
            checks.append(Checked("audit", findings=(unmade(missing),)))
        found = conclude(chosen(), audit["begun"], checks)
        get_current_context()["ti"].xcom_push("audit", found.to_dict())
        sys.stdout.write("\n".join(found.lines()) + "\n")
        errors = [str(one) for one in found.findings if one.severity is Severity.ERROR]
        if errors:
            raise PermanentError("audit", f"{len(errors)} errors", found="; ".join(errors[:10]))

    audit = begin()
    here, there = local(audit), remote.expand(work=mirrors(audit))
    # Clients come last: they see what was repaired before.
    seen = clients(audit)
    [here, there] >> seen
    report(audit, here, there, seen)


audit = puavo_repository_audit()

if __name__ == "__main__":
    sys.exit(0 if run_here(audit) else 1)
