"""What is not as it should be, and the way out of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from puavo_repository.audit.report import Severity
from puavo_repository.errors import RepositoryError
from puavo_repository.mirror.records import Failure
from puavo_repository.web import status
from puavo_repository.web.disk import Disk
from puavo_repository.web.model import Dag, Problem, RdiffState, Run, Series, State
from puavo_repository.web.status import Standing


def find_problems(
    disk: Disk,
    series: Sequence[Series],
    mirrors: Sequence[Standing],
    runs: Sequence[Run],
    dags: Sequence[Dag],
    now: datetime,
) -> list[Problem]:
    """Return all that is wrong with the mirror, what it offers, its remotes, its runs and DAGs."""
    return [
        *_problems(disk, series),
        *_broken(series),
        *(problem for one in mirrors if one.counts for problem in _unpublished(one)),
        *_audited(disk),
        *_run_problems(runs),
        *_late(dags, runs, now),
    ]


def problem(failure: Failure) -> Problem:
    """Return what a failure says, its way out apart: the last sentence of its message."""
    message, _, remedy = failure.message.rpartition(". ")
    subject, colon, rest = message.partition(f"{failure.name}: ")
    if colon and " " not in subject:  # it begins with the file's path
        message = rest
    return Problem(
        name=failure.name,
        stage=failure.stage,
        message=message or remedy,
        remedy=remedy if message else "See the log of the task in the last run",
        permanent=failure.permanent,
    )


def _problems(disk: Disk, series: Sequence[Series]) -> Iterable[Problem]:
    if not disk.exists:
        yield Problem(
            name=str(disk.root),
            stage="mirror",
            message="There is no such folder yet",
            remedy="Run prepare: it makes the mirror from the image directory",
            permanent=False,
        )
    for name, why in disk.damaged.items():
        yield Problem(
            name=f"meta/{name}",
            stage="mirror",
            message=f"This metadata cannot be read: {why}",
            remedy="Run prepare: it is made anew",
            permanent=False,
        )
    yield from (problem(failure) for failure in disk.failures)
    if disk.exists and not (series or disk.damaged or disk.failures):
        yield Problem(
            name=str(disk.root),
            stage="mirror",
            message="It offers no image yet",
            remedy="Put images into the image directory, and run prepare",
            permanent=False,
        )


def _unpublished(one: Standing) -> Iterable[Problem]:
    """Yield what is wrong with a remote; what the audit found there is told by itself."""
    address = one.record.address
    for subject, why in one.record.problems.items():
        yield problem(Failure(address, "publish", f"{subject}: {why}", permanent=False))
    told = one.record.problems and one.state in {State.UNREACHABLE, State.BEHIND, State.UNKNOWN}
    if one.remedy and not told and one.state is not State.DAMAGED:
        yield Problem(
            name=address, stage="publish", message=one.text, remedy=one.remedy, permanent=True
        )


def _broken(series: Iterable[Series]) -> Iterable[Problem]:
    """Yield the described files that are not there."""
    for one in series:
        for image in one.images:
            lost = [] if image.present else [image.filename]
            lost += [r.filename for r in image.rdiffs if r.state is RdiffState.MISSING]
            for name in lost:
                yield Problem(
                    name=name,
                    stage="mirror",
                    message=f"Clients are told of it in {one.name}, but it is not there "
                    "with its size",
                    remedy="Run prepare: it is made or linked again",
                    permanent=False,
                )


def _audited(disk: Disk) -> Iterable[Problem]:
    """Yield the errors of the last audit."""
    for one in disk.audit.findings if disk.audit else ():
        if one.severity is Severity.ERROR:
            error = RepositoryError(one.where, one.problem, expected=one.expected, found=one.found)
            yield Problem(
                name=one.file or one.where,
                stage="audit",
                message=str(error),
                remedy=one.remedy or "See the log of the audit",
                permanent=True,
            )


def _run_problems(runs: Sequence[Run]) -> Iterable[Problem]:
    """Yield the DAGs whose last finished run failed, of the runs that count."""
    for dag_id in dict.fromkeys(run.dag_id for run in runs):
        ended = (r for r in runs if r.dag_id == dag_id and r.ended is not None and not r.active)
        last = next((run for run in ended if run.counts), None)
        if last is not None and last.state == "failed":
            stages = ", ".join(stage.name for stage in last.stages if stage.failed)
            reason = f": {last.error}" if last.error else ""
            yield Problem(
                name=dag_id,
                stage="run",
                message=f"The last run failed{f' in {stages}' if stages else ''}{reason}",
                remedy="Fix the problem, then run it again; what is done is kept",
                permanent=False,
            )


def _late(dags: Iterable[Dag], runs: Sequence[Run], now: datetime) -> Iterable[Problem]:
    """Yield the DAGs that do not run as they should."""
    for dag in dags:
        found = status.late(dag, runs, now)
        if found:
            message, remedy = found
            yield Problem(
                name=dag.dag_id, stage="schedule", message=message, remedy=remedy, permanent=False
            )
