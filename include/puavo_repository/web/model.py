"""What the page shows and the API serves. Pure.

The field descriptions are the API's documentation. All sizes are bytes, all moments are UTC.
"""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Self

from pydantic import Field

from puavo_repository.audit.report import Finding
from puavo_repository.fleet.usage import Usage
from puavo_repository.language import gettext_noop
from puavo_repository.mirror import space
from puavo_repository.web.offered import Series, Shown

PREPARE = "puavo_repository_prepare"
PUBLISH = "puavo_repository_publish"
AUDIT = "puavo_repository_audit"
ROLLBACK = "puavo_repository_rollback"
USAGE = "puavo_repository_usage"
ALERT = "puavo_repository_alert"  # a test: it fails on purpose, and tells nothing of the repository
DAGS = (PREPARE, PUBLISH, AUDIT, USAGE, ROLLBACK)
FAILURE, SUMMARY = "failure", "summary"  # XComs: why a task failed, what a run did
REPORT = "report"  # task of each DAG that fails of what the others did, and says it once more
GENERATIONS = "generations"  # XCom: what a dry run of the rollback found on a mirror
DRY_RUN = "dry run"  # what such a run did


class Retry(Shown):
    """Failed tasks of one run, which Airflow can be asked to do again, with all that follows them.

    It is the body of ``clearTaskInstances`` with ``include_downstream`` and not ``only_failed``.
    """

    dag_id: str
    run_id: str
    task_ids: list[tuple[str, int]] = Field(description="Each with its map index; -1 for none")


class Problem(Shown):
    """Something that is not as it should be, and the way out."""

    name: str = Field(description="The image, rdiff, metadata file or mirror")
    stage: str = Field(description="The step that failed")
    message: str = Field(description="What happened")
    remedy: str = Field(description="What to do")
    permanent: bool = Field(description="Whether running again cannot help")
    log: str = Field(default="", description="Where in the Airflow UI its log is, from its root")
    retry: Retry | None = Field(default=None, description="What to run again; None: nothing can be")


class Progress(Shown):
    """How far something is that goes on right now."""

    what: str = Field(description="The file or the stage that it is at")
    done: int = Field(description="Bytes")
    total: int = Field(description="In all; 0 where that is not known")
    seconds_left: float | None = Field(description="About how long; None where that is not known")


class Space(Shown):
    """What a disk has left."""

    free: int = Field(description="Bytes, as of the last look")
    days: float | None = Field(
        description="How long it lasts as it fills now; None: not known, or for ten years and more"
    )
    fills: bool | None = Field(default=None, description="Whether it gets less; None: not known")

    @classmethod
    def left(cls, history: space.History, free: int | None = None) -> Self | None:
        """Return what a disk has left, by default at the last look; None where nobody knows."""
        if free is None:
            free = next(reversed(list(history.values())), None)
        if free is None:
            return None
        change = space.change(history)
        fills = None if change is None else change < 0
        return cls(free=free, days=space.days_left(history, free), fills=fills)


class State(StrEnum):
    """How a mirror stands."""

    UP_TO_DATE = "up to date"
    BEHIND = gettext_noop("behind")
    PUBLISHING = gettext_noop("publishing")
    PAUSED = gettext_noop("paused")
    ROLLED_BACK = gettext_noop("rolled back")
    DAMAGED = gettext_noop("damaged")
    UNREACHABLE = gettext_noop("unreachable")
    UNKNOWN = gettext_noop("unknown")


class Remote(Shown):
    """One mirror that is published to."""

    name: str = Field(description="Its address, without any secret")
    state: State
    status: str = Field(description="The state in words: with how much, and since when")
    remedy: str = Field(description="What to do; empty where nothing is wrong")
    configured: bool = Field(description="Whether it is published to by default, and so counts")
    generation: int = Field(description="Counts the changes of what clients see")
    published: datetime | None = Field(description="When its metadata last changed")
    verified: datetime | None = Field(description="When it was last found complete")
    checked: datetime | None = Field(description="When a run last looked at it")
    pending: list[str] = Field(
        description="Files of the local mirror that are not there yet; else metadata that differs"
    )
    pending_bytes: int = Field(description="Their bytes")
    address: str = Field(default="", description="URL that clients use; empty where not configured")
    audited: datetime | None = Field(default=None, description="When an audit last looked at it")
    space: Space | None = Field(default=None, description="None where the server does not tell")
    progress: Progress | None = Field(default=None, description="Of what is sent right now")


class Audit(Shown):
    """What the last audit looked at and found."""

    at: datetime = Field(validation_alias="begun", description="When it began")
    ok: bool = Field(description="Whether it found no error")
    findings: list[Finding] = Field(description="Errors first; until that place is audited again")
    notes: list[str] = Field(description="What else it has to say")
    looked_at: list[str] = Field(description="What it looked at, in words")
    repaired: list[Finding] = Field(description="What it found and repaired itself")
    turn: int = Field(description="Counts the audits")
    seconds: float = Field(description="How long it took")


class Stage(Shown):
    """One stage of a run."""

    name: str
    state: str
    seconds: float = Field(description="From the start of its first task to the end of its last")
    tasks: int = Field(description="All of them, those that did not start yet among them")
    failed: int
    done: int = Field(default=0, description="Tasks that have ended")
    seconds_left: float | None = Field(default=None, description="About; None where not known")


class FailedTask(Shown):
    """A task that failed."""

    task_id: str
    map_index: int = Field(description="-1 where it is not mapped")
    label: str = Field(description="What it worked on, where it is mapped")
    log: str = Field(description="Where in the Airflow UI its log is, from its root")


class Run(Shown):
    """One run of a DAG."""

    dag_id: str
    run_id: str
    state: str = Field(description="queued, running, success or failed")
    kind: str = Field(description="scheduled, manual, asset_triggered, …")
    queued: datetime | None = Field(default=None, description="Since when it waits to start")
    started: datetime | None
    ended: datetime | None
    counts: bool = Field(
        default=True,
        description="Whether it tells of this repository: not a dry run, of others, or refused",
    )
    mirrors: list[str] = Field(default=[], description="That it was asked for; empty: all of them")
    error: str = Field(default="", description="What it failed of")
    did: str = Field(default="", description="What it did, in a few words")
    stages: list[Stage] = Field(default=[], description="In the order in which they began")
    failed: list[FailedTask] = Field(
        default=[], description="Of the last run that ended and counts; not more than some hundred"
    )

    @property
    def active(self) -> bool:
        """Whether it waits to start, or is under way."""
        return self.state in {"queued", "running"}

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()


class Alerts(Shown):
    """Who is told when something fails, and when that last happened."""

    ways: list[str] = Field(description="In words, without addresses; empty: nobody is told")
    last: datetime | None = Field(description="When the last one went out")
    subject: str = Field(description="What that one said")
    problem: str = Field(description="Why the last try failed; empty where it did not")


class Ignored(Shown):
    """A file in the image directory that looks like an image, but is none."""

    name: str
    why: str


class Dag(NamedTuple):
    """What Airflow knows of a DAG."""

    dag_id: str
    loaded: bool = True  # whether Airflow can load it
    paused: bool = False  # whether no run starts
    due: datetime | None = None  # when its next run is to start by its schedule
    succeeded: datetime | None = None  # when its last good run ended
    schedule: str | None = None  # as cron has it, UTC; empty where it has none, None: not known


class Summary(Shown):
    """The repository at a glance: what a monitoring system asks for."""

    ok: bool = Field(description="Whether nothing is wrong; a run under way is not wrong")
    status: str = Field(description="The same in words, as the page says it")
    problems: list[Problem] = Field(description="Everything that is wrong")
    mirror: str = Field(description="Folder of the local mirror")
    series: int
    images: int
    rdiffs: int
    image_bytes: int
    rdiff_bytes: int
    update_bytes: int = Field(description="What one client a series fetches to get to the newest")
    update_whole: int = Field(description="What they would fetch without rdiffs")
    saving: float = Field(description="What they save, as a share")
    changed: datetime | None = Field(description="When clients last got to see something new")
    last_success: datetime | None = Field(description="End of the last good run of prepare")
    next_run: datetime | None = Field(description="When prepare is to run next by its schedule")
    remotes: list[Remote]
    audit: Audit | None = Field(description="The last audit; None before the first")
    address: str = Field(default="", description="URL that clients use for all of it")
    schedule: str | None = Field(
        default=None,
        description="When prepare runs, as cron has it; UTC. Empty: by hand alone; None: not known",
    )
    paused: list[str] = Field(default=[], description="DAGs of ours that are paused")
    active: dict[str, str] = Field(default={}, description="Run that waits or goes on, by its DAG")
    space: Space | None = Field(default=None, description="Of the disk of the local mirror")
    alerts: Alerts | None = Field(default=None, description="None where that is not known")
    progress: list[Progress] = Field(default=[], description="What is prepared right now")
    ignored: list[Ignored] = Field(default=[], description="Named like images, and left alone")


class Repository(Shown):
    """Everything that the page shows."""

    summary: Summary
    series: list[Series]
    runs: list[Run] = Field(description="Last runs of the DAGs, newest first")
    usage: Usage | None = Field(description="What clients fetch; None where no log was read")


class Refused(Shown):
    """Why a request was not answered."""

    detail: str


class Health(Shown):
    """Whether all is well, and what is not."""

    ok: bool
    status: str
    reasons: list[str] = Field(description="What is wrong and what to do, a sentence or two each")
