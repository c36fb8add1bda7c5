"""Work with compiled code or a C library, in a process of its own: what dies is that work alone.

``call`` has a function called in a child, as nothing here can survive a write beyond an array. Its
progress, log, result and errors come back; a child that dies is an error like any other.

One helper process with a single thread (``main``) loads the compiled code once, which takes a
second. It forks a child for each call, which takes some 10 ms, and says how one died. None of them
minds the signals that are for the whole process group: the caller does. They end when it closes
its end of a connection, however it ends.
"""

import atexit
import gc
import logging
import os
import pickle
import selectors
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
from functools import partial
from logging.handlers import QueueHandler
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from puavo_repository.errors import DeltaError, RepositoryError, TransientError
from puavo_repository.progress import Progress, no_progress

T = TypeVar("T")

_PATIENCE = 5.0  # seconds for a child that is not wanted any more to be gone
_INTERVAL = 0.1  # seconds between two tellings of progress
_LONGEST_LINE = 300  # characters of what a dead process said
_REMEDY = (
    "Everything else is done. Report this with the names of both images, and have the rdiffs made "
    "by PUAVO_REPOSITORY_ENGINE=librsync meanwhile"
)


def call(
    subject: Path,
    doing: str,
    work: Callable[..., T],
    *given: Any,
    progress: Progress = no_progress,
    remedy: str = _REMEDY,
) -> T:
    """Call a function of a module in a process of its own.

    Args:
        subject: The file that it makes or reads, for the error.
        doing: What it does to it, such as ``while it made this rdiff``.
        work: The function; its last argument is a ``Progress``.
        given: Its other arguments; they are pickled, as the result is.
        progress: Told some times a second, in this thread. It may raise to stop the work.
        remedy: What to do where it dies by its own fault.

    Raises:
        DeltaError: The process died.
        TransientError: The process was killed, by the system for want of memory as a rule.
        Exception: Whatever the function raised.
    """
    child, theirs = Pipe()
    with child:
        with theirs:
            _helper.fork(theirs)
        try:
            with suppress(ConnectionError):  # it is dead, and the answers say so
                child.send((work, given))
            kind, value = _answer(child)
            while kind in {"progress", "log"}:
                if kind == "progress":
                    progress(value)
                elif (logger := logging.getLogger(value.name)).isEnabledFor(value.levelno):
                    logger.handle(value)
                kind, value = _answer(child)
        except BaseException:
            with suppress(EOFError, OSError):  # it is gone
                child.send(None)  # which ends it
                while child.poll(_PATIENCE):
                    child.recv_bytes()
            raise
    if kind == "returned":
        result: T = value
        return result
    raise _death(subject, doing, remedy, *value) if kind == "died" else value


def _answer(child: Connection) -> Any:
    """Return what a child tells next: of which kind, and what; of silence, that it did nothing.

    One that waits for a dead disk, or was stopped, says nothing; who watches may end it even so.
    """
    try:
        return child.recv() if child.poll(_INTERVAL) else ("progress", 0)
    except (EOFError, OSError):  # the latter amid an answer, or where it has not read its order
        return "died", (None, _last_line(_helper.said))


def _death(
    subject: Path, doing: str, remedy: str, status: int | None, said: str
) -> RepositoryError:
    how = "was lost" if status is None else f"ended (exit status {status})"
    if status is not None and status < 0:
        how = f"died (signal {signal.Signals(-status).name})"
    problem = f"the delta engine {how} {doing}"
    if status in {None, -signal.SIGKILL, -signal.SIGXCPU}:  # from outside, not by the work itself
        remedy = "Most often the machine's memory did not suffice: give it more, or set a "
        remedy += "smaller PUAVO_REPOSITORY_MEMORY, and run again"
        return TransientError(subject, problem, found=said, remedy=remedy)
    return DeltaError(subject, problem, found=said, remedy=remedy)


def _last_line(descriptor: int) -> str:
    """Return the last line that a process wrote to a file as its standard error, in short."""
    start = max(0, os.fstat(descriptor).st_size - 4 * _LONGEST_LINE)
    said = os.pread(descriptor, 4 * _LONGEST_LINE, start).decode(errors="replace")
    return said.strip().rpartition("\n")[2].strip()[-_LONGEST_LINE:]


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
        self.said = -1  # what it writes to its standard error

    def fork(self, connection: Connection) -> None:
        """Have a child forked that gets a connection."""
        with self._lock:
            for _ in range(2):  # a helper that somebody killed is replaced
                control = self._control or self._start()
                with suppress(BrokenPipeError, ConnectionResetError):
                    socket.send_fds(control, [b"."], [connection.fileno()])
                    return
                self._close()

    def _close(self) -> None:
        if self._control and self._process:
            self._control.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
            self._control = None

    def _start(self) -> socket.socket:
        code = "from puavo_repository.delta import contained; contained.main()"
        path = os.pathsep.join(str(folder) for folder in sys.path)
        if self.said < 0:  # not before: it might get the number of a stream that was closed
            self.said = os.memfd_create("puavo-repository")
        control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self.said,
                # What forks has one thread.
                env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
            )
        self._control = control  # only now: where none could be started, the next call tries again
        return control


_helper = _Helper()


def main() -> None:
    """Be the helper: fork for each connection that comes by the standard input, until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(Exception):  # who does the work meets the same error, and can say so
        _load()
    gc.freeze()  # a child that collects garbage would copy all of it
    with socket.socket(fileno=0) as calls, selectors.DefaultSelector() as ready:
        ready.register(calls, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.data:
                    ready.unregister(key.fd)
                    os.close(key.fd)
                    _tell_death(*key.data)
                elif descriptors := socket.recv_fds(calls, 1, 1)[1]:
                    caller, said = Connection(descriptors[0]), os.memfd_create("puavo-repository")
                    child = os.fork()
                    if child == 0:
                        calls.close()
                        for other in ready.get_map().values():  # or none ended before this one
                            if other.data:
                                other.data[1].close()
                        os.dup2(said, 2)
                        _be_first_to_go()
                        _work(caller)
                        os._exit(0)
                    ready.register(
                        os.pidfd_open(child), selectors.EVENT_READ, (child, caller, said)
                    )
                else:
                    return


def _load() -> None:
    """Load all compiled code by making an rdiff: what is forked has it then."""
    from puavo_repository.delta import AnchorEngine, engine, work

    with tempfile.TemporaryDirectory() as folder:
        image, rdiff = Path(folder, "image"), Path(folder, "rdiff")
        image.write_bytes(bytes(range(256)) * 40)
        side = engine.Side(image)
        work.write_rdiff(AnchorEngine(threads=1), side, side, rdiff, None, no_progress)
        work.prove(image, image, rdiff)


def _be_first_to_go() -> None:
    """Have the kernel end this process, and none that many wait for, where memory runs out."""
    weight = Path("/proc/self/oom_score_adj")
    with suppress(OSError):  # 1000 is all of the memory
        weight.write_text(str(min(1000, int(weight.read_text()) + 500)))


def _tell_death(child: int, caller: Connection, said: int) -> None:
    """Say how a child died, if it did."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(OSError), caller:
        if status:
            caller.send(("died", (status, _last_line(said))))
    os.close(said)


def _work(caller: Connection) -> None:
    """Do what the caller orders, and tell it what comes of that."""
    lock, done, told = threading.Lock(), 0, time.monotonic()

    def tell(kind: str, value: object) -> None:
        with lock:
            caller.send((kind, value))

    def progress(count: int) -> None:
        nonlocal done, told
        done += count
        if time.monotonic() - told >= _INTERVAL:
            tell("progress", done)
            done, told = 0, time.monotonic()

    def end_with_caller() -> None:
        with suppress(EOFError, OSError):
            caller.recv()
        os._exit(0)

    try:
        work, given = caller.recv()
        threading.Thread(target=end_with_caller, daemon=True).start()
        queue: Any = SimpleNamespace(put_nowait=partial(tell, "log"))
        log = QueueHandler(queue)
        logging.basicConfig(level=logging.INFO, handlers=[log], format="%(message)s", force=True)
        result = work(*given, progress)
        tell("progress", done)
        tell("returned", result)
    except BaseException as error:  # noqa: BLE001 - raised again in the caller
        trace = traceback.format_exc()
        for told_as in (error, RuntimeError(repr(error))):
            if not isinstance(error, RepositoryError):
                told_as.add_note(trace)  # where it came from
            with suppress(Exception):  # it cannot be pickled, or made again of that
                pickle.loads(pickle.dumps(told_as))  # noqa: S301 - our own
                tell("raised", told_as)
                return
