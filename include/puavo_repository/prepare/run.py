"""The night's work in one process, as the command does it.

The stages are the tasks of the DAG, in the same order. Here the mapped ones run in threads; the
heavy code below them runs without the GIL.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TypeVar

from puavo_repository.delta import librsync
from puavo_repository.errors import MassDeleteError, RepositoryError, SettingsError
from puavo_repository.mirror import files
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import Failure
from puavo_repository.mirror.under_way import Recorder
from puavo_repository.prepare import configure, describe, diff, fingerprint
from puavo_repository.prepare.plan import Plan, look
from puavo_repository.prepare.report import Report, report
from puavo_repository.progress import Progress, Watcher
from puavo_repository.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FINGERPRINT_THREADS = 2  # cores that one image's digests keep busy
_SPARE = 1  # more at a time than the cores need: takes what the others leave while they wait


def dry_run(settings: Settings) -> Plan:
    """Say what a run would do; nothing is written."""
    plan = look(settings)
    try:
        describe.guard(settings, plan)
    except MassDeleteError as error:
        refused = Failure.of(str(error.subject), "clean", error)
        return replace(plan, failures=(*plan.failures, refused))
    return plan


def prepare(settings: Settings, usual: Watcher, holder: str) -> Report:
    """Bring the mirror up to date; ``holder`` is who takes its lock.

    What fails for single images and rdiffs is told when it does, and is in the report.
    """
    begun = time.time()
    mirror = Mirror(settings.mirror_dir)
    if not files.exists(mirror.state.folder):
        describe.guard(settings, look(settings))  # before even a folder is made
    with mirror.locked(holder), Recorder(mirror.root, "prepare", "", usual) as watcher:
        plan = look(settings)
        removed = describe.clean(settings, plan)
        notes = configure.configure(settings, plan.inventory).notes
        undertaken = _make(settings, plan, watcher)
        plan = look(settings) if undertaken else plan
        removed += describe.describe(settings, undertaken, plan)
        return report(settings, begun, removed=removed, notes=notes)


def _make(settings: Settings, plan: Plan, watcher: Watcher) -> set[str]:
    """Read the images and make the rdiffs that are missing; return which those were."""
    for failure in plan.failures:
        watcher.fail(failure.message)
    if plan.has_work:
        librsync.library()  # that it is installed is seen before hours of work
    sizes = {name: image.size for name, image in plan.inventory.images.items()}
    images = {name: sizes[name] for name in plan.to_read}
    workers = settings.cores // _FINGERPRINT_THREADS + _SPARE
    read = partial(fingerprint.fingerprint, settings)
    _each("fingerprint", images, read, workers, watcher)
    pairs = (look(settings) if images else plan).to_make
    work = {pair: 2 * sizes.get(pair.target, 0) for pair in pairs}
    workers = settings.cores // settings.delta_engine().threads + _SPARE if pairs else 1
    _each("diff", work, partial(diff.diff, settings), workers, watcher)
    return {*images, *(pair.rdiff for pair in pairs)}


def _each(
    stage: str,
    work: dict[T, int],
    step: Callable[[T, Progress], object],
    workers: int,
    watcher: Watcher,
) -> None:
    """Do a step for each item of so many bytes of work, and tell what fails."""
    if not work:
        return
    tell = watcher.begin(stage, sum(work.values()), len(work))
    stop = Event()

    def run(item: T) -> None:
        left = work[item]

        def progress(done: int) -> None:
            nonlocal left
            if stop.is_set():
                raise KeyboardInterrupt
            left -= done
            tell(done)

        try:
            step(item, progress)
        except SettingsError:
            raise  # the same for every item: the run ends
        except RepositoryError as error:
            watcher.fail(str(error))
        except Exception:
            logger.exception("%s failed for %s", stage, getattr(item, "rdiff", item))
        tell(left)
        watcher.finish(stage)

    with ThreadPoolExecutor(workers, thread_name_prefix=stage) as pool:
        try:
            for future in as_completed([pool.submit(run, item) for item in work]):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
