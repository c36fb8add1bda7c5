"""Publishing to remote mirrors, right at every moment for the clients that read them.

``upload`` what is missing, under hidden names until it is proven; ``switch`` the metadata; and
``clean`` what no metadata names any more. ``publish`` does all of it for the command; the DAG's
tasks do the same steps, each with a ``Publisher`` of its own. A run that was interrupted anywhere
is simply started again: each step sees what is there.
"""

import logging
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from puavo_repository.errors import MassDeleteError, RepositoryError
from puavo_repository.mirror import published
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.publish.clean import clean
from puavo_repository.publish.plan import is_part
from puavo_repository.publish.publisher import Publisher, PublishReport
from puavo_repository.publish.switch import switch
from puavo_repository.publish.upload import upload
from puavo_repository.remote import lock
from puavo_repository.remote.target import Target, without_password
from puavo_repository.retry import with_retries
from puavo_repository.settings.model import Model

logger = logging.getLogger(__name__)


def publish_all(
    mirror_dir: Path,
    targets: Sequence[Target],
    options: Model | None = None,
    *,
    dry_run: bool = False,
    only: Collection[str] | None = None,
    watcher: Watcher = NO_WATCHER,
) -> list[PublishReport]:
    """Publish to several remotes; what keeps one from being reached is in its report.

    The watcher is told of what failed as well, whatever ends the run.
    """
    reports = []
    for target in targets:
        publisher = Publisher(mirror_dir, target, options, watcher, only=only)
        report = publisher.report
        report.dry_run = dry_run
        try:
            with publisher:
                publish(publisher)
        except RepositoryError as error:
            report.failed["publishing"] = str(error).removeprefix(f"{target.url}: ")
        finally:
            for line in report.lines()[1:]:
                watcher.fail(f"{report.target}: {line}")
        reports.append(report)
        if not dry_run:
            remember(mirror_dir, report)
    return reports


def publish(publisher: Publisher) -> None:
    """Publish to one remote, or plan only; single files and steps that failed are in the report."""
    begun, report = time.monotonic(), publisher.report
    try:
        state, plan = with_retries(publisher.look)
        report.saw(state, plan)
        report.failed = dict(plan.problems)
        if report.dry_run:
            return
        logger.info("%s: %s", report.target, report.plan[-1])  # of each file it is told when done
        finished = state.journal.verified and not state.journal_changed
        if plan.is_empty and finished and not any(map(is_part, state.rows)):
            # Nothing else is to be done; what somebody who died left of a lock goes all the same.
            with suppress(RepositoryError), publisher.pool.tree() as tree:
                if lock.lock_debris(tree):
                    with lock.PublisherLock(tree).held():
                        pass
            return
        report.files = None  # what was seen before is not so any more
        try:
            for step in (upload, switch, clean):
                with_retries(partial(step, publisher))
        except MassDeleteError as error:
            report.failed["removing"] = str(error)
        except RepositoryError:
            with suppress(RepositoryError):
                report.saw(publisher.look()[0])
            raise
        report.saw(with_retries(publisher.look)[0])
    finally:
        report.bytes_sent, report.seconds = publisher.pool.sent, time.monotonic() - begun


def remember(mirror_dir: Path, report: PublishReport) -> None:
    """Keep beside the mirror what was left on a remote, for those who look there."""
    published.remember(
        mirror_dir,
        without_password(report.target),
        report.generation,
        files=report.files,
        documents=report.documents,
        problems={**report.failed, **report.waits()},
        free=report.free,
    )
