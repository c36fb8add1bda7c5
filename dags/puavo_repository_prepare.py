"""Prepare the image repository: discover, configure, plan, fingerprint, diff, describe, report.

Nightly, and by hand with a form. Every task calls one stage of ``puavo_repository.prepare``, which
looks for itself at what is there: any may be cleared at any time, and does what is right then.
Tasks hand on names alone. One bad image or rdiff fails its own task; the rest goes on and is
described, and the run ends failed and says what failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.exceptions import AirflowSkipException
from airflow.sdk import (
    Param,
    dag,
    get_current_context,
    task,
)

from puavo_repository import prepare as stages
from puavo_repository import settings
from puavo_repository.cli import printed
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.prepare import run
from puavo_repository.prepare.look import look
from puavo_repository.prepare.plan import DiffState, Pair
from puavo_repository.progress import LoggedProgress
from puavo_repository.settings import Settings
from puavo_repository.settings.model import default
from puavo_repository_airflow import dag_settings, notify
from puavo_repository_airflow.tasks import (
    MAPPED_TASKS,
    PREPARED,
    WHERE,
    Facts,
    each,
    field,
    label,
    retries,
    run_here,
)

WHAT = "Which rdiffs"
PARAMS = {
    "dry_run": Param(
        default=False,
        type="boolean",
        title="Dry run",
        description_md="Only work out what there is to do; nothing is changed. "
        "The plan is on the run's tab **Plan and report**",
    ),
    "image_dir": field(
        "string",
        "Image directory",
        "Folder with the images",
        WHERE,
        examples=["/srv/images"],
    ),
    "mirror_dir": field(
        "string",
        "Mirror directory",
        "Folder that becomes the mirror; without it, `mirror` in the image directory",
        WHERE,
        examples=["/srv/mirror"],
    ),
    "repository": field(
        "string",
        "Repository",
        "Host name, or https URL, under which clients reach the mirror; it is written into the "
        f"metadata. Default `{default('repository')}`",
        WHERE,
        examples=["images.example.org", "https://example.org/puavo"],
    ),
    "puavo_os": field(
        "string",
        "puavo-os",
        "Folder that holds `config/images/` and `defaults.mk`. Default `/puavo-os`, or "
        "`puavo-os` in the image directory where that is missing",
        WHERE,
    ),
    "no_config": field(
        "boolean",
        "Leave the configuration alone",
        "Offer just what the files in `config/images` say, and write none of them. "
        "Without this, new images are added to their series",
        WHERE,
    ),
    "allow_mass_delete": field(
        "boolean",
        "Allow mass removal",
        "Let this run take more images from the clients than the limit (`max_delete`) allows",
        WHERE,
    ),
    "targets": field(
        "integer",
        "Targets",
        f"How many of a series' last images get rdiffs that lead to them. "
        f"Default {default('targets')}; 0 makes none",
        WHAT,
        minimum=0,
    ),
    "sources": field(
        "string",
        "Sources",
        "From which images: `all` of the series (clients roll back, too), only `older` ones, or "
        f"`nearest:3`, the 3 nearest. Default `{default('sources')}`",
        WHAT,
        pattern="^(all|older|nearest:[0-9]+)$",
        examples=["all", "older", "nearest:3"],
    ),
    "max_share": field(
        "number",
        "Largest rdiff",
        "As a share of its image: a larger one is not kept, and clients fetch the whole image. "
        f"Default {default('max_share')}",
        WHAT,
        minimum=0,
        maximum=10,
    ),
    "engine": field(
        "string",
        "Delta engine",
        f"How rdiffs are made; all give what every client can apply. Default `{default('engine')}`",
        WHAT,
        examples=["anchors", "librsync"],
    ),
}


def chosen() -> Settings:
    """Return the settings of this run: the environment, then its params."""
    return settings.load(get_current_context()["params"])


def is_dry_run() -> bool:
    """Tell whether this run is to change nothing."""
    return bool(get_current_context()["params"]["dry_run"])


@contextmanager
def locked(*, shared: bool = False) -> Iterator[Settings]:
    """Hold the mirror's lock in the name of this run; a compute task also makes way for others."""
    found = chosen()
    if shared:
        os.nice(10)
    with Mirror(found.mirror_dir).locked(
        f"DAG run {get_current_context()['run_id']}", shared=shared
    ):
        yield found


def batches(names: list[Any]) -> list[list[Any]]:
    """Put names into as many lists as tasks can be mapped, at least one.

    No list at all would have the mapped task skipped, and with it everything that follows.
    """
    size = max(1, -(-len(names) // MAPPED_TASKS))
    return [names[start : start + size] for start in range(0, len(names), size)] or [[]]


def begun() -> float:
    """Return when this run began, in seconds since 1970."""
    started = get_current_context()["dag_run"].start_date
    return (started or datetime.now(UTC)).timestamp()


@dag(
    schedule=dag_settings.schedule(),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=retries(3, timedelta(minutes=1), timedelta(hours=12)),
    params=PARAMS,
    on_failure_callback=notify.on_failure(),
    deadline=notify.deadline(),
    tags=["puavo"],
    doc_md=__doc__,
)
def puavo_repository_prepare() -> None:
    """Bring the local mirror up to date with the image directory."""

    @task
    def discover() -> None:
        found = chosen()
        if not is_dry_run():
            stages.clean.guard(found, look(found))

    @task
    def configure() -> Facts:
        if is_dry_run():
            return {}
        with locked() as found:
            removed = stages.clean.clean(found)
            notes = stages.configure.configure(found, stages.discover.discover(found)).notes
        return {"removed": list(removed), "notes": list(notes)}

    @task.short_circuit
    def dry_run() -> bool:
        if is_dry_run():
            made = run.dry_run(chosen())
            printed.render_plan(made)
            get_current_context()["ti"].xcom_push("plan", made.to_dict())
        return not is_dry_run()

    @task
    def plan() -> list[list[str]]:
        with locked() as found:
            made = look(found)
        if made.has_work:
            stages.fingerprint.check_tools()
        return batches(list(made.fingerprints))

    @task(map_index_template="{{ label }}")
    def fingerprint(images: list[str]) -> None:
        label(*images)
        with locked(shared=True) as found:
            each(
                images,
                lambda name: stages.fingerprint.fingerprint(found, name, LoggedProgress(name)),
            )

    @task(trigger_rule="all_done_min_one_success")
    def pairs() -> list[list[list[str]]]:
        with locked() as found:
            missing = look(found).pairs(DiffState.MISSING)
        return batches([[pair.source, pair.target] for pair in missing])

    @task(map_index_template="{{ label }}")
    def diff(rdiffs: list[list[str]]) -> None:
        wanted = [Pair(*names) for names in rdiffs]
        label(*(pair.rdiff for pair in wanted))
        with locked(shared=True) as found:
            each(wanted, lambda pair: stages.diff.diff(found, pair, LoggedProgress(pair.rdiff)))

    @task(trigger_rule="all_done_min_one_success")
    def describe(images: list[list[str]], rdiffs: list[list[list[str]]]) -> Facts:
        undertaken = {name for batch in images for name in batch}
        undertaken |= {Pair(*names).rdiff for batch in rdiffs for names in batch}
        with locked() as found:
            done = stages.describe.describe(found, undertaken)
        return {"removed": list(done)}

    @task
    def report(configured: Facts, described: Facts) -> None:
        found = stages.report.report(
            chosen(),
            begun(),
            removed=(*configured["removed"], *described["removed"]),
            notes=configured["notes"],
        )
        printed.render(found)
        get_current_context()["ti"].xcom_push("report", found.to_dict())
        found.checked()

    @task(outlets=[PREPARED])
    def hand_over() -> None:
        found = chosen()
        if not found.configured:
            raise AirflowSkipException(
                "This run prepared other folders than this installation is set up for: "
                "nothing is published of them by itself"
            )
        places: Facts = {"image_dir": str(found.image_dir), "mirror_dir": str(found.mirror_dir)}
        get_current_context()["outlet_events"][PREPARED].extra = places

    configured = configure()
    images = plan()
    rdiffs = pairs()
    described = describe(images, rdiffs)
    discover() >> configured >> dry_run() >> images
    fingerprint.expand(images=images) >> rdiffs
    diff.expand(rdiffs=rdiffs) >> described >> hand_over()
    report(configured, described)


prepare = puavo_repository_prepare()

if __name__ == "__main__":
    went_well = run_here(prepare)
    for failure in Mirror(settings.load({}).mirror_dir).state.failures:
        sys.stderr.write(f"error: {failure.message}\n")
    sys.exit(0 if went_well else 1)
