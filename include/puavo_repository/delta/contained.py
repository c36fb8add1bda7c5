"""Work with compiled code or a C library, in a process of its own: what dies is that work alone.

Nothing in this process can survive a write beyond an array. So ``call`` has a function called in
a child: its progress, its log, its result and its errors come back as if it were called here, and
a child that dies is an error like any other. The children are forked (``forking``) by one helper
process with a single thread that has loaded the compiled code: that takes a second once, and
after that some 20 ms a call.

A child ends when its caller goes away, however that ends: it waits for a pipe to be closed. It
stays in the caller's process group, so it also ends with that.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from puavo_repository.delta.forking import Answer, last_line
from puavo_repository.errors import EngineCrashError, EngineKilledError, RepositoryError
from puavo_repository.progress import Progress, no_progress

T = TypeVar("T")

_START = """import sys
control, *sys.path = sys.argv[1:]
from puavo_repository.delta import forking
forking.main(int(control))"""
_KILLS = {signal.SIGKILL, signal.SIGXCPU}  # from outside; nothing that the work itself did
_PATIENCE = 5.0  # seconds for a child that is not wanted any more to be gone


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
            _forker.fork(theirs.fileno(), back.fileno())
        try:
            with suppress(BrokenPipeError):  # it is dead, and the answers say so
                orders.send((work, given))
            result: T = _result(answers, subject, doing, progress)
            return result
        except BaseException:
            orders.close()  # which ends the child
            _drain(answers)
            raise


def _result(answers: Connection, subject: Path, doing: str, progress: Progress) -> Any:
    """Return what the function returned, or raise."""
    while True:
        try:
            kind, value = answers.recv()
        except EOFError:
            raise _death(subject, doing, None, _forker.last_line()) from None
        if kind is Answer.PROGRESS:
            progress(value)
        elif kind is Answer.LOG:
            name, level, text = value
            logging.getLogger(name).log(level, "%s", text)
        elif kind is Answer.RETURNED:
            return value
        elif kind is Answer.DIED:
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
        return EngineKilledError(
            subject,
            problem,
            found=said,
            remedy="Most often the machine's memory did not suffice: give it more, or set a "
            "smaller PUAVO_REPOSITORY_MEMORY, and run again",
        )
    return EngineCrashError(
        subject,
        problem,
        found=said,
        remedy="Everything else is done. Report this with the names of both images, and have the "
        "rdiffs made by PUAVO_REPOSITORY_ENGINE=librsync meanwhile",
    )


def _drain(answers: Connection) -> None:
    """Wait until nobody can answer any more: the child is gone, and so is who watched it."""
    with suppress(EOFError, OSError):
        while answers.poll(_PATIENCE):
            answers.recv_bytes()


class _Forker:
    """The helper process that forks the children; it is started when it is first needed."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)
        atexit.register(self.close)

    def forget(self) -> None:
        """Do as if there were none: a fork of this process has to start its own."""
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._said = -1

    def fork(self, orders: int, answers: int) -> None:
        """Have a child forked that gets these two descriptors."""
        with self._lock:
            for _ in range(2):  # a helper that somebody killed is replaced
                control = self._control or self._start()
                with suppress(BrokenPipeError, ConnectionResetError):
                    socket.send_fds(control, [b"."], [orders, answers])
                    return
                self.close()

    def last_line(self) -> str:
        """Return the end of what the helper said on its standard error."""
        return last_line(self._said) if self._said >= 0 else ""

    def close(self) -> None:
        """End the helper process."""
        if self._control is not None and self._process is not None:
            self._control.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
            os.close(self._said)
            self._control, self._process, self._said = None, None, -1

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._said = os.memfd_create("puavo-repository")
        command = [sys.executable, "-P", "-c", _START, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                [*command, *(str(path) for path in sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # what forks has one thread
            )
        self._control = ours
        return ours


_forker = _Forker()
