"""Prepare the image repository: discover, configure, plan, fingerprint, diff, describe, report.

Runs nightly, and by hand with a form; an empty field of it is as this installation is set up. Every
task calls one stage of ``puavo_repository.prepare``, which looks for itself at what is there: any
task may be cleared at any time, and does what is right then. Tasks hand on names alone. One bad
image or rdiff fails its own task; the rest goes on and is described, and the run ends failed and
says what failed.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from puavo_repository import prepare as stages
from puavo_repository import settings
from puavo_repository.cli.terminal import print_lines
from puavo_repository.delta import librsync
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.prepare import run
from puavo_repository.prepare.plan import DiffState, look
from puavo_repository.settings import Settings
from puavo_repository_airflow import notify, summary, tasks
from puavo_repository_airflow.tasks import asked, begun, chosen

PARAMS = {
    "dry_run": tasks.DRY_RUN,
    **tasks.fields("image_dir", "mirror_dir", "repository", "puavo_os", "no_config"),
    **tasks.fields("targets", "sources", "max_share", "engine", "allow_mass_delete"),
}
NOT_OURS = (
    "This run prepared other folders than this installation is set up for: nothing is published "
    "of them by itself"
)


@contextmanager
def locked(*, shared: bool = False) -> Iterator[Settings]:
    """Hold the mirror's lock in the name of this run; a compute task also makes way for others."""
    found = chosen()
    if shared:
        os.nice(10)
    holder = f"DAG run {get_current_context()['run_id']}"
    with Mirror(found.mirror_dir).locked(holder, shared=shared):
        yield found


@dag(
    schedule=settings.usable().schedule or None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    deadline=notify.deadline(),
    **tasks.common(__doc__, PARAMS, 4, timedelta(seconds=20), timedelta(hours=12)),
)
def puavo_repository_prepare() -> None:
    """Bring the local mirror up to date with the image directory."""

    @task
    def discover() -> None:
        found = chosen()
        if not asked("dry_run"):
            stages.describe.guard(found, look(found))

    @task
    def configure() -> dict[str, list[str]]:
        if asked("dry_run"):
            return {}
        with locked() as found:
            removed = stages.describe.clean(found)
            notes = stages.configure.configure(found, stages.discover.discover(found)).notes
        lists = {"removed": removed, "notes": notes}
        return {name: summary.short(lines, summary.OF_TWO) for name, lines in lists.items()}

    @task.short_circuit
    def dry_run() -> bool:
        if asked("dry_run"):
            plan = run.dry_run(chosen())
            print_lines(plan.lines())
            summary.planned(plan)
        return not asked("dry_run")

    @task
    def plan() -> list[str]:
        with locked() as found:
            made = look(found)
        if made.has_work:
            librsync.library()  # that it is installed is seen before hours of work
        return tasks.parts(made.to_read)

    @task(map_index_template="{{ label }}", queue=tasks.COMPUTE)
    def fingerprint(part: str) -> None:
        tasks.label(part)
        with locked(shared=True) as found:
            step, seen = stages.fingerprint.fingerprint, look(found)
            sizes = {name: one.size for name, one in seen.inventory.images.items()}
            names = tasks.of_part(part, seen.fingerprints)
            with tasks.watched(found, "fingerprint", part) as told:
                tasks.each(names, lambda name: step(found, name, told.begin(name, sizes[name])))

    @task(trigger_rule="all_done_min_one_success")
    def pairs() -> list[str]:
        with locked() as found:
            missing = look(found).to_make
        return tasks.parts([pair.rdiff for pair in missing])

    @task(map_index_template="{{ label }}", queue=tasks.COMPUTE)
    def diff(part: str) -> None:
        tasks.label(part)
        with locked(shared=True) as found:
            seen = look(found)
            missing = {pair.rdiff: pair for pair in seen.pairs(DiffState.MISSING)}
            work = {n: 2 * seen.inventory.images[p.target].size for n, p in missing.items()}
            with tasks.watched(found, "diff", part) as told:

                def step(name: str) -> None:
                    stages.diff.diff(found, missing[name], told.begin(name, work[name]))

                tasks.each(tasks.of_part(part, missing), step)

    @task(trigger_rule="all_done_min_one_success")
    def describe() -> list[str]:
        # Where every task did its work, what is not done came meanwhile: the next run's.
        ti, states = get_current_context()["ti"], ["failed", "upstream_failed"]
        both = {"task_ids": ["fingerprint", "diff"], "run_ids": [ti.run_id], "states": states}
        undertaken = None if ti.get_ti_count(ti.dag_id, **both) else ()
        with locked() as found:
            removed = stages.describe.describe(found, undertaken)
        return summary.short(removed, summary.OF_TWO)

    @task
    def report(configured: dict[str, list[str]], removed: list[str]) -> None:
        both, notes = [*configured["removed"], *removed], configured["notes"]
        found = stages.report.report(chosen(), begun(), removed=both, notes=notes)
        print_lines(found.lines())
        summary.prepared(found)
        found.checked()

    @task(outlets=[tasks.PREPARED])
    def hand_over() -> None:
        found = chosen()
        if not found.configured:
            raise AirflowSkipException(NOT_OURS)
        event = get_current_context()["outlet_events"][tasks.PREPARED]
        event.extra = {"image_dir": str(found.image_dir), "mirror_dir": str(found.mirror_dir)}

    configured, images, rdiffs, described = configure(), plan(), pairs(), describe()
    discover() >> configured >> dry_run() >> images
    # So both have one success above them, where every single image or rdiff fails.
    images >> [rdiffs, described]
    fingerprint.expand(part=images) >> rdiffs
    diff.expand(part=rdiffs) >> described >> hand_over()
    report(configured, described)


prepare = puavo_repository_prepare()

if __name__ == "__main__":
    sys.exit(0 if tasks.run_here(prepare) else 1)
