"""The last runs of a DAG as the page shows them, out of Airflow's database.

However many tasks a run has, the database sums them up: a stage of 400 mapped tasks is a row for
each state that they are in.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from statistics import fmean
from typing import Any
from urllib.parse import quote

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance as Task
from airflow.models.xcom import XComModel
from airflow.utils.state import State
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from puavo_repository import settings
from puavo_repository.errors import SettingsError
from puavo_repository.language import gettext
from puavo_repository.progress import count
from puavo_repository.remote.target import canonical, without_password
from puavo_repository.settings import Settings
from puavo_repository.web.model import FAILURE, REPORT, SUMMARY, FailedTask, Run, Stage

SHOWN = 15  # of each DAG
READ = 300  # of each DAG, in search of the last good one
_FAILED = 200  # tasks of a run that are named
_ENDED = frozenset(map(str, State.finished))
_ACTIVE = {"queued", "running"}
_WAITING = {None, "scheduled", "queued"}  # what is done again keeps the time of its last try
_RUN = (DagRun.id, DagRun.run_id, DagRun.dag_id, DagRun.state, DagRun.run_type, DagRun.conf)
_RUN_TIMES = (DagRun.queued_at, DagRun.run_after, DagRun.start_date, DagRun.end_date)


def last_runs(
    session: Session, dag_id: str, here: Settings | None
) -> tuple[list[tuple[int, Run]], datetime | None]:
    """Return the last runs of a DAG, newest first, and when the last good one ended.

    With each run comes its number among those of all DAGs. The last run that ended and counts is
    among them, however many came after it.
    """
    query = select(*_RUN, *_RUN_TIMES).where(DagRun.dag_id == dag_id).order_by(DagRun.id.desc())
    rows = session.execute(query.limit(READ))
    shown = list(rows.fetchmany(SHOWN))
    ended = (
        row
        for row in chain(shown, rows)
        if row.end_date and row.state not in _ACTIVE and counts(row.conf, here)
    )
    last = good = next(ended, None)
    while good is not None and good.state != "success":
        good = next(ended, None)
    rows.close()
    if last is not None and last not in shown:
        shown.append(last)
    found = _runs(session, shown, here)
    if last is not None and last.state == "failed":
        failed = {"failed": list(_failed(session, dag_id, last.run_id))}
        found = [(n, run.model_copy(update=failed) if n == last.id else run) for n, run in found]
    return found, good.end_date if good else None


def left(
    session: Session, dag_id: str, run_ids: Collection[str], *more: str
) -> dict[str, dict[str, Any]]:
    """Return, by run, what it left for people: failures in their order, its summary if any.

    ``more`` are further keys, of each a list of all that tasks left under it.
    """
    found: dict[str, dict[str, Any]] = {
        name: {key: [] for key in (FAILURE, *more)} for name in run_ids
    }
    again: dict[str, str] = {}  # what the report said, by run
    query = select(XComModel).where(XComModel.dag_id == dag_id, XComModel.run_id.in_(run_ids))
    keys = XComModel.key.in_((FAILURE, SUMMARY, *more))
    for row in session.scalars(query.where(keys).order_by(XComModel.timestamp)):
        value = XComModel.deserialize_value(row)
        if row.key == SUMMARY:
            found[row.run_id][SUMMARY] = value
        elif row.key == FAILURE and row.task_id == REPORT:
            again[row.run_id] = str(value)
        else:
            found[row.run_id][row.key].append(str(value) if row.key == FAILURE else value)
    for name, text in again.items():
        found[name][FAILURE] = found[name][FAILURE] or [text]
    return found


def result(session: Session, dag_id: str, run_id: str, *more: str) -> dict[str, Any]:
    """Return what one run left; where that is nothing and will stay so, a failure says it."""
    one = DagRun.dag_id == dag_id, DagRun.run_id == run_id
    active = session.scalar(select(DagRun.state).where(*one)) in _ACTIVE  # before what it leaves
    found = left(session, dag_id, [run_id], *more)[run_id]
    if not (active or any(found.values())):
        said = gettext(
            "This run left nothing to show, or it was deleted. Its tasks in Airflow may say more."
        )
        found[FAILURE] = [said]
    return found


def counts(conf: Any, here: Settings | None) -> bool:
    """Tell whether a run works on this installation's folders and mirrors, and may change them."""
    given = _given(conf)
    try:
        asked = settings.read(given, {})
    except SettingsError:
        return False  # it was refused
    folders = {name: getattr(asked, name) for name in settings.FOLDERS}
    if given.get("dry_run") or any(v and v != getattr(here, n, None) for n, v in folders.items()):
        return False
    ours = list(map(canonical, here.remote if here else ()))
    named = [canonical(str(one)) for one in given.get("mirrors", ())]
    if "generation" in given and len(named or ours) != 1:
        return False  # each mirror counts its own: it was refused
    return {*named} <= {*ours}


def _given(conf: Any) -> dict[str, Any]:
    """Return the params that were given with a run; the form sends its empty fields too."""
    return {name: value for name, value in (conf or {}).items() if value not in (None, "", [])}


def _runs(session: Session, rows: Sequence[Any], here: Settings | None) -> list[tuple[int, Run]]:
    """Return some runs of one DAG, each with its number."""
    if not rows:
        return []
    dag_id, run_ids = rows[0].dag_id, [row.run_id for row in rows]
    said = left(session, dag_id, run_ids)
    query = select(
        Task.run_id,
        Task.task_id,
        Task.state,
        func.count().label("count"),
        func.min(Task.start_date).label("first"),
        func.max(Task.start_date).label("last"),
        func.max(Task.end_date).label("end"),
        func.sum(Task.duration).label("seconds"),
    ).where(Task.dag_id == dag_id, Task.run_id.in_(run_ids))
    tasks: dict[str, dict[str, list[Any]]] = {name: {} for name in run_ids}
    for group in session.execute(query.group_by(Task.run_id, Task.task_id, Task.state)):
        tasks[group.run_id].setdefault(group.task_id, []).append(group)
    return [(row.id, _run(row, tasks[row.run_id], said[row.run_id], here)) for row in rows]


def _run(row: Any, tasks: dict[str, list[Any]], said: dict[str, Any], here: Settings | None) -> Run:
    active = row.state in _ACTIVE
    begun = {name: at for name, of in tasks.items() if (at := _begun(of)) is not None}
    order = sorted(begun, key=begun.__getitem__)
    stages = [_stage(name, begun[name], tasks[name], active) for name in order]
    first, *others = said[FAILURE] or [""]
    more = f" (and {count(len(others), 'more failure')})" if others else ""
    return Run(
        dag_id=row.dag_id,
        run_id=row.run_id,
        state=str(row.state),
        kind=str(row.run_type),
        queued=row.queued_at or row.run_after,
        started=row.start_date,
        ended=row.end_date,
        counts=counts(row.conf, here),
        mirrors=[without_password(str(one)) for one in _given(row.conf).get("mirrors", ())],
        error=first + more if row.state == "failed" else "",
        did="" if active else said.get(SUMMARY, {}).get("did", ""),
        stages=stages,
    )


def _begun(groups: list[Any]) -> datetime | None:
    """Return when the first task of a stage began; None where all of them wait."""
    return min(
        (one.first for one in groups if one.first and one.state not in _WAITING), default=None
    )


def _stage(name: str, begun: datetime, groups: list[Any], active: bool) -> Stage:  # noqa: FBT001
    """Return one stage; ``groups`` are sums over its tasks in each of their states."""
    ended = max((group.end for group in groups if group.end), default=begun)
    tasks = sum(group.count for group in groups)
    done = sum(group.count for group in groups if group.state in _ENDED)
    failed = sum(group.count for group in groups if group.state == "failed")
    running = active and done < tasks
    return Stage(
        name=name,
        state="failed" if failed else "running" if running else "success",
        seconds=(ended - begun).total_seconds(),
        tasks=tasks,
        failed=failed,
        done=done,
        seconds_left=_seconds_left(groups, tasks - done) if running else None,
    )


def _seconds_left(groups: list[Any], waiting: int) -> float | None:
    """Return how long the rest takes, as long as the others did and as many side by side.

    None while none has ended. Steps of 5 seconds are as exact as it is.
    """
    worked = [group for group in groups if group.state in {"success", "failed"}]
    if not any(group.seconds for group in worked):
        return None
    each = sum(group.seconds or 0 for group in worked) / sum(group.count for group in worked)
    now, side_by_side, left_there = datetime.now(UTC), 1, 0.0
    for group in (group for group in groups if group.state == "running" and group.first):
        side_by_side, waiting = group.count, waiting - group.count
        passed = fmean((now - at).total_seconds() for at in (group.first, group.last))
        left_there = max(0.0, each - passed) * group.count
    seconds: float = (left_there + waiting * each) / side_by_side
    return round(seconds / 5) * 5.0


def _failed(session: Session, dag_id: str, run_id: str) -> Iterator[FailedTask]:
    """Yield the tasks of a run that failed, in the order in which they began."""
    query = select(Task.task_id, Task.map_index, Task._rendered_map_index.label("label"))
    query = query.where(Task.dag_id == dag_id, Task.run_id == run_id)
    query = query.where(Task.state == "failed").order_by(Task.start_date, Task.map_index)
    for task in session.execute(query.limit(_FAILED)):
        mapped = f"/mapped/{task.map_index}" if task.map_index >= 0 else ""
        where = f"dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task.task_id}{mapped}"
        yield FailedTask(
            task_id=task.task_id, map_index=task.map_index, label=task.label or "", log=where
        )
