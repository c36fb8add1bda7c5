"""Work with compiled code or a C library, in a process of its own: what dies is that work alone.

Nothing in this process can survive a write beyond an array. So ``call`` has a function called in
a child: its progress, its log, its result and its errors come back as if it were called here, and
a child that dies is an error like any other.

One helper process with a single thread (``main``) loads the compiled code once, which takes a
second, and forks for each call, which takes some 20 ms. It forks one child that waits for another,
which does the work, to say how that ended. None of them minds the signals that are for the whole
process group: the caller does. They end when it closes its end of a pipe, however it ends.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import QueueHandler
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from puavo_repository.errors import EngineCrashError, EngineKilledError, RepositoryError
from puavo_repository.progress import Progress, no_progress

T = TypeVar("T")

_START = """import sys
control, *sys.path = sys.argv[1:]
from puavo_repository.delta import contained
contained.main(int(control))"""
_KILLS = {signal.SIGKILL, signal.SIGXCPU}  # from outside; nothing that the work itself did
_PATIENCE = 5.0  # seconds for a child that is not wanted any more to be gone
_INTERVAL = 0.1  # seconds between two tellings of progress
_LONGEST_LINE = 300  # characters of what a dead process said


def call(
    subject: Path, doing: str, work: Callable[..., T], *given: Any, progress: Progress = no_progress
) -> T:
    """Call a function in a process of its own.

    Args:
        subject: The file that it makes or reads, for the error.
        doing: What it does to it, such as ``while it made this rdiff``.
        work: The function, of a module; its last argument is a ``Progress``.
        given: Its other arguments; they are pickled, as the result is.
        progress: Told what the function tells, some times a second, in this thread. It may raise
            to stop the work.

    Raises:
        EngineCrashError: The process died.
        EngineKilledError: The process was killed, by the system for want of memory as a rule.
        Exception: Whatever the function raised.
    """
    theirs, orders = Pipe(duplex=False)
    answers, back = Pipe(duplex=False)
    with answers, orders:
        with theirs, back:
            _helper.fork(theirs.fileno(), back.fileno())
        try:
            with suppress(BrokenPipeError):  # it is dead, and the answers say so
                orders.send((work, given))
            result: T = _result(answers, subject, doing, progress)
            return result
        except BaseException:
            orders.close()  # which ends the child
            with suppress(EOFError, OSError):  # nobody can answer any more: it is gone
                while answers.poll(_PATIENCE):
                    answers.recv_bytes()
            raise


def _result(answers: Connection, subject: Path, doing: str, progress: Progress) -> Any:
    """Return what the function returned, or raise."""
    while True:
        try:
            kind, value = answers.recv()
        except EOFError:
            raise _death(subject, doing, None, _last_line(_helper.said)) from None
        if kind == "progress":
            progress(value)
        elif kind == "log":
            logger = logging.getLogger(value.name)
            if logger.isEnabledFor(value.levelno):
                logger.handle(value)
        elif kind == "returned":
            return value
        elif kind == "died":
            raise _death(subject, doing, *value)
        else:
            error, trace = value
            if not isinstance(error, RepositoryError):
                error.add_note(trace)  # where it came from, in the child
            raise error


def _death(subject: Path, doing: str, status: int | None, said: str) -> RepositoryError:
    if status is None:
        how = "was lost"
    elif status < 0:
        how = f"died (signal {signal.Signals(-status).name})"
    else:
        how = f"ended (exit status {status})"
    problem = f"the delta engine {how} {doing}"
    if status is None or -status in _KILLS:
        remedy = (
            "Most often the machine's memory did not suffice: give it more, or set a "
            "smaller PUAVO_REPOSITORY_MEMORY, and run again"
        )
        return EngineKilledError(subject, problem, found=said, remedy=remedy)
    remedy = (
        "Everything else is done. Report this with the names of both images, and have the "
        "rdiffs made by PUAVO_REPOSITORY_ENGINE=librsync meanwhile"
    )
    return EngineCrashError(subject, problem, found=said, remedy=remedy)


def _last_line(descriptor: int) -> str:
    """Return the last line that a process wrote to a file as its standard error, in short."""
    if descriptor < 0:
        return ""
    start = max(0, os.fstat(descriptor).st_size - 4 * _LONGEST_LINE)
    said = os.pread(descriptor, 4 * _LONGEST_LINE, start)
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[-_LONGEST_LINE:] if lines else ""


class _Helper:
    """The process that forks the children; it is started when it is first needed."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._close)

    def _forget(self) -> None:
        """Do as if there were none: a fork of this process has to start its own."""
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.said = -1  # what it wrote to its standard error

    def fork(self, orders: int, answers: int) -> None:
        """Have a child forked that gets these two descriptors."""
        with self._lock:
            for _ in range(2):  # a helper that somebody killed is replaced
                control = self._control or self._start()
                with suppress(BrokenPipeError, ConnectionResetError):
                    socket.send_fds(control, [b"."], [orders, answers])
                    return
                self._close()

    def _close(self) -> None:
        if self._control is not None and self._process is not None:
            self._control.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
            os.close(self.said)
            self._control, self._process, self.said = None, None, -1

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.said = os.memfd_create("puavo-repository")
        command = [sys.executable, "-P", "-c", _START, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                [*command, *(str(path) for path in sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.said,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # what forks has one thread
            )
        self._control = ours
        return ours


_helper = _Helper()


def main(control: int) -> None:
    """Be the helper: fork for each pair of descriptors, until the caller closes the socket."""
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


def _load() -> None:
    """Load all compiled code by making an rdiff: what is forked has it then."""
    from puavo_repository.delta import anchor_engine, engine, work

    with tempfile.TemporaryDirectory() as folder:
        image, rdiff = Path(folder, "image"), Path(folder, "rdiff")
        image.write_bytes(bytes(range(256)) * 40)
        side = engine.Side(image)
        work.write_rdiff(anchor_engine.AnchorEngine(threads=1), side, side, rdiff, no_progress)
        work.prove(image, image, rdiff)


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
            back.send(("died", (status, _last_line(2))))


def _work(orders: Connection, answers: Connection) -> None:
    """Do what is ordered."""
    caller = _Caller(answers)
    try:
        work, given = orders.recv()
        threading.Thread(target=_end_with_caller, args=(orders,), daemon=True).start()
        log = QueueHandler(caller)  # type: ignore[arg-type]  # it only puts
        logging.basicConfig(level=logging.INFO, handlers=[log], format="%(message)s", force=True)
        result = work(*given, caller.progress)
        caller.tell("progress", caller.done)
        caller.tell("returned", result)
    except BaseException as error:  # noqa: BLE001 - raised again in the caller
        trace = traceback.format_exc()
        try:
            caller.tell("raised", (error, trace))
        except Exception:  # noqa: BLE001 - it cannot be pickled
            caller.tell("raised", (RuntimeError(repr(error)), trace))


def _end_with_caller(orders: Connection) -> None:
    with suppress(EOFError, OSError):
        orders.recv()
    os._exit(0)


class _Caller:
    """Who gets the answers, one after another; a queue of log records to ``QueueHandler``."""

    def __init__(self, answers: Connection) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self.done, self._told = 0, time.monotonic()

    def tell(self, kind: str, value: Any) -> None:
        with self._lock:
            self._answers.send((kind, value))

    def put_nowait(self, record: logging.LogRecord) -> None:
        self.tell("log", record)

    def progress(self, done: int) -> None:
        """Tell of progress now and then."""
        self.done += done
        if time.monotonic() - self._told >= _INTERVAL:
            self.tell("progress", self.done)
            self.done, self._told = 0, time.monotonic()
