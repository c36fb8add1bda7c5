"""How mirrors and DAGs stand, and what is wrong: decided here alone, in the same words everywhere.

The page, the API and messages all say what stands here. Pure: facts and the time come in.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from urllib.parse import quote, urlsplit

from puavo_repository.language import _, counted, gettext_noop, size
from puavo_repository.mirror.published import Published
from puavo_repository.mirror.records import Failure
from puavo_repository.remote.target import canonical, without_password
from puavo_repository.web import causes, model
from puavo_repository.web.disk import Disk, Place
from puavo_repository.web.model import Alerts, Dag, Problem, Progress, Remote, Run, Space, State
from puavo_repository.web.offered import RdiffState, Series
from puavo_repository.web.words import moment, when

UP_TO_DATE = gettext_noop("Everything is up to date")
# Where a problem is that is of no stage, as the page says it.
_PLACES = gettext_noop("mirror"), gettext_noop("schedule"), gettext_noop("settings")
PATIENCE = timedelta(minutes=15)  # for Airflow to start what is due


def headline(problems: Sequence[Problem], mirrors: Sequence[Remote]) -> str:
    """Return how all of it stands, in a few words."""
    waiting = sum(one.configured and one.state is not State.UP_TO_DATE for one in mirrors)
    if waiting and not problems:
        return counted(
            "%(num)s mirror is not up to date yet",
            "%(num)s mirrors are not up to date yet",
            waiting,
        )
    if problems:
        return counted("%(num)s problem", "%(num)s problems", len(problems))
    return _(UP_TO_DATE)


def mirrors(
    disk: Disk, place: Place, runs: Sequence[Run], dags: Sequence[Dag], now: datetime
) -> list[Remote]:
    """Return how every mirror stands: those that are published to by default, then others.

    Where there are none of the first, every mirror that there is a record of counts.
    """
    described = {(file.path, file.sha256) for file in disk.described}
    audited = {canonical(at): when for at, when in disk.audit.at.items()} if disk.audit else {}
    at_work = {one.subject: Progress.model_validate(one) for one in disk.under_way}
    errors = Counter(canonical(one.where) for one in (disk.audit.errors if disk.audit else ()))
    paused = any(dag.paused for dag in dags if dag.dag_id == model.PUBLISH)
    active = [run for run in runs if run.dag_id == model.PUBLISH and run.counts and run.active]
    asked = [{*map(canonical, run.mirrors)} for run in active]  # none: for all
    # What was prepared a moment ago is published by a run that is about to start.
    soon = disk.changed is not None and now.timestamp() - disk.changed < PATIENCE.total_seconds()
    known = {canonical(record.address): record for record in disk.remotes}
    chosen = {canonical(address): address for address in place.remotes}
    only = next(iter(chosen), None) if len(chosen) == 1 else None
    for key in chosen.keys() - known.keys():
        known[key] = Published(quote(without_password(chosen[key]), safe=""))
    found = []
    for key, record in known.items():
        pending = _pending(disk, described, record)
        total = sum(disk.sizes.get(path, 0) for path in pending)
        state, said, remedy = _judged(
            record,
            _amount(len(pending), total) if pending else "",
            errors[key],
            soon=soon,
            paused=paused,
            publishing=not paused and any(key in named or not named for named in asked),
        )
        one = Remote(
            name=record.address,
            state=state,
            status=said,
            remedy=remedy,
            configured=not chosen or key in chosen,
            generation=record.generation,
            published=moment(record.changed),
            verified=moment(record.verified),
            checked=moment(record.checked),
            pending=pending,
            pending_bytes=total,
            address=place.address if key == only or _serves(key, place.address) else "",
            audited=moment(audited.get(key)),
            space=Space.left(record.free),
            progress=at_work.get(record.address),
        )
        found.append(one)
    return sorted(found, key=lambda one: (not one.configured, one.name))


def _pending(disk: Disk, described: set[tuple[str, str]], record: Published) -> list[str]:
    """Return the files that clients of a mirror are not told of yet.

    Where they are told of all, the metadata that tells them otherwise: of what is gone here, say.
    """
    files = {path for path, _ in described - record.files.items()}
    there = disk.documents if record.documents is None else record.documents
    told = {path for path, _ in disk.documents.items() ^ there.items()}
    return sorted(files or told - {f"meta/{name}" for name in disk.damaged})


def _serves(remote: str, address: str) -> bool:
    """Tell whether clients use the very host that a mirror, one of several, is published to."""
    host = urlsplit(address).hostname
    return bool(host) and urlsplit(remote).hostname == host


def _amount(files: int, total: int) -> str:
    return counted("%(num)s file (%(size)s)", "%(num)s files (%(size)s)", files, size=size(total))


def _judged(
    record: Published, pending: str, errors: int, *, soon: bool, paused: bool, publishing: bool
) -> tuple[State, str, str]:
    """Return how a mirror stands, the same in words, and what to do about it."""
    remedy = "" if soon and not record.problems else _("Run publish")
    if not record.reached:
        text = _("unreachable; last seen %(when)s", when=when(moment(record.checked)))
        return State.UNREACHABLE, text, _("See the log of the last publishing run")
    if errors:
        text = counted(
            "damaged: %(num)s error in the last audit",
            "damaged: %(num)s errors in the last audit",
            errors,
        )
        return State.DAMAGED, text, _("Do what the findings of the audit say")
    if record.restored is not None:
        text = _("rolled back: clients see generation %(number)s again", number=record.restored)
        if record.series:
            text = counted(
                "rolled back: clients see generation %(generation)s of %(num)s series again",
                "rolled back: clients see generation %(generation)s of %(num)s series again",
                record.series,
                generation=record.restored,
            )
        remedy = _("Take the bad image out of the image directory and prepare; publishing goes on")
        return State.ROLLED_BACK, text, remedy
    if publishing and (pending or record.problems):
        text = _("publishing: %(amount)s to go", amount=pending or _amount(0, 0))
        return State.PUBLISHING, text, ""
    if paused and pending:
        text = _("paused: %(amount)s to be published", amount=pending)
        return State.PAUSED, text, _("Unpause the DAG that publishes, in the Airflow UI")
    if record.checked is None:
        behind = pending or record.problems
        text = _("unknown: no run has looked at it yet")
        return State.UNKNOWN, text, remedy if behind else ""
    if pending:
        return State.BEHIND, _("behind: %(amount)s to be published", amount=pending), remedy
    if record.problems:
        return State.BEHIND, _("behind: the last run could not do everything"), remedy
    return State.UP_TO_DATE, _("up to date"), ""


def find_problems(
    disk: Disk,
    series: Sequence[Series],
    mirrors: Sequence[Remote],
    runs: Sequence[Run],
    dags: Sequence[Dag],
    now: datetime,
    alerts: Alerts | None = None,
) -> Iterator[Problem]:
    """Yield all that is wrong with the mirror, what it offers, its remotes, its runs and DAGs."""
    named = [*_local(disk, series), *_published(disk, mirrors), *_audited(disk)]
    yield from named
    yield from _failed(runs, named)
    if alerts is not None and alerts.ways and alerts.problem:
        message = _("A message could not be sent: %(why)s", why=alerts.problem)
        remedy = _("Correct the notifications, and send a test alert")
        yield _problem("alerts", "alert", message, remedy)
    for dag in (dag for dag in dags if dag.dag_id != model.ALERT):
        if late := _late(dag, runs, now):
            yield _problem(dag.dag_id, "schedule", *late)


def problem(failure: Failure) -> Problem:
    """Return what a failure says, its way out apart: the last sentence of its message."""
    message, _dot, remedy = failure.message.rpartition(". ")
    subject, colon, rest = message.partition(f"{failure.name}: ")
    if colon and " " not in subject:  # it begins with the file's path
        message = rest
    if not message:
        message, remedy = remedy, _("See the log of the task in the last run")
    return _problem(failure.name, failure.stage, message, remedy, permanent=failure.permanent)


def _problem(
    name: str, stage: str, message: str, remedy: str, *, permanent: bool = False
) -> Problem:
    return Problem(name=name, stage=stage, message=message, remedy=remedy, permanent=permanent)


def _local(disk: Disk, series: Sequence[Series]) -> Iterator[Problem]:
    """Yield what is wrong with the local mirror, down to described files that are not present."""
    root = str(disk.root)
    if not disk.exists:
        remedy = _("Run prepare: it makes the mirror from the image directory")
        yield _problem(root, "mirror", _("There is no such folder yet"), remedy)
    for name, why in disk.damaged.items():
        message = _("This metadata cannot be read: %(why)s", why=why)
        yield _problem(f"meta/{name}", "mirror", message, _("Run prepare: it is made anew"))
    yield from map(problem, disk.failures.values())
    if disk.exists and not (series or disk.damaged or disk.failures):
        remedy = _("Put images into the image directory, and run prepare")
        yield _problem(root, "mirror", _("It offers no image yet"), remedy)
    for one in series:
        message = _(
            "The metadata of %(series)s names it, but it is not present with its size",
            series=one.name,
        )
        for image in one.images:
            lost = [] if image.present else [image.filename]
            lost += [r.filename for r in image.rdiffs if r.state is RdiffState.MISSING]
            for name in lost:
                remedy = _("Run prepare: it is made or linked again")
                yield _problem(name, "mirror", message, remedy)


def _published(disk: Disk, mirrors: Sequence[Remote]) -> Iterator[Problem]:
    """Yield what is wrong with remotes; what the audit found there is said by itself."""
    records = {record.address: record.problems for record in disk.remotes}
    for one in (mirror for mirror in mirrors if mirror.configured):
        said = records.get(one.name, {})
        for subject, why in said.items():
            yield problem(Failure(one.name, "publish", f"{subject}: {why}", permanent=False))
        explained = said and one.state in {State.UNREACHABLE, State.BEHIND, State.UNKNOWN}
        if one.remedy and not explained and one.state is not State.DAMAGED:
            yield _problem(one.name, "publish", one.status, one.remedy, permanent=True)


def _audited(disk: Disk) -> Iterator[Problem]:
    for found in disk.audit.errors if disk.audit else ():
        message = str(replace(found, file="", remedy=""))
        remedy = found.remedy or _("See the log of the audit")
        yield _problem(found.file or found.where, "audit", message, remedy, permanent=True)


def _failed(runs: Sequence[Run], named: Sequence[Problem]) -> Iterator[Problem]:
    """Yield the DAGs whose last finished run failed, of more than what is named already."""
    for dag_id, last in causes.last_ended(runs).items():
        if last.state == "failed" and not causes.told(last, named):
            stages = ", ".join(stage.name for stage in last.stages if stage.failed)
            where = _("The last run failed in %(stages)s", stages=stages)
            message = where if stages else _("The last run failed")
            message += f": {last.error}" if last.error else ""
            remedy = _("Fix the problem, then run it again; what is done is kept")
            yield _problem(dag_id, gettext_noop("run"), message, remedy)


def _late(dag: Dag, runs: Sequence[Run], now: datetime) -> tuple[str, str] | None:
    """Return what keeps a DAG from running as it should, and the way out; None where nothing does.

    A run that failed is not this one's business.
    """
    if not dag.loaded:
        return _("Airflow cannot load this DAG"), _("Read the import error in the Airflow UI")
    active = [run for run in runs if run.dag_id == dag.dag_id and run.active]
    waiting = [run.queued for run in active if run.queued and not run.started]
    due = dag.due if dag.due and now - dag.due > PATIENCE else None
    last = _("the last good run ended %(when)s", when=when(dag.succeeded))
    if dag.paused and (due or waiting):
        text = _("It is paused, and a run waits to start")
        text = _("It is paused, and a run was due %(when)s", when=when(due)) if due else text
        return f"{text}; {last}", _("Unpause it in the Airflow UI")
    if due and active:
        text = _("A run has not ended, and the next one was due %(when)s", when=when(due))
        remedy = _("Look at the run's tasks, and mark it failed where it hangs")
        return f"{text}; {last}", remedy
    if due:
        text = _("No run has started that was due %(when)s", when=when(due))
        return f"{text}; {last}", _("See whether Airflow's scheduler and DAG processor run")
    if waiting and len(waiting) == len(active) and now - min(waiting) > PATIENCE:
        since = _("A run waits to start since %(when)s", when=when(min(waiting)))
        return since, _("See whether Airflow's scheduler runs")
    return None
