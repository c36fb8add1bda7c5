"""Prepare the image repository: discover, configure, plan, fingerprint, diff, describe, report.

Nightly, and by hand with a form. Every task calls one stage of ``puavo_repository.stages`` and
returns a plain dict. One bad image or rdiff fails its own task; the rest goes on and is
described, and the run ends failed and says what failed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import (
    Asset,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    dag,
    get_current_context,
    task,
)

from puavo_repository import settings, stages, tools
from puavo_repository.progress import LoggedProgress
from puavo_repository.settings import Policy, Settings
from puavo_repository.stages.configure import Catalogue
from puavo_repository.stages.describe import Described
from puavo_repository.stages.discover import Inventory
from puavo_repository.stages.plan import DiffState, Pair
from puavo_repository.storage.mirror import Mirror

Facts = dict[str, Any]
PREPARED = Asset("puavo-repository-prepared")
MAPPED_TASKS = 1000  # Airflow maps at most 1024; beyond, a task takes several files

RETRIES: Facts = {
    # `make run` has nobody to wait for: it sets this to 0.
    "retries": int(os.environ.get("PUAVO_REPOSITORY_RETRIES", "3")),
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 3.0,
    "max_retry_delay": timedelta(minutes=30),
    "execution_timeout": timedelta(hours=12),
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(
                exception="puavo_repository.errors.PermanentError",
                action=RetryAction.FAIL,
                reason="only the operator can help: see the message",
            )
        ]
    ),
}


def text(title: str, description: str, section: str, **more: Any) -> Param:
    """Return a text field of the form that may stay empty."""
    return Param(
        None, type=["null", "string"], title=title, description=description, section=section, **more
    )


PARAMS = {
    "image_dir": text("Image directory", "Folder with the images", "Where"),
    "mirror_dir": text("Mirror directory", "Default: `mirror` in the image directory", "Where"),
    "repository": text("Repository", "Host or URL that clients use", "Where"),
    "puavo_os": text("puavo-os", "Folder of config/images and defaults.mk", "Where"),
    "no_config": Param(
        None,
        type=["null", "boolean"],
        title="Leave the configuration alone",
        description="Offer just what the files in config/images say, and write none of them",
        section="What",
    ),
    "targets": Param(
        None,
        type=["null", "integer"],
        minimum=0,
        title="Targets",
        description=f"How many of a series' last images get rdiffs; default {Policy.targets}",
        section="What",
    ),
    "sources": text(
        "Sources", "From which images: `all`, `older` or `nearest:N`; default all", "What"
    ),
    "max_share": Param(
        None,
        type=["null", "number"],
        minimum=0,
        title="Largest rdiff",
        description=f"As a share of its image; default {Policy.max_share}",
        section="What",
    ),
    "engine": text("Delta engine", "How rdiffs are made", "What"),
}


def chosen() -> Settings:
    """Return the settings of this run: the environment, then its params."""
    return settings.load(get_current_context()["params"])


@contextmanager
def locked(*, shared: bool = False) -> Iterator[Settings]:
    """Hold the mirror's lock in the name of this run; a compute task also makes way for others."""
    found = chosen()
    if shared:
        os.nice(10)
    with Mirror(found.mirror_dir).writing(
        f"DAG run {get_current_context()['run_id']}", shared=shared
    ):
        yield found


def batches(names: list[Any]) -> list[list[Any]]:
    """Put names into as many lists as tasks can be mapped."""
    size = max(1, -(-len(names) // MAPPED_TASKS))
    return [names[start : start + size] for start in range(0, len(names), size)]


def label(names: list[str]) -> None:
    """Name the mapped task in the UI after what it works on."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    get_current_context()["label"] = names[0] + more  # type: ignore[typeddict-unknown-key]


def facts(night: Facts) -> tuple[Inventory, Catalogue]:
    """Decode what discovery and configuration found."""
    return Inventory.from_dict(night["inventory"]), Catalogue.from_dict(night["catalogue"])


def since_start() -> float:
    """Return the age of this run in seconds."""
    started = get_current_context()["dag_run"].start_date
    return (datetime.now(UTC) - started).total_seconds() if started else 0.0


@dag(
    schedule=os.environ.get("PUAVO_REPOSITORY_SCHEDULE", "30 1 * * *"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
    params=PARAMS,
    tags=["puavo"],
    doc_md=__doc__,
)
def puavo_repository_prepare() -> None:
    """Bring the local mirror up to date with the image directory."""

    @task
    def discover() -> Facts:
        return stages.discover.discover(chosen()).to_dict()

    @task
    def configure(inventory: Facts) -> Facts:
        with locked() as found:
            done = stages.configure.configure(found, Inventory.from_dict(inventory))
        return {"inventory": inventory, "catalogue": done.to_dict()}

    @task
    def plan(night: Facts) -> list[list[str]]:
        with locked() as found:
            stages.describe.withdraw(found)
        made = stages.plan.plan(found, *facts(night))
        if made.has_work:
            tools.check()
        return batches(list(made.fingerprints))

    @task(map_index_template="{{ label }}")
    def fingerprint(images: list[str]) -> None:
        label(images)
        with locked(shared=True) as found:
            for name in images:
                stages.fingerprint.fingerprint(found, name, LoggedProgress(name))

    @task(trigger_rule="all_done_min_one_success")
    def pairs(night: Facts) -> list[list[list[str]]]:
        missing = stages.plan.plan(chosen(), *facts(night)).pairs(DiffState.MISSING)
        return batches([[pair.source, pair.target] for pair in missing])

    @task(map_index_template="{{ label }}")
    def diff(rdiffs: list[list[str]]) -> None:
        wanted = [Pair(*names) for names in rdiffs]
        label([pair.rdiff for pair in wanted])
        with locked(shared=True) as found:
            for pair in wanted:
                stages.diff.diff(found, pair, LoggedProgress(pair.rdiff))

    @task(trigger_rule="all_done_min_one_success", outlets=[PREPARED])
    def describe(night: Facts) -> Facts:
        with locked() as found:
            return stages.describe.describe(found, *facts(night)).to_dict()

    @task
    def report(
        night: Facts, images: list[list[str]], rdiffs: list[list[list[str]]], described: Facts
    ) -> Facts:
        found = stages.report.report(
            chosen(),
            *facts(night),
            Described.from_dict(described),
            images=[name for batch in images for name in batch],
            pairs=[Pair(*names) for batch in rdiffs for names in batch],
            seconds=since_start(),
        )
        stages.report.render(found)
        return found.checked().to_dict()

    night = configure(discover())
    images = plan(night)
    rdiffs = pairs(night)
    described = describe(night)
    fingerprint.expand(images=images) >> rdiffs
    diff.expand(rdiffs=rdiffs) >> described
    report(night, images, rdiffs, described)


prepare = puavo_repository_prepare()

if __name__ == "__main__":
    # Airflow's own log lines are for its log files; ours are what a person wants to follow.
    milestones = logging.getLogger("puavo_repository")
    milestones.addHandler(logging.StreamHandler())
    milestones.setLevel(logging.INFO)
    run = prepare.test()
    for failure in Mirror(settings.load({}).mirror_dir).state.failures:
        sys.stderr.write(f"error: {failure.message}\n")
    sys.exit(0 if run.state == "success" else 1)
