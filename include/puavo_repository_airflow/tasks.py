"""What the DAGs have in common: how they are declared, their forms, remotes and mapped tasks."""

import logging
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow import sdk
from airflow.sdk import Param, get_current_context

from puavo_repository import errors, settings
from puavo_repository.errors import PermanentError, RepositoryError
from puavo_repository.language import gettext_noop
from puavo_repository.mirror.under_way import Recorder
from puavo_repository.progress import LoggedWatcher
from puavo_repository.remote.target import Target, canonical, target_of_connection
from puavo_repository.settings.model import Model, about
from puavo_repository_airflow import notify

if TYPE_CHECKING:  # the prepare DAG has no need of it
    from puavo_repository.publish.publisher import Publisher

logger = logging.getLogger(__name__)

T = TypeVar("T")

PREPARED = sdk.Asset("puavo-repository-prepared")
# Of Celery's workers: what keeps cores busy, and what sends. All else is of the default queue.
# LocalExecutor takes no notice of queues.
COMPUTE, TRANSFER = "compute", "transfer"
MAPPED_TASKS = 400  # of one step; beyond, a task takes several files. Each is rows in the database
_SCHEMA = Model.model_json_schema()["properties"]


def common(
    doc: str | None, params: dict[str, Param], times: int, delay: timedelta, timeout: timedelta
) -> dict[str, Any]:
    """Return what all DAGs are declared with, what people read of one and its form among it.

    A task is tried again so many times, unless the environment says otherwise (`make run` waits
    for nobody), and not where that cannot help. The first ``delay`` (Airflow takes up to twice as
    long) is for a task whose worker was lost, each later one is three times as long. What it failed
    of at last is kept for the message about its run.
    """
    given = settings.usable().retries
    permanent = sdk.RetryRule(
        exception="puavo_repository.errors.PermanentError",
        action=sdk.RetryAction.FAIL,
        reason="only the operator can help: see the message",
    )
    return {
        "doc_md": doc,
        "params": params,
        "catchup": False,
        "max_active_runs": 1,
        "on_failure_callback": notify.on_failure(),
        "tags": ["puavo"],
        "default_args": {
            "retries": times if given is None else given,
            "retry_delay": delay,
            "retry_exponential_backoff": 3.0,
            "max_retry_delay": timedelta(minutes=30),
            "execution_timeout": timeout,
            "retry_policy": sdk.ExceptionRetryPolicy(rules=[permanent]),
            "on_failure_callback": notify.keep,
        },
    }


def schedule(cron: str) -> sdk.CronTriggerTimetable | None:
    """Return when a DAG runs; the first run waits for its hour, also where that came just now."""
    if not cron:
        return None
    return sdk.CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta())


def fields(*names: str) -> dict[str, Param]:
    """Return fields of the form for settings, as the settings' model describes them.

    An empty field is as this installation is set up.
    """
    form = {}
    for name in names:
        found, schema = about(name), _SCHEMA[name]
        schema = schema.get("anyOf", [schema])[0]  # what may be null has its type first
        limits = {key: schema[key] for key in ("minimum", "maximum") if key in schema}
        text = found.expected[0].upper() + found.expected[1:]
        if said := found.otherwise or found.default:
            text += f"; default `{said}`"
        form[name] = optional(schema["type"], found.text, text, found.section, **limits)
    return form


def optional(kind: str, title: str, description: str, section: str, **more: Any) -> Param:
    """Return a field of the form that may stay empty; an array is one of texts."""
    if kind == "array":
        more["items"] = {"type": "string"}
    more |= {"title": title, "description_md": description, "section": section.capitalize()}
    return Param(None, type=["null", kind], **more)


def flag(title: str, description: str) -> Param:
    """Return a check box of the form."""
    return Param(default=False, type="boolean", title=title, description_md=description)


DRY_RUN = flag(
    gettext_noop("Dry run"),
    gettext_noop(
        "Only look and plan; nothing is changed. The plan is on the run's tab Plan and report"
    ),
)
MIRRORS = {
    "mirrors": optional(
        "array",
        gettext_noop("Mirrors"),
        gettext_noop(
            "One a line: `sftp://user@host/path`, `file:///path`, or the id of an Airflow "
            "connection. Default: `PUAVO_REPOSITORY_REMOTE`"
        ),
        "where",
    ),
    **fields("image_dir", "mirror_dir"),
}


def chosen(*, images: bool = True) -> settings.Settings:
    """Return the settings of this run, the environment and then its params; ``images`` as there."""
    return settings.load(get_current_context()["params"], images=images)


def begun() -> float:
    """Return when this run began, in seconds since 1970."""
    started = get_current_context()["dag_run"].start_date
    return (started or datetime.now(UTC)).timestamp()


def asked(flag: str) -> bool:
    """Tell whether a check box of the form is set for this run."""
    return bool(get_current_context()["params"][flag])


def remotes() -> list[str]:
    """Return the remotes of this run, URLs or ids of connections.

    Raises:
        SettingsError: A setting of this installation cannot be used, whichever it is.
    """
    configured = chosen(images=False).remote
    # As the page knows a mirror, without its password, it is the configured one all the same.
    ours = {canonical(one): one for one in configured}
    named = get_current_context()["params"]["mirrors"] or ()
    return [ours.get(canonical(one), one) for one in named] or list(configured)


@sdk.task
def mirrors() -> list[str]:
    """Give the remotes of this run to the tasks that are mapped over them."""
    return remotes()


def named(mirrors: list[str] | None) -> list[str]:
    """Return what the task ``mirrors`` gave to a report, which runs also where that failed."""
    if mirrors is None:
        problem = "this task failed, so nothing was done: its log says why"
        raise errors.PublishError("mirrors", problem)
    return mirrors


def target(mirror: str, here: settings.Settings) -> Target:
    """Return the remote that an URL or a connection id names."""
    return here.target(mirror) if "://" in mirror else target_of(mirror)


def target_of(connection: str, **other: Any) -> Target:
    """Return the remote that a connection's id names; ``other`` stands in for its extra."""
    found = sdk.Connection.get(connection)
    names = "host", "port", "login", "password"
    there = {name: getattr(found, name) for name in names}
    return target_of_connection(connection, **there, extra={**found.extra_dejson, **other})


@contextmanager
def publisher(mirror: str) -> "Iterator[Publisher]":
    """Open a remote by its URL or connection id; secrets are looked up here, and stay here."""
    from puavo_repository.publish.publisher import Publisher

    here = chosen(images=False)
    with Publisher(here.mirror_dir, target(mirror, here), here, LoggedWatcher()) as found:
        yield found


def watched(here: settings.Settings, stage: str, part: str) -> Recorder:
    """Return what is told how far the files of a mapped task are; others see it, too."""
    return Recorder(here.mirror_dir, f"{stage} {part}", stage, LoggedWatcher())


def parts(names: Sequence[str]) -> list[str]:
    """Return what to map tasks over: names or, of too many, as many parts as there may be tasks.

    Airflow starts them in this order: what takes longest comes first. No name at all gives one
    task with nothing to do: a skipped one would take with it everything that follows.
    """
    if len(names) <= MAPPED_TASKS:
        return list(names) or [""]
    return [f"part {number} of {MAPPED_TASKS}" for number in range(1, MAPPED_TASKS + 1)]


def of_part(part: str, names: Collection[str]) -> list[str]:
    """Return the names of a part, of those that there is something to do for now; they label it.

    Each name is always of the same part, whatever comes or goes meanwhile.
    """
    if not part.startswith("part "):
        return [part] if part in names else []
    number, count = int(part.split()[1]), int(part.split()[3])
    found = [name for name in names if zlib.crc32(name.encode()) % count == number - 1]
    label(*found or [part])
    return found


def returned(task_id: str, index: int = -1, key: str = "return_value") -> Any:
    """Return what a task of this run (which of a mapped one) left; None where it left nothing."""
    return get_current_context()["ti"].xcom_pull(task_id, map_indexes=index, key=key)


def each(items: Sequence[T], step: Callable[[T], object]) -> None:
    """Do a step for every item of a task; what fails stops none of the others.

    Raises:
        Exception: What the only one that failed raised.
        PermanentError: Several failed, and no retry can help any of them.
        TransientError: Several failed, and a retry may help some.
    """
    failed: list[Exception] = []
    for item in items:
        try:
            step(item)
        except errors.SettingsError:
            raise  # the same for every item
        except Exception as error:
            logger.error("%s", error, exc_info=not isinstance(error, errors.RepositoryError))
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        permanent = all(isinstance(error, PermanentError) for error in failed)
        raise (PermanentError if permanent else errors.TransientError)(
            "this task", f"{len(failed)} of {len(items)} failed", found="; ".join(map(str, failed))
        )


def label(*names: str) -> None:
    """Name the mapped task in the UI after what it works on."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    first = (names[0] if names else "") or "nothing to do"
    get_current_context()["label"] = first + more  # type: ignore[typeddict-unknown-key]


def run_here(dag: sdk.DAG) -> bool:
    """Run a DAG in this process, for a person who looks on; return whether it went well.

    Raises:
        SystemExit: The settings cannot be used; that was told, and the status is as the command's.
    """
    try:
        settings.load({})
    except RepositoryError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_status)
    # Airflow's own log lines are for its log files; ours are what a person wants to follow.
    milestones = logging.getLogger("puavo_repository")
    milestones.addHandler(logging.StreamHandler())
    milestones.setLevel(logging.INFO)
    return bool(dag.test().state == sdk.DagRunState.SUCCESS)
