"""Publish the mirror: plan, upload, assemble, switch, prune, verify, report.

Runs whenever the mirror was prepared, and by hand with a form. A remote is an URL
(`sftp://user@host/path`, `file:///path`) or the id of an Airflow connection with host, login, and
`{"path": "/folder/on/the/server", "host_key": "ssh-ed25519 AAAA…"}` in its extra. Each remote
goes its own way: one that cannot be reached does not hold back another. Clients find a
complete repository at every moment, whatever is interrupted.
"""

from __future__ import annotations

import logging
import secrets
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import dag, get_current_context, task

from puavo_repository.errors import RepositoryError
from puavo_repository.stages.publish import remember
from puavo_repository.stages.publish_plan import How, Transfer
from puavo_repository.stages.publish_report import PublishReport
from puavo_repository.stages.transfer import Placed
from puavo_repository.storage.target import without_password
from puavo_repository_airflow import notify, remotes
from puavo_repository_airflow.remotes import flag
from puavo_repository_airflow.tasks import (
    MAPPED_TASKS,
    PREPARED,
    Facts,
    field,
    label,
    retries,
    run_here,
)

UPLOADS = 4  # side by side; each gets its share of the bandwidth
logger = logging.getLogger("puavo_repository.publish")


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
        "Publish what was stepped back from",
        "What `puavo_repository_rollback` took from clients stays away until it is no longer "
        "described. Check this once where it is good after all",
        HOW,
    ),
    **remotes.PARAMS,
}


def works(plans: Any, how: How) -> list[Facts]:
    """Cut the transfers of one kind into as many works as tasks can be mapped."""
    plans = each(plans)
    total = sum(len(plan["transfers"]) for plan in plans)
    size = max(1, -(-total // (MAPPED_TASKS - len(plans))))
    made = []
    for plan in plans:
        items = [item for item in plan["transfers"] if item["how"] == how.value]
        for start in range(0, len(items), size):
            part = items[start : start + size]
            made.append({"mirror": plan["mirror"], "token": plan["token"], "items": part})
    return made


def placed_at(mirror: str, *results: Any) -> list[Placed]:
    """Return what tasks put on one remote; of those that failed or were skipped, nothing."""
    done = [work for result in results for work in each(result) if work["mirror"] == mirror]
    return [Placed.from_dict(values) for work in done for values in work["placed"]]


def each(results: Any) -> list[Facts]:
    """Return what mapped tasks returned; iterating Airflow's sequence logs an error at its end."""
    return [results[index] for index in range(len(results))] if results else []


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
    def mirrors() -> list[Facts]:
        return [{"mirror": name, "token": secrets.token_hex(8)} for name in remotes.mirrors()]

    @task(map_index_template="{{ label }}")
    def plan(mirror: Facts) -> Facts:
        label(without_password(mirror["mirror"]))
        with remotes.publisher(mirror) as remote:
            _, facts, made = remote.look()
            logger.info("%s:\n%s", mirror["mirror"], "\n".join(made.lines()))
            idle = True
            if not get_current_context()["params"]["dry_run"]:
                idle = made.is_empty and facts.settled
                if idle:
                    remote.tidy()
                else:
                    remote.prepare(facts, made)
        return {**mirror, "idle": idle, "transfers": [item.to_dict() for item in made.transfers]}

    @task(trigger_rule="all_done")
    def todo(plans: list[Facts]) -> list[Facts]:
        return [found for found in each(plans) if not found["idle"]]

    @task
    def uploads(plans: list[Facts]) -> list[Facts]:
        return works(plans, How.UPLOADED)

    @task(map_index_template="{{ label }}", max_active_tis_per_dag=UPLOADS)
    def upload(work: Facts) -> Facts:
        label(*(item["path"] for item in work["items"]))
        with remotes.publisher(work, 1 / UPLOADS) as remote, remote.alive():
            placed = [remote.transfer(Transfer.from_dict(item)) for item in work["items"]]
        return {"mirror": work["mirror"], "placed": [file.to_dict() for file in placed]}

    @task(trigger_rule="all_done")
    def assemblies(plans: list[Facts]) -> list[Facts]:
        return works(plans, How.ASSEMBLED)

    # One after another: an image may be made from the one before it.
    @task(map_index_template="{{ label }}", max_active_tis_per_dag=1)
    def assemble(work: Facts) -> Facts:
        label(*(item["path"] for item in work["items"]))
        with remotes.publisher(work) as remote, remote.alive():
            placed = [remote.transfer(Transfer.from_dict(item)) for item in work["items"]]
        return {"mirror": work["mirror"], "placed": [file.to_dict() for file in placed]}

    @task(map_index_template="{{ label }}", trigger_rule="all_done")
    def switch(plan: Facts, uploaded: Any, assembled: Any) -> Facts:
        label(without_password(plan["mirror"]))
        done = placed_at(plan["mirror"], uploaded, assembled)
        with remotes.publisher(plan) as remote:
            switched = remote.switch(done, [Transfer.from_dict(i) for i in plan["transfers"]])
        return {"mirror": plan["mirror"], "switched": switched.to_dict()}

    @task(map_index_template="{{ label }}", trigger_rule="all_done")
    def prune(plan: Facts) -> Facts:
        label(without_password(plan["mirror"]))
        with remotes.publisher(plan) as remote:
            return {"mirror": plan["mirror"], "pruned": remote.prune().to_dict()}

    @task(map_index_template="{{ label }}", trigger_rule="all_done")
    def verify(plan: Facts, uploaded: Any, assembled: Any) -> int:
        label(without_password(plan["mirror"]))
        fresh = [file.path for file in placed_at(plan["mirror"], uploaded, assembled)]
        with remotes.publisher(plan) as remote:
            return remote.verify(fresh)

    @task(trigger_rule="all_done")
    def report(
        mirrors: list[Facts], uploaded: Any, assembled: Any, switched: Any, pruned: Any
    ) -> list[Facts]:
        reports = [
            concluded(work, placed_at(work["mirror"], uploaded, assembled), switched, pruned)
            for work in mirrors
        ]
        logger.info("\n".join(line for found in reports for line in found.lines()))
        documents = [found.to_dict() for found in reports]
        get_current_context()["ti"].xcom_push("published", documents)
        return [found.checked().to_dict() for found in sorted(reports, key=lambda r: not r.ok)]

    every = mirrors()
    plans = todo(plan.expand(mirror=every))
    uploaded = upload.expand(work=uploads(plans))
    to_assemble = assemblies(plans)
    assembled = assemble.expand(work=to_assemble)
    switched = switch.partial(uploaded=uploaded, assembled=assembled).expand(plan=plans)
    pruned = prune.expand(plan=plans)
    verified = verify.partial(uploaded=uploaded, assembled=assembled).expand(plan=plans)
    uploaded >> to_assemble
    switched >> pruned >> verified >> report(every, uploaded, assembled, switched, pruned)


def concluded(work: Facts, placed: list[Placed], switched: Any, pruned: Any) -> PublishReport:
    """Return the report on one remote, by looking at it once more."""
    found = PublishReport(work["mirror"], bool(get_current_context()["params"]["dry_run"]))
    found.placed(placed)
    for done in (*each(switched), *each(pruned)):
        if done["mirror"] == work["mirror"]:
            found.took(done)
    try:
        with remotes.publisher(work) as remote:
            found = remote.conclude(found)
    except RepositoryError as error:
        found.failed["connecting"] = str(error)
    if not found.dry_run:
        remember(remotes.chosen().mirror_dir, found)
    return found


publish = puavo_repository_publish()

if __name__ == "__main__":
    sys.exit(0 if run_here(publish) else 1)
