"""Publishing to one remote mirror, right at every moment for the clients that read it.

In order: ``survey`` what the remote has, ``plan``, ``prepare`` (space, lock, what is intended
goes into the journal), ``transfer`` each file under a hidden name until it is proven,
``switch`` the metadata, ``prune`` and ``verify``. ``publish`` does all of it for the command;
the DAG's tasks do the same steps, each with a ``Publisher`` of its own.

A run that was interrupted anywhere is simply started again: the plan sees what is there.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from puavo_repository.errors import (
    LockedError,
    MassDeleteError,
    PublishError,
    RepositoryError,
    TransientError,
    as_storage_error,
)
from puavo_repository.progress import TransferProgress, no_transfer_progress
from puavo_repository.stages.publish_options import Options
from puavo_repository.stages.publish_plan import How, Plan, Transfer
from puavo_repository.stages.publish_report import PublishReport
from puavo_repository.stages.publisher import Publisher
from puavo_repository.stages.transfer import Placed
from puavo_repository.storage import published
from puavo_repository.storage.target import Target, without_password

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

ATTEMPTS = 5  # for each step, where a retry may help
FIRST_DELAY = 2.0  # seconds before the second attempt; each later one waits twice as long
LARGE = 64 << 20  # bytes; such files go one after another, smaller ones side by side


def publish(
    mirror_dir: Path,
    target: Target,
    options: Options | None = None,
    *,
    dry_run: bool = False,
    progress: TransferProgress = no_transfer_progress,
) -> PublishReport:
    """Publish a mirror to one remote.

    Args:
        mirror_dir: The local mirror.
        target: The remote.
        options: How.
        dry_run: Whether to plan only.
        progress: Told (path, bytes that the server has, bytes in all), from any thread.

    Returns:
        What was done; single files and steps that failed are in it.

    Raises:
        RepositoryError: Nothing could be done at all.
    """
    begun = time.monotonic()
    report = PublishReport(target.url, dry_run)
    with Publisher(mirror_dir, target, options, progress=progress) as publisher:
        try:
            _publish(publisher, report)
        finally:
            report.bytes_sent = publisher.pool.sent
            report.seconds = time.monotonic() - begun
    return report


def publish_all(
    mirror_dir: Path,
    targets: Sequence[Target],
    options: Options | None = None,
    *,
    dry_run: bool = False,
    progress: TransferProgress = no_transfer_progress,
) -> list[PublishReport]:
    """Publish to several remotes; what keeps one from being reached is in its report."""
    reports = []
    for target in targets:
        try:
            report = publish(mirror_dir, target, options, dry_run=dry_run, progress=progress)
        except RepositoryError as error:
            logger.error("%s", error)
            report = PublishReport(target.url, dry_run, failed={"connecting": str(error)})
        reports.append(report)
        if not dry_run:
            remember(mirror_dir, report)
    return reports


def remember(mirror_dir: Path, report: PublishReport) -> None:
    """Keep beside the mirror what was left on a remote, for those who look there."""
    waits = {path: f"waits for {', '.join(files[:3])}" for path, files in report.held.items()}
    address, problems = without_password(report.target), {**report.failed, **waits}
    files: Mapping[str, str] | None = published.described(mirror_dir)
    if "connecting" in report.failed:
        files = None
    elif problems:  # not all of it is there
        files = published.known(mirror_dir, address).files
    published.remember(mirror_dir, address, report.generation, files=files, problems=problems)


def _publish(publisher: Publisher, report: PublishReport) -> None:
    _, facts, plan = persist(publisher.look)
    report.plan, report.present, report.foreign = plan.lines(), plan.present, plan.foreign
    report.failed = dict(plan.problems or {})
    report.generation = facts.journal.generation
    for line in report.plan:
        logger.info("%s%s", "would: " if report.dry_run else "", line)
    if report.dry_run:
        return
    if plan.is_empty and facts.settled:
        publisher.tidy()
        return
    persist(lambda: publisher.prepare(facts, plan))
    try:
        with publisher.alive():
            done = _transfer_all(publisher, plan, report)
        _finish(publisher, plan, done, report)
    finally:
        with contextlib.suppress(RepositoryError):
            publisher.end()


def _finish(publisher: Publisher, plan: Plan, done: list[Placed], report: PublishReport) -> None:
    """Switch, prune and verify; what cannot be done is reported, the rest is done."""
    try:
        report.switched_to(persist(lambda: publisher.switch(done, plan.transfers)))
        report.cleaned(persist(publisher.prune))
    except MassDeleteError as error:
        report.failed["removing"] = str(error)
    report.generation = persist(lambda: publisher.verify([placed.path for placed in done]))


def _transfer_all(publisher: Publisher, plan: Plan, report: PublishReport) -> list[Placed]:
    """Bring every file there: small ones side by side, then large ones and images in order."""
    small = [i for i in plan.transfers if i.how is How.UPLOADED and i.size < LARGE]
    rest = [item for item in plan.transfers if item not in small]
    done: list[Placed] = []
    stop: list[RepositoryError] = []

    def one(item: Transfer) -> None:
        if stop:
            report.failed[item.path] = f"not tried: {stop[0]}"
            return
        try:
            placed = persist(lambda: publisher.transfer(item))
        except RepositoryError as error:
            report.failed[item.path] = str(error)
            if not isinstance(error, PublishError):
                stop.append(error)  # the server, not the file: the others would fail too
            return
        done.append(placed)
        report.placed([placed])

    with ThreadPoolExecutor(publisher.options.connections) as workers:
        list(workers.map(one, small))
    for item in rest:
        one(item)
    return done


def persist(step: Callable[[], Result]) -> Result:
    """Do a step, again and again where a retry may help.

    Raises:
        RepositoryError: What the last attempt raised; where a retry cannot help, the first.
    """

    def once() -> Result:
        with as_storage_error("a local file"):
            return step()

    for attempt in range(ATTEMPTS - 1):
        try:
            return once()
        except LockedError:
            raise
        except TransientError as error:
            delay = FIRST_DELAY * 2**attempt
            logger.warning("%s; again in %.0f s", error, delay)
            time.sleep(delay)
    return once()
