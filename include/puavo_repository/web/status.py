"""How the repository stands: decided here alone, from facts, and said in the same words everywhere.

The page, the API and messages all say what stands here. Pure: facts and the time come in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from puavo_repository.audit.report import AuditReport, Severity
from puavo_repository.errors import SettingsError
from puavo_repository.mirror.published import Published
from puavo_repository.progress import format_bytes
from puavo_repository.remote.target import parse_target, without_password
from puavo_repository.web.model import Dag, Run, State
from puavo_repository.web.words import count, when

UP_TO_DATE = "Everything is up to date"
PATIENCE = timedelta(minutes=15)  # for Airflow to start what is due


@dataclass(frozen=True)
class Local:
    """What the local mirror says.

    Attributes:
        described: What its metadata describes: sha256 by path.
        sizes: Bytes by path.
        changed: When its metadata last changed.
    """

    described: Mapping[str, str]
    sizes: Mapping[str, int]
    changed: datetime | None


@dataclass(frozen=True)
class Publishing:
    """What Airflow does about publishing.

    Attributes:
        running: Whether a run is under way, or waits to start.
        paused: Whether no run can start.
    """

    running: bool = False
    paused: bool = False

    @classmethod
    def of(cls, dags: Iterable[Dag], runs: Iterable[Run], dag_id: str) -> Publishing:
        """Return what the facts about a DAG and its runs mean."""
        paused = any(dag.paused for dag in dags if dag.dag_id == dag_id)
        active = any(run.dag_id == dag_id and run.counts and run.active for run in runs)
        return cls(running=active and not paused, paused=paused)


@dataclass(frozen=True)
class Standing:
    """How one mirror stands.

    Attributes:
        record: What the last run left there.
        state: In one word or two.
        text: The state in a sentence, with how much and since when.
        remedy: What to do; empty where nothing is wrong.
        pending: Files of the local mirror that its clients are not told of yet.
        size: Bytes of them.
        counts: Whether it is one of the mirrors that are published to by default.
    """

    record: Published
    state: State
    text: str
    remedy: str
    pending: tuple[str, ...]
    size: int
    counts: bool = True


def headline(problems: Collection[object], mirrors: Iterable[Standing]) -> str:
    """Return how all of it stands, in a few words."""
    if problems:
        return count(len(problems), "problem")
    waiting = sum(one.counts and one.state is not State.UP_TO_DATE for one in mirrors)
    if waiting:
        return f"{count(waiting, 'mirror')} {'is' if waiting == 1 else 'are'} not up to date yet"
    return UP_TO_DATE


def mirrors(
    records: Iterable[Published],
    configured: Sequence[str],
    local: Local,
    audit: AuditReport | None,
    publishing: Publishing,
    now: datetime,
) -> list[Standing]:
    """Return how every mirror stands: those that are published to by default, then others.

    Args:
        records: What the last runs left on each.
        configured: URLs or ids of connections that are published to by default. Where there
            are none, every mirror that there is a record of counts.
        local: The local mirror.
        audit: The last audit.
        publishing: What Airflow does about it.
        now: The time.
    """
    known = {_normal(record.address): record for record in records}
    chosen = {_normal(address): address for address in configured}
    unseen = [_unseen(address) for key, address in chosen.items() if key not in known]
    every = [*known.values(), *unseen]
    return sorted(
        (
            _standing(
                record,
                local,
                _errors(audit, record),
                publishing,
                now,
                counts=not chosen or _normal(record.address) in chosen,
            )
            for record in every
        ),
        key=lambda one: (not one.counts, one.record.address),
    )


def _unseen(address: str) -> Published:
    return Published(quote(without_password(address), safe=""))


def _normal(address: str) -> str:
    """Return one form of an address for all its spellings."""
    if "://" not in address:
        return address
    try:
        return parse_target(without_password(address)).url
    except (SettingsError, ValueError):
        return address


def _errors(audit: AuditReport | None, record: Published) -> int:
    return sum(
        one.severity is Severity.ERROR and _normal(one.where) == _normal(record.address)
        for one in (audit.findings if audit else ())
    )


def _standing(
    record: Published,
    local: Local,
    errors: int,
    publishing: Publishing,
    now: datetime,
    *,
    counts: bool,
) -> Standing:
    lacking = dict(local.described.items() - record.files.items())
    pending = tuple(sorted(lacking))
    left = sum(local.sizes.get(path, 0) for path in pending)
    amount = f"{count(len(pending), 'file')} ({format_bytes(left)})"

    def found(state: State, text: str, remedy: str = "") -> Standing:
        return Standing(record, state, text, remedy, pending, left, counts)

    if not record.reached:
        text = f"unreachable; last seen {when(_moment(record.checked))}"
        return found(State.UNREACHABLE, text, "See the log of the last publishing run")
    if errors:
        text = f"damaged: {count(errors, 'error')} in the last audit"
        return found(State.DAMAGED, text, "Do what the findings of the audit say")
    if record.restored is not None:
        text = f"rolled back: clients see generation {record.restored} again"
        remedy = "Take the bad image out of the image directory and prepare; publishing goes on"
        return found(State.ROLLED_BACK, text, remedy)
    if publishing.running and (pending or record.problems):
        return found(State.PUBLISHING, f"publishing: {amount} to go")
    if publishing.paused and pending:
        text = f"paused: {amount} to be published"
        return found(State.PAUSED, text, "Unpause the DAG that publishes, in the Airflow UI")
    # What was prepared a moment ago is published by a run that is about to start.
    soon = local.changed is not None and now - local.changed < PATIENCE
    remedy = "" if soon and not record.problems else "Run publish"
    if record.checked is None:
        text = "unknown: no run has looked at it yet"
        return found(State.UNKNOWN, text, remedy if pending or record.problems else "")
    if pending:
        return found(State.BEHIND, f"behind: {amount} to be published", remedy)
    if record.problems:
        return found(State.BEHIND, "behind: the last run could not do everything", remedy)
    return found(State.UP_TO_DATE, "up to date")


def late(dag: Dag, runs: Iterable[Run], now: datetime) -> tuple[str, str] | None:
    """Return what keeps a DAG from running as it should, and the way out; None where nothing does.

    A run that failed is not this one's business.

    Args:
        dag: What Airflow knows of it.
        runs: Of any DAG, newest first.
        now: The time.
    """
    if not dag.loaded:
        return "Airflow cannot load this DAG", "Read the import error in the Airflow UI"
    active = [run for run in runs if run.dag_id == dag.dag_id and run.active]
    waiting = [run.queued for run in active if run.queued and not run.started]
    due = dag.due if dag.due and now - dag.due > PATIENCE else None
    last = f"the last good run ended {when(dag.succeeded)}"
    if dag.paused and (due or waiting):
        waits = f"a run was due {when(due)}" if due else "a run waits to start"
        return f"It is paused, and {waits}; {last}", "Unpause it in the Airflow UI"
    if due and active:
        return (
            f"A run has not ended, and the next one was due {when(due)}; {last}",
            "Look at the run's tasks, and mark it failed where it hangs",
        )
    if due:
        return (
            f"No run has started that was due {when(due)}; {last}",
            "See whether Airflow's scheduler and DAG processor run",
        )
    if waiting and len(waiting) == len(active) and now - min(waiting) > PATIENCE:
        return (
            f"A run waits to start since {when(min(waiting))}",
            "See whether Airflow's scheduler runs",
        )
    return None


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
