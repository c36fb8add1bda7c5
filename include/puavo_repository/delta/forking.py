"""The helper process of ``contained``: loads the compiled code once, and forks for each call.

For each call there are two children: one does the work, the other waits for it to end and says
how. None of them minds the signals that are for the whole process group: the caller does, and
they end when it closes its end of a pipe.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from enum import Enum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_INTERVAL = 0.1  # seconds between two tellings of progress
_LONGEST_LINE = 300  # characters of what a dead process said


class Answer(Enum):
    """What a child says: each with a value."""

    PROGRESS = 1
    LOG = 2
    RETURNED = 3
    RAISED = 4
    DIED = 5


def main(control: int) -> None:
    """Fork for each pair of descriptors that comes; ends when the caller closes the socket."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)  # of the last one: nobody waits for the watching ones
    with suppress(Exception):  # who does the work meets the same error, and can say so
        _load()
    with socket.socket(fileno=control) as calls:
        while True:
            said, descriptors, _, _ = socket.recv_fds(calls, 1, 2)
            if not said:
                return
            if os.fork() == 0:
                calls.close()
                _watch(*descriptors)
                os._exit(0)
            for descriptor in descriptors:
                os.close(descriptor)


def last_line(descriptor: int) -> str:
    """Return the last line that was written to a file, in short."""
    size = os.fstat(descriptor).st_size
    said = os.pread(descriptor, 4 * _LONGEST_LINE, max(0, size - 4 * _LONGEST_LINE)).decode(
        errors="replace"
    )
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip()[-_LONGEST_LINE:] if lines else ""


def _load() -> None:
    """Load all compiled code by making an rdiff: what is forked has it then."""
    from puavo_repository.delta.anchor_engine import AnchorEngine
    from puavo_repository.delta.engine import Side
    from puavo_repository.delta.proof import prove
    from puavo_repository.delta.work import write_rdiff
    from puavo_repository.progress import no_progress

    with tempfile.TemporaryDirectory() as folder:
        image, rdiff = Path(folder, "image"), Path(folder, "rdiff")
        image.write_bytes(bytes(range(256)) * 40)
        side = Side(image)
        write_rdiff(AnchorEngine(threads=1), side, side, rdiff, no_progress)
        prove(image, image, rdiff)


def _watch(orders: int, answers: int) -> None:
    """Fork the one that works, and say how it died if it does."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.memfd_create("puavo-repository"), 2)
    child = os.fork()
    if child == 0:
        _work(Connection(orders, writable=False), Connection(answers, readable=False))
        os._exit(0)
    os.close(orders)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        with suppress(OSError), Connection(answers, readable=False) as back:
            back.send((Answer.DIED, (status, last_line(2))))


def _work(orders: Connection, answers: Connection) -> None:
    """Do what is ordered."""
    caller = _Caller(answers)
    try:
        work, given = orders.recv()
        threading.Thread(target=_end_with_caller, args=(orders,), daemon=True).start()
        logging.basicConfig(level=logging.INFO, handlers=[_Log(caller)], force=True)
        result = work(*given, caller.progress)
        caller.tell_progress()
        caller.tell(Answer.RETURNED, result)
    except BaseException as error:  # noqa: BLE001 - raised again in the caller
        trace = traceback.format_exc()
        try:
            caller.tell(Answer.RAISED, (error, trace))
        except Exception:  # noqa: BLE001 - it cannot be pickled
            caller.tell(Answer.RAISED, (RuntimeError(repr(error)), trace))


def _end_with_caller(orders: Connection) -> None:
    with suppress(EOFError, OSError):
        orders.recv()
    os._exit(0)


class _Caller:
    """Who gets the answers."""

    def __init__(self, answers: Connection) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self._done, self._told = 0, time.monotonic()

    def tell(self, kind: Answer, value: Any) -> None:
        with self._lock:
            self._answers.send((kind, value))

    def progress(self, done: int) -> None:
        """Tell of progress now and then."""
        self._done += done
        if time.monotonic() - self._told >= _INTERVAL:
            self.tell_progress()

    def tell_progress(self) -> None:
        self.tell(Answer.PROGRESS, self._done)
        self._done, self._told = 0, time.monotonic()


class _Log(logging.Handler):
    """Has records logged by the caller."""

    def __init__(self, caller: _Caller) -> None:
        super().__init__()
        self._caller = caller

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        self._caller.tell(Answer.LOG, (record.name, record.levelno, record.getMessage()))
