"""Roll back after a bad night: clients see an earlier generation of the published mirrors again.

By hand only. Metadata and CKSUMS are put back, after every file that they name was found in
place; images and rdiffs stay as they are. What is taken from clients so is not published again
before it is gone from the local mirror, or a run of publish allows it.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, get_current_context, task

from puavo_repository.errors import PublishError, SettingsError
from puavo_repository.remote.target import without_password
from puavo_repository.rollback import history, rollback
from puavo_repository.rollback.rollback import remember
from puavo_repository_airflow import notify, remotes
from puavo_repository_airflow.tasks import Facts, field, label, retries, run_here

WHAT = "What"
PARAMS = {
    "dry_run": remotes.flag(
        "Only show the generations",
        "Nothing is changed. What there is to go back to is on the run's tab **Plan and report**",
        WHAT,
    ),
    "generation": field(
        "integer",
        "Generation",
        "Number of the generation to go back to, of one mirror. Default: the last one that has "
        "other metadata",
        WHAT,
        minimum=0,
    ),
    "series": field(
        "array",
        "Series",
        "Only these, one a line, such as `puavo-os-amxa-bookworm-amd64`. Default: all",
        WHAT,
        items={"type": "string"},
    ),
    **remotes.PARAMS,
}
logger = logging.getLogger("puavo_repository.rollback")


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=retries(3, timedelta(seconds=30), timedelta(hours=4)),
    params=PARAMS,
    on_failure_callback=notify.on_failure(),
    tags=["puavo"],
    doc_md=__doc__,
)
def puavo_repository_rollback() -> None:
    """Give clients an earlier generation of every mirror."""

    @task
    def mirrors() -> list[str]:
        names = remotes.mirrors()
        if not names:
            raise SettingsError(
                "PUAVO_REPOSITORY_REMOTE",
                "no published mirror is named",
                remedy="Set it, or name a mirror in the form",
            )
        if get_current_context()["params"]["generation"] is not None and len(names) != 1:
            raise SettingsError(
                "generation", "each mirror counts its own", remedy="Name one mirror as well"
            )
        return names

    @task(map_index_template="{{ label }}")
    def roll_back(mirror: str) -> Facts:
        params, address = get_current_context()["params"], without_password(mirror)
        label(address)
        with remotes.publisher(mirror) as remote:
            if params["dry_run"]:
                return {
                    "target": address,
                    "steps": [one.to_dict() for one in history.steps(remote)],
                }
            done = rollback.roll_back(remote, params["generation"], params["series"] or ())
        remember(remotes.chosen().mirror_dir, address, done)
        return {**done.to_dict(), "target": address}

    @task(trigger_rule="all_done")
    def report(mirrors: list[str], done: list[Facts]) -> None:
        found = [done[index] for index in range(len(done))] if done else []
        get_current_context()["ti"].xcom_push("rolled_back", found)
        lost = len(mirrors) - len(found)
        if lost:
            raise PublishError(
                f"{lost} of {len(mirrors)} mirrors",
                "did not roll back",
                remedy="See the log of their tasks",
            )

    every = mirrors()
    report(every, roll_back.expand(mirror=every))


rolling_back = puavo_repository_rollback()

if __name__ == "__main__":
    sys.exit(0 if run_here(rolling_back) else 1)
