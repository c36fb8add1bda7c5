"""What is not as it should be, and the way out of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from puavo_repository.audit.report import Severity
from puavo_repository.errors import RepositoryError
from puavo_repository.storage.state import Failure
from puavo_repository.web.disk import Disk
from puavo_repository.web.model import DRY_RUN, Problem, RdiffState, Run, Series


def find_problems(disk: Disk, series: Sequence[Series], runs: Sequence[Run]) -> list[Problem]:
    """Return all that is wrong with the mirror, what it offers, its remotes and its runs."""
    return [*_problems(disk), *_broken(series), *_audited(disk), *_run_problems(runs)]


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


def _problems(disk: Disk) -> Iterable[Problem]:
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
    for remote in disk.remotes:
        for subject, why in remote.problems.items():
            yield problem(Failure(remote.address, "publish", f"{subject}: {why}", permanent=False))
        if remote.restored is not None:
            yield Problem(
                name=remote.address,
                stage="rollback",
                message=f"It is rolled back: clients see generation {remote.restored} again",
                remedy="Take the bad image out of the image directory and prepare: "
                "publishing then goes on",
                permanent=True,
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
    """Yield the DAGs whose last finished run failed."""
    for dag_id in dict.fromkeys(run.dag_id for run in runs):
        ended = (r for r in runs if r.dag_id == dag_id and r.ended is not None)
        last = next((r for r in ended if r.did != DRY_RUN), None)
        if last is not None and last.state == "failed":
            stages = ", ".join(stage.name for stage in last.stages if stage.failed)
            yield Problem(
                name=dag_id,
                stage="run",
                message=f"Its last run failed{f' in {stages}' if stages else ''}",
                remedy="Mend what is named here and trigger it again; what is done is kept",
                permanent=False,
            )
