"""Publish the mirror: upload, switch, clean, report.

Runs whenever the mirror was prepared, and by hand with a form. A remote is an URL
(`sftp://user@host/path`, `file:///path`) or the id of an Airflow connection with host, login, and
`{"path": "/folder/on/the/server", "host_key": "ssh-ed25519 AAAA…"}` in its extra. Each remote
goes its own way: one that cannot be reached does not hold back another. Clients find a
complete repository at every moment, whatever is interrupted. Every task may be cleared: it looks
for itself what there is to do today.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from puavo_repository.errors import RepositoryError
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.report import PublishReport
from puavo_repository.publish.run import remember
from puavo_repository.remote.target import without_password
from puavo_repository_airflow import notify, remotes
from puavo_repository_airflow.remotes import flag
from puavo_repository_airflow.tasks import PREPARED, Facts, field, label, retries, run_here

logger = logging.getLogger("puavo_repository.publish")
STEPS = ("upload", "switch", "clean")

HOW = "How"
PARAMS = {
    "dry_run": flag(
        "Dry run",
        "Only look and plan; nothing is changed. The plan is on the run's tab **Plan and report**",
        HOW,
    ),
    "allow_mass_delete": flag(
        "Allow mass deletion",
        "A run that would remove more than `PUAVO_REPOSITORY_MAX_DELETE` (default 0.3) of a "
        "mirror stops before it removes anything. Check the plan, then allow it this once",
        HOW,
    ),
    "bandwidth": field(
        "string",
        "Bandwidth",
        "Bytes a second, such as `2M`, or by the hour of the day: `0 7-19=500k` is without limit, "
        "but 500 kB a second from 7 to 19. Default: without limit",
        HOW,
        examples=["2M", "0 7-19=500k"],
    ),
    "allow_rolled_back": flag(
        "Publish what was rolled back from",
        "What `puavo_repository_rollback` took from clients stays away until it is no longer "
        "described. Check this once where it is good after all",
        HOW,
    ),
    **remotes.PARAMS,
}


def is_dry_run() -> bool:
    """Tell whether this run is to change nothing."""
    return bool(get_current_context()["params"]["dry_run"])


def done(mirror: str, step: str) -> Facts | None:
    """Return what a step of this run did to a mirror; None where it did not come to its end."""
    ti, index = get_current_context()["ti"], remotes.mirrors().index(mirror)
    found: Facts | None = ti.xcom_pull(task_ids=f"publish.{step}", map_indexes=index, key="done")
    return found


def follow(mirror: str, step: Callable[[Publisher, PublishReport], object]) -> None:
    """Do one step on a mirror; what it did is kept for the report, whether it went well or not."""
    report = PublishReport(without_password(mirror))
    label(report.target)
    try:
        with remotes.publisher(mirror) as remote:
            step(remote, report)
    except RepositoryError as error:
        report.failed.setdefault("publishing", str(error).removeprefix(f"{report.target}: "))
        raise
    finally:
        get_current_context()["ti"].xcom_push("done", report.changes())


def after_upload(mirror: str) -> None:
    """Skip what comes after an upload that could not be made at all."""
    if is_dry_run() or (done(mirror, "upload") or {}).get("failed", {}).get("publishing"):
        raise AirflowSkipException("a dry run, or the upload did not come to its end")


@dag(
    schedule=[PREPARED],
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=retries(5, timedelta(seconds=30), timedelta(hours=24)),
    params=PARAMS,
    on_failure_callback=notify.on_failure(),
    tags=["puavo"],
    doc_md=__doc__,
)
def puavo_repository_publish() -> None:
    """Bring every remote mirror up to date with the local one."""

    @task
    def mirrors() -> list[str]:
        return remotes.mirrors()

    @task(map_index_template="{{ label }}")
    def upload(mirror: str) -> None:
        def step(remote: Publisher, report: PublishReport) -> None:
            if is_dry_run():
                logger.info("%s:\n%s", report.target, "\n".join(remote.look()[1].lines()))
                return
            done = remote.upload(report.transferred)
            report.failed |= done.failed
            done.checked(report.target)

        follow(mirror, step)

    @task(map_index_template="{{ label }}", trigger_rule="all_done")
    def switch(mirror: str) -> None:
        after_upload(mirror)
        follow(mirror, lambda remote, report: report.switched_to(remote.switch()[1]))

    @task(map_index_template="{{ label }}", trigger_rule="all_done")
    def clean(mirror: str) -> None:
        after_upload(mirror)
        follow(mirror, lambda remote, report: report.cleaned(remote.clean()))

    @task_group
    def publish(mirror: str) -> None:
        upload(mirror) >> switch(mirror) >> clean(mirror)

    @task(trigger_rule="all_done")
    def report(mirrors: list[str]) -> None:
        reports = [concluded(mirror) for mirror in mirrors]
        logger.info("\n".join(line for found in reports for line in found.lines()))
        get_current_context()["ti"].xcom_push("published", [found.to_dict() for found in reports])
        for found in reports:
            found.checked()

    every = mirrors()
    publish.expand(mirror=every) >> report(every)


def concluded(mirror: str) -> PublishReport:
    """Return the report on one remote, by looking at it once more."""
    found = PublishReport(without_password(mirror), is_dry_run())
    for step in STEPS:
        found.add(done(mirror, step) or {})
    try:
        with remotes.publisher(mirror) as remote:
            found.left(*remote.look())
    except RepositoryError as error:
        found.failed["publishing"] = str(error)
    if not found.dry_run:
        remember(remotes.chosen().mirror_dir, found)
    return found


publish = puavo_repository_publish()

if __name__ == "__main__":
    sys.exit(0 if run_here(publish) else 1)
