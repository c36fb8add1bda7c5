"""Publish the mirror: upload, switch, clean, report.

Runs whenever the mirror was prepared, and by hand with a form; an empty field of it is as this
installation is set up. A remote is an URL (`sftp://user@host/path`, `file:///path`) or the id of an
Airflow connection with host, login, and
`{"path": "/folder/on/the/server", "host_key": "ssh-ed25519 AAAA…"}` in its extra. Each remote is
published by itself: one that cannot be reached does not hold back another. Clients find a complete
repository at every moment, whatever is interrupted. Every task may be cleared: it looks for itself
what there is to do today.
"""

import logging
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from airflow.sdk import dag, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from puavo_repository.errors import RepositoryError
from puavo_repository.progress import count
from puavo_repository.publish.clean import clean as clean_remote
from puavo_repository.publish.publisher import Publisher, PublishReport
from puavo_repository.publish.run import remember
from puavo_repository.publish.switch import switch as switch_remote
from puavo_repository.publish.upload import upload as upload_files
from puavo_repository.remote.lock import BEAT, EXPIRY
from puavo_repository.remote.target import without_password
from puavo_repository.retry import when_free
from puavo_repository_airflow import summary, tasks
from puavo_repository_airflow.tasks import asked, chosen

logger = logging.getLogger("puavo_repository.publish")
STEPS = ("upload", "switch", "clean")
PATIENCE = EXPIRY + 2 * BEAT  # seconds to wait for another publisher; the lock of a dead one ends
PARAMS = {
    "dry_run": tasks.DRY_RUN,
    **tasks.fields("allow_mass_delete", "bandwidth", "allow_rolled_back", "allow_other_mirror"),
    **tasks.MIRRORS,
}


def did(step: str, mirror: int) -> dict[str, Any]:
    """Return what a step of this run did to a mirror; empty where it was not begun."""
    return tasks.returned(f"publish.{step}", mirror, "did") or {}


def follow(mirror: str, step: Callable[[Publisher], object]) -> PublishReport:
    """Do one step on a mirror; what it did is kept for the report, whether it went well or not."""
    report, ti = PublishReport(without_password(mirror)), get_current_context()["ti"]
    tasks.label(report.target)
    ti.xcom_push("did", {"try": ti.try_number})  # of an earlier one nothing counts any more

    def anew(remote: Publisher) -> None:
        nonlocal report
        report = remote.report = PublishReport(report.target)
        step(remote)

    try:
        with tasks.publisher(mirror) as remote:
            when_free(partial(anew, remote), PATIENCE)
    except RepositoryError as error:
        problem = str(error).removeprefix(f"{report.target}: ")
        report.failed = {"publishing": problem, **report.failed}
        raise
    finally:
        # A worker that was cut off may come back after another one has done this.
        kept = tasks.returned(ti.task_id, ti.map_index, "did") or {}
        if kept.get("try", 0) <= ti.try_number:
            ti.xcom_push("did", {"try": ti.try_number, **summary.step(report)})
    return report


def sent(report: PublishReport) -> None:
    """Raise if files could not be sent."""
    report.checked(f"{count(len(report.failed), 'file')} could not be sent")


def after_upload(mirror: str, step: Callable[[Publisher], object]) -> None:
    """Do a later step, but where the upload could not be made at all."""
    uploaded = did("upload", get_current_context()["ti"].map_index)
    if asked("dry_run") or "publishing" in uploaded.get("failed", {}):
        raise AirflowSkipException("a dry run, or the upload did not come to its end")
    follow(mirror, step)


def concluded(mirror: str, done: list[dict[str, Any]]) -> PublishReport:
    """Return the report on one remote, by looking at it once more."""
    found = PublishReport(without_password(mirror), asked("dry_run"))
    for step in done:
        found.failed |= step.get("failed", {})
    try:
        with tasks.publisher(mirror) as remote:
            found.left(*remote.look())
    except RepositoryError as error:
        found.failed["publishing"] = str(error)
    if not found.dry_run:
        remember(chosen(images=False).mirror_dir, found)
    return found


@dag(
    schedule=[tasks.PREPARED],
    **tasks.common(__doc__, PARAMS, 5, timedelta(seconds=30), timedelta(hours=24)),
)
def puavo_repository_publish() -> None:
    """Bring every remote mirror up to date with the local one."""

    @task(map_index_template="{{ label }}", queue=tasks.TRANSFER)
    def upload(mirror: str) -> None:
        def step(remote: Publisher) -> None:
            report = remote.report
            if asked("dry_run"):
                logger.info("%s:\n%s", report.target, "\n".join(remote.look()[1].lines()))
                return
            upload_files(remote)
            if report.server_lost:
                sent(report)

        # Files that cannot be sent are named, and hold back only what names them.
        sent(follow(mirror, step))

    @task(map_index_template="{{ label }}", trigger_rule="all_done")
    def switch(mirror: str) -> None:
        after_upload(mirror, switch_remote)

    @task(map_index_template="{{ label }}", trigger_rule="all_done")
    def clean(mirror: str) -> None:
        after_upload(mirror, clean_remote)

    @task_group
    def publish(mirror: str) -> None:
        upload(mirror) >> switch(mirror) >> clean(mirror)

    @task(trigger_rule="all_done")
    def report(mirrors: list[str] | None) -> None:
        every = tasks.named(mirrors)
        done = [[did(step, index) for step in STEPS] for index in range(len(every))]
        reports = [concluded(*both) for both in zip(every, done, strict=True)]
        summary.published(reports, done)
        for found in reports:
            found.checked()

    every = tasks.mirrors()
    publish.expand(mirror=every) >> report(every)


publish = puavo_repository_publish()

if __name__ == "__main__":
    sys.exit(0 if tasks.run_here(publish) else 1)
