"""How mirrors and DAGs stand: decided here alone, and said in the same words everywhere.

The page, the API and messages all say what stands here. Pure: facts and the time come in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from puavo_repository.audit.report import Severity
from puavo_repository.errors import SettingsError
from puavo_repository.formats import metadata
from puavo_repository.mirror.published import Published
from puavo_repository.progress import count, format_bytes
from puavo_repository.remote.target import parse_target, without_password
from puavo_repository.web.disk import Disk
from puavo_repository.web.model import PUBLISH, Dag, Remote, Run, State
from puavo_repository.web.words import moment, when

UP_TO_DATE = "Everything is up to date"
PATIENCE = timedelta(minutes=15)  # for Airflow to start what is due


def headline(problems: Collection[object], mirrors: Iterable[Remote]) -> str:
    """Return how all of it stands, in a few words."""
    if problems:
        return count(len(problems), "problem")
    waiting = sum(one.configured and one.state is not State.UP_TO_DATE for one in mirrors)
    if waiting:
        return f"{count(waiting, 'mirror')} {'is' if waiting == 1 else 'are'} not up to date yet"
    return UP_TO_DATE


def mirrors(
    disk: Disk,
    configured: Sequence[str],
    runs: Iterable[Run],
    dags: Iterable[Dag],
    now: datetime,
) -> list[Remote]:
    """Return how every mirror stands: those that are published to by default, then others.

    Args:
        disk: What lies in the local mirror, with what the last runs left on each remote.
        configured: URLs or ids of connections that are published to by default. Where there
            are none, every mirror that there is a record of counts.
        runs: The last runs of the DAGs.
        dags: What Airflow knows of the DAGs.
        now: The time.
    """
    seen = _Seen.of(disk, runs, dags, now)
    known = {_normal(record.address): record for record in disk.remotes}
    chosen = {_normal(address): address for address in configured}
    for key in chosen.keys() - known.keys():
        known[key] = Published(quote(without_password(chosen[key]), safe=""))
    found = [
        _remote(record, seen, configured=not chosen or key in chosen)
        for key, record in known.items()
    ]
    return sorted(found, key=lambda one: (not one.configured, one.name))


@dataclass(frozen=True)
class _Seen:
    """What a mirror is judged by.

    Attributes:
        files: What the local metadata describes: sha256 by path.
        sizes: Bytes by path.
        prepared: When that metadata last changed.
        errors: How many the last audit found, by the normal form of a mirror's address.
        publishing: Whether a run of publish is under way, or waits to start.
        paused: Whether no such run can start.
        now: The time.
    """

    files: Mapping[str, str]
    sizes: Mapping[str, int]
    prepared: datetime | None
    errors: Mapping[str, int]
    publishing: bool
    paused: bool
    now: datetime

    @classmethod
    def of(cls, disk: Disk, runs: Iterable[Run], dags: Iterable[Dag], now: datetime) -> _Seen:
        files = {
            file.path: file.digests.get("sha256", "")
            for name, images in disk.series.items()
            for file in metadata.described_files({name: {"images": images}})
        }
        findings = disk.audit.findings if disk.audit else ()
        errors = Counter(_normal(f.where) for f in findings if f.severity is Severity.ERROR)
        paused = any(dag.paused for dag in dags if dag.dag_id == PUBLISH)
        active = any(run.dag_id == PUBLISH and run.counts and run.active for run in runs)
        prepared = moment(disk.changed)
        return cls(files, disk.sizes, prepared, errors, active and not paused, paused, now)


def _normal(address: str) -> str:
    """Return one form of an address for all its spellings."""
    if "://" not in address:
        return address
    try:
        return parse_target(without_password(address)).url
    except (SettingsError, ValueError):
        return address


def _remote(record: Published, seen: _Seen, *, configured: bool) -> Remote:
    pending = sorted(dict(seen.files.items() - record.files.items()))
    size = sum(seen.sizes.get(path, 0) for path in pending)
    amount = f"{count(len(pending), 'file')} ({format_bytes(size)})" if pending else ""
    state, status, remedy = _judged(record, amount, seen)
    return Remote(
        name=record.address,
        state=state,
        status=status,
        remedy=remedy,
        configured=configured,
        generation=record.generation,
        published=moment(record.changed),
        verified=moment(record.verified),
        checked=moment(record.checked),
        pending=pending,
        pending_bytes=size,
    )


def _judged(record: Published, pending: str, seen: _Seen) -> tuple[State, str, str]:
    """Return how a mirror stands, the same in words, and what to do about it."""
    errors = seen.errors.get(_normal(record.address), 0)
    # What was prepared a moment ago is published by a run that is about to start.
    soon = seen.prepared is not None and seen.now - seen.prepared < PATIENCE
    remedy = "" if soon and not record.problems else "Run publish"
    if not record.reached:
        text = f"unreachable; last seen {when(moment(record.checked))}"
        return State.UNREACHABLE, text, "See the log of the last publishing run"
    if errors:
        text = f"damaged: {count(errors, 'error')} in the last audit"
        return State.DAMAGED, text, "Do what the findings of the audit say"
    if record.restored is not None:
        text = f"rolled back: clients see generation {record.restored} again"
        remedy = "Take the bad image out of the image directory and prepare; publishing goes on"
        return State.ROLLED_BACK, text, remedy
    if seen.publishing and (pending or record.problems):
        return State.PUBLISHING, f"publishing: {pending or '0 files (0 B)'} to go", ""
    if seen.paused and pending:
        remedy = "Unpause the DAG that publishes, in the Airflow UI"
        return State.PAUSED, f"paused: {pending} to be published", remedy
    if record.checked is None:
        text = "unknown: no run has looked at it yet"
        return State.UNKNOWN, text, remedy if pending or record.problems else ""
    if pending:
        return State.BEHIND, f"behind: {pending} to be published", remedy
    if record.problems:
        return State.BEHIND, "behind: the last run could not do everything", remedy
    return State.UP_TO_DATE, "up to date", ""


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
        since = f"A run waits to start since {when(min(waiting))}"
        return since, "See whether Airflow's scheduler runs"
    return None
