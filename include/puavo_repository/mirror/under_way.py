"""What goes on right now and how far it is: a small record beside the mirror while it does.

Whoever is at work writes it now and then, on any machine, and removes it at the end. It is for
people who look on, so it never holds the work up nor fails it: a thread of its own writes it, and
what cannot be written is left. Who died leaves an old one, which does not count.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from puavo_repository.errors import RepositoryError
from puavo_repository.formats import jsonfile
from puavo_repository.mirror import files
from puavo_repository.mirror.store import FOLDER, Record, Records
from puavo_repository.progress import Progress, Watcher

EVERY = 2.0  # seconds between two records
UPLOAD = "upload"  # the stage of publishing that is recorded
OLD = 60.0  # seconds from which on nobody is at it any more


@dataclass(frozen=True)
class UnderWay(Record):
    """How far something is."""

    stage: str  # fingerprint, diff or upload
    what: str  # the file that it is at, or the stage
    done: int  # bytes of all that is to be done, not of the file alone
    total: int  # 0 where that is not known
    at: float  # when that was so, in seconds since the epoch
    seconds_left: float | None = None  # about; None where that is not known

    @property
    def subject(self) -> str:
        """What it was begun as: a remote's address, a mapped task's part, or ``prepare``."""
        return unquote(self.name)


def records(mirror: Path) -> Records[UnderWay]:
    """Return where they are kept."""
    return Records(mirror / FOLDER / "under-way", UnderWay.from_dict)


def now(mirror: Path) -> Iterator[UnderWay]:
    """Yield what goes on; whoever writes it may have a clock that is some seconds off."""
    return (one for one in records(mirror) if abs(time.time() - one.at) < OLD)


class Recorder(Watcher, AbstractContextManager["Recorder"]):
    """Records what a watcher is told, from the first stage or file on until the block ends."""

    def __init__(self, mirror: Path, subject: str, stage: str, watcher: Watcher) -> None:
        self._records, self._name = records(mirror), quote(subject, safe="")
        self._stage, self._watcher = stage, watcher
        self._what, self._total, self._done = stage, 0, 0  # bytes, of a stage as a whole
        self._sizes: dict[str, int] = {}  # of the files that were begun
        self._files: dict[str, int] = {}  # what is done of each
        self._begun = time.monotonic()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._writer: threading.Thread | None = None

    def begin(self, name: str, total: int, files: int | None = None) -> Progress:
        """Begin a stage or a file, or a file again."""
        tell = self._watcher.begin(name, total, files)
        with self._lock:
            self._what = name
            if files is None:
                self._sizes[name], self._files[name] = total, 0
            else:
                self._stage, self._total, self._done = name, total, 0
                self._sizes, self._files, self._begun = {}, {}, time.monotonic()
            if self._writer is None:
                writer = threading.Thread(target=self._write, name="recorder", daemon=True)
                writer.start()
                self._writer = writer  # only now: a signal may have come before it began

        def progress(done: int) -> None:
            with self._lock:
                if files is None and name in self._files:
                    self._files[name] += done
                    self._what = name
                elif files is not None:
                    self._done += done
            tell(done)

        return progress

    def finish(self, stage: str) -> None:
        """Count one more file."""
        self._watcher.finish(stage)

    def fail(self, error: str) -> None:
        """Tell an error."""
        self._watcher.fail(error)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._writer is not None:
            self._writer.join(timeout=5)  # a dead disk may never answer
        with suppress(RepositoryError):  # of who was killed at the same before
            files.sweep(self._records.folder, of=f"{self._name}.json.")

    def _write(self) -> None:
        with suppress(RepositoryError):  # of others, who died
            files.sweep(self._records.folder, older=OLD)
            for one in list(self._records):
                if abs(time.time() - one.at) > OLD:
                    self._records.remove(one.name)
        while not self._ended.wait(EVERY):
            self._put()
        with suppress(RepositoryError):
            self._records.remove(self._name)

    def _put(self) -> None:
        """Write the record; nobody needs it after a crash, so that no disk has to wait for it."""
        path = self._records.folder / f"{self._name}.json"
        with suppress(RepositoryError), files.part_of(path) as part:
            with files.create(part) as stream:
                stream.write(jsonfile.dumps_sealed(self._now().to_dict()))
            part.replace(path)

    def _now(self) -> UnderWay:
        with self._lock:
            # Some files are told of one by one, others only when they are done.
            done = max(self._done, sum(self._files.values()))
            total = self._total or sum(self._sizes.values())
            rate = done / max(time.monotonic() - self._begun, 1e-3)
            left = round((total - done) / rate, 1) if 0 < done <= total else None
            return UnderWay(self._name, self._stage, self._what, done, total, time.time(), left)
