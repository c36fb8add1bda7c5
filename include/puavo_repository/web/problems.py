"""What is not as it should be, and the way out of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from puavo_repository.audit.report import Severity
from puavo_repository.errors import RepositoryError
from puavo_repository.mirror.records import Failure
from puavo_repository.web import status
from puavo_repository.web.disk import Disk
from puavo_repository.web.model import Dag, Problem, RdiffState, Remote, Run, Series, State


def find_problems(
    disk: Disk,
    series: Sequence[Series],
    mirrors: Sequence[Remote],
    runs: Sequence[Run],
    dags: Sequence[Dag],
    now: datetime,
) -> list[Problem]:
    """Return all that is wrong with the mirror, what it offers, its remotes, its runs and DAGs."""
    return [
        *_local(disk, series),
        *_missing(series),
        *_published(disk, mirrors),
        *_audited(disk),
        *_failed(runs),
        *_late(dags, runs, now),
    ]


def problem(failure: Failure) -> Problem:
    """Return what a failure says, its way out apart: the last sentence of its message."""
    message, _, remedy = failure.message.rpartition(". ")
    subject, colon, rest = message.partition(f"{failure.name}: ")
    if colon and " " not in subject:  # it begins with the file's path
        message = rest
    if not message:
        message, remedy = remedy, "See the log of the task in the last run"
    return _problem(failure.name, failure.stage, message, remedy, permanent=failure.permanent)


def _problem(
    name: str, stage: str, message: str, remedy: str, *, permanent: bool = False
) -> Problem:
    return Problem(name=name, stage=stage, message=message, remedy=remedy, permanent=permanent)


def _local(disk: Disk, series: Sequence[Series]) -> Iterator[Problem]:
    root = str(disk.root)
    if not disk.exists:
        remedy = "Run prepare: it makes the mirror from the image directory"
        yield _problem(root, "mirror", "There is no such folder yet", remedy)
    for name, why in disk.damaged.items():
        message = f"This metadata cannot be read: {why}"
        yield _problem(f"meta/{name}", "mirror", message, "Run prepare: it is made anew")
    yield from map(problem, disk.failures)
    if disk.exists and not (series or disk.damaged or disk.failures):
        remedy = "Put images into the image directory, and run prepare"
        yield _problem(root, "mirror", "It offers no image yet", remedy)


def _missing(series: Sequence[Series]) -> Iterator[Problem]:
    """Yield the described files that are not present."""
    for one in series:
        message = f"The metadata of {one.name} names it, but it is not present with its size"
        for image in one.images:
            lost = [] if image.present else [image.filename]
            lost += [r.filename for r in image.rdiffs if r.state is RdiffState.MISSING]
            for name in lost:
                yield _problem(name, "mirror", message, "Run prepare: it is made or linked again")


def _published(disk: Disk, mirrors: Sequence[Remote]) -> Iterator[Problem]:
    """Yield what is wrong with remotes; what the audit found there is said by itself."""
    records = {record.address: record.problems for record in disk.remotes}
    for one in mirrors:
        if not one.configured:
            continue
        said = records.get(one.name, {})
        for subject, why in said.items():
            yield problem(Failure(one.name, "publish", f"{subject}: {why}", permanent=False))
        explained = said and one.state in {State.UNREACHABLE, State.BEHIND, State.UNKNOWN}
        if one.remedy and not explained and one.state is not State.DAMAGED:
            yield _problem(one.name, "publish", one.status, one.remedy, permanent=True)


def _audited(disk: Disk) -> Iterator[Problem]:
    """Yield the errors of the last audit."""
    for one in disk.audit.findings if disk.audit else ():
        if one.severity is Severity.ERROR:
            error = RepositoryError(one.where, one.problem, expected=one.expected, found=one.found)
            remedy = one.remedy or "See the log of the audit"
            yield _problem(one.file or one.where, "audit", str(error), remedy, permanent=True)


def _failed(runs: Sequence[Run]) -> Iterator[Problem]:
    """Yield the DAGs whose last finished run failed, of the runs that count."""
    for dag_id in dict.fromkeys(run.dag_id for run in runs):
        ended = (r for r in runs if r.dag_id == dag_id and r.ended is not None and not r.active)
        last = next((run for run in ended if run.counts), None)
        if last is not None and last.state == "failed":
            stages = ", ".join(stage.name for stage in last.stages if stage.failed)
            reason = f": {last.error}" if last.error else ""
            message = f"The last run failed{f' in {stages}' if stages else ''}{reason}"
            remedy = "Fix the problem, then run it again; what is done is kept"
            yield _problem(dag_id, "run", message, remedy)


def _late(dags: Sequence[Dag], runs: Sequence[Run], now: datetime) -> Iterator[Problem]:
    """Yield the DAGs that do not run as they should."""
    for dag in dags:
        if found := status.late(dag, runs, now):
            yield _problem(dag.dag_id, "schedule", *found)
