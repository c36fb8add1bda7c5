"""The step ``upload``: every file that is missing, small ones side by side, large ones in turn."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial

from puavo_repository import errors
from puavo_repository.mirror.under_way import UPLOAD, Recorder
from puavo_repository.progress import Progress, format_bytes, no_progress
from puavo_repository.publish.clean import remove_unnamed
from puavo_repository.publish.plan import RemoteState, Transfer
from puavo_repository.publish.publisher import LockedRemote, Publisher
from puavo_repository.publish.survey import survey
from puavo_repository.publish.switch import Switch
from puavo_repository.publish.transfer import transfer
from puavo_repository.retry import with_retries

logger = logging.getLogger(__name__)

LARGE = 64 << 20  # bytes; such files go one after another, each over several connections
SPARE = 64 << 20  # bytes that must stay free on the remote
SAVE_EVERY = 30.0  # seconds between two journals, or more where it takes long to write one
_SAVE_SHARE = 20  # times as long as one takes to write


def upload(publisher: Publisher) -> None:
    """Bring every file there that is missing; clients are not told of any yet.

    What could not be brought there is in the report. The others are there.
    """
    with publisher.step() as (remote, state):
        if _bytes_missing(remote, state) > 0:
            state = _make_room(remote, state)
        plan = publisher.plan(remote.tree, state)
        remote.tree.make_folder("rdiffs")
        for item in plan.transfers:
            if not item.replaces:
                remote.journal.intend(item.path, item.size, item.sha256)
        if plan.transfers or state.journal_changed:
            remote.save()
        publisher.report.transient = publisher.report.server_lost = False
        publisher.report.failed = dict(plan.problems)
        if plan.transfers:
            usual, subject = publisher.watcher, publisher.report.target
            with Recorder(publisher.mirror_dir, subject, UPLOAD, usual) as publisher.watcher:
                _Upload(remote).run(plan.transfers)  # others see how far it is
            publisher.watcher = usual
            remote.save()


def _make_room(remote: LockedRemote, state: RemoteState) -> RemoteState:
    """Remove what may go before anything is sent to a disk that is too small for both.

    First what no metadata names and whose grace is over; then the mirror's old files are taken
    out of the metadata, so that they may go too, at once or when their grace is over.
    """
    tree, publisher = remote.tree, remote.publisher
    logger.info("%s: too full for all that is new; room is made first", tree.name)
    remove_unnamed(remote, state)
    gone = state.published().keys() - state.kept()
    if gone and publisher.only is None and _bytes_missing(remote, state) > 0:
        Switch(remote, state).withdraw(gone)
        remove_unnamed(remote, state)
    state = survey(tree, state.local, remote.journal, publisher.options)
    missing = _bytes_missing(remote, state)
    if missing > 0:
        free = tree.free_space() or 0
        raise errors.StorageRefusedError(
            tree.name,
            "the server's disk is too full for what is to be published",
            expected=f"{format_bytes(missing + free)} free",
            found=format_bytes(free),
            remedy="Free some space there, or publish fewer images",
        )
    return state


def _bytes_missing(remote: LockedRemote, state: RemoteState) -> int:
    """Return how many bytes are missing on the server's disk for what is planned; 0 or less: none.

    The part of a file that is to be sent is gone on with, or removed first. Others only take room.
    """
    items, free = remote.publisher.plan(remote.tree, state).transfers, remote.tree.free_space()
    need = sum(item.size for item in items)
    if not need or free is None:
        return 0
    parts = filter(None, (remote.parts.known.get(item.path) for item in items))
    there = sum(found.size for part in parts if (found := state.row(part.name).found))
    return need - there + SPARE - free


class _Upload:
    """The files that one step brings to a remote; the journal is saved now and then."""

    def __init__(self, remote: LockedRemote) -> None:
        self._remote, self._publisher = remote, remote.publisher
        self._stop = threading.Event()
        self._stopped_by: errors.RepositoryError | None = None
        self._next_save = time.monotonic() + SAVE_EVERY
        self._tell: Progress = no_progress

    def run(self, items: Sequence[Transfer]) -> None:
        """Bring all of them there; those that fail hold back no other."""
        pool, total = self._publisher.pool, sum(item.size for item in items)
        self._tell = self._publisher.watcher.begin(UPLOAD, total, len(items))
        workers = ThreadPoolExecutor(pool.limit, thread_name_prefix="transfer")
        large = [item for item in items if item.rdiff or item.size >= LARGE]
        try:
            small = (item for item in items if not item.rdiff and item.size < LARGE)
            futures = {workers.submit(self._one, item): item for item in small}
            for future in as_completed(futures):
                self._note(futures[future], future.result)
            for item in large:
                self._note(item, partial(self._one, item))
        except BaseException:
            # Ended from outside, or the lock is lost: what is under way ends with its connection.
            self._stop.set()
            pool.close()
            raise
        finally:
            workers.shutdown(cancel_futures=True)

    def _one(self, item: Transfer) -> tuple[bool, int | None]:
        if self._stopped_by is not None:
            raise errors.PublishError(item.path, f"not tried: {self._stopped_by}")
        begun = time.monotonic()
        made, mtime = with_retries(partial(transfer, item, self._remote), stop=self._stop)
        rate = format_bytes(item.size / max(time.monotonic() - begun, 1e-3))
        how, size = "assembled" if made else "uploaded", format_bytes(item.size)
        logger.info("%s: %s, %s, %s/s", item.path, how, size, rate)
        return made, mtime

    def _note(self, item: Transfer, result: Callable[[], tuple[bool, int | None]]) -> None:
        """Enter what became of a file in journal and report, at once: the step may end anywhere."""
        report = self._publisher.report
        try:
            made, mtime = result()
        except errors.LockedError:
            raise
        except errors.RepositoryError as error:
            self._publisher.watcher.finish(UPLOAD)
            why = report.failed[item.path] = str(error).removeprefix(f"{item.path}: ")
            self._publisher.watcher.fail(f"{report.target}: {item.path}: {why}")
            report.transient |= isinstance(error, errors.TransientError)
            here = error.subject.startswith(errors.printable(self._publisher.mirror_dir))
            if not (here or isinstance(error, errors.PublishError)):
                self._stopped_by = error  # the server, not the file: the others would fail too
                report.server_lost |= isinstance(error, errors.TransientError)
            return
        if mtime is not None:
            self._remote.journal.placed(item.path, item.size, item.sha256, mtime)
        (report.assembled if made else report.uploaded)[item.path] = item.size
        self._tell(item.size)
        self._publisher.watcher.finish(UPLOAD)
        begun = time.monotonic()
        if begun > self._next_save:
            self._remote.save()
            now = time.monotonic()
            self._next_save = now + max(SAVE_EVERY, _SAVE_SHARE * (now - begun))
