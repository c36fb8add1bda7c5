"""Runs in processes of their own that something happens to: a kill, an error of the system, a
clock that jumps.

Errors are real ones: ``strace`` makes the system calls of the run fail, also those of compiled
code and of the programs that it starts. Kills need no tracing: the run counts its own steps.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from puavo_repository.delta import contained
from puavo_repository.errors import RepositoryError
from puavo_repository.progress import Progress, no_progress
from support.servers import tool

PATIENCE = 120.0  # seconds; a run takes less than one, where it has a core for itself
STEPS = (
    *("rename", "replace", "link", "symlink", "unlink", "mkdir", "rmdir", "chmod", "fchmod"),
    *("fsync", "ftruncate", "truncate", "pwrite", "write", "copy_file_range", "utime"),
)
UNEXPECTED = 70  # exit status of a run that met an error which is none of ours
FAILED = 1

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "puavo_repository.prepare.run",
        "puavo_repository.publish.run",
        "campaign.loaded",
        "puavo_repository.delta.work",
        "puavo_repository.formats.cksum",
        "campaign.nights",
        "campaign.disturbed",
    ]
)


class Disturbance(Protocol):
    """What happens to a run from inside its process."""

    def arm(self, tell: Callable[[str], object]) -> None:
        """Prepare for it."""


@dataclass(frozen=True)
class Kill:
    """A signal just before the N-th step that changes a file system.

    Attributes:
        step: Which.
        number: Of the signal.
        steps: Those that count.
    """

    step: int
    number: int = signal.SIGKILL
    steps: tuple[str, ...] = STEPS

    def arm(self, tell: Callable[[str], object]) -> None:
        lock, taken = threading.Lock(), 0

        def counted(step: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any, **more: Any) -> Any:
                nonlocal taken
                with lock:
                    taken += 1
                    if taken == self.step:
                        tell("killed")
                        os.kill(os.getpid(), self.number)
                return step(*arguments, **more)

            return run

        for name in self.steps:
            setattr(os, name, counted(getattr(os, name)))
        atexit_of_run.append(lambda: tell(f"steps {taken}"))


@dataclass(frozen=True)
class Clock:
    """A local clock that is wrong by so many seconds, and by others after some looks at it."""

    first: float
    then: float
    looks: int

    def arm(self, tell: Callable[[str], object]) -> None:
        right, looked = time.time, 0

        def wrong() -> float:
            nonlocal looked
            looked += 1
            return right() + (self.first if looked <= self.looks else self.then)

        tell("struck")
        time.time = wrong


atexit_of_run: list[Callable[[], object]] = []


@dataclass(frozen=True)
class Injection:
    """Errors of system calls.

    Attributes:
        calls: Which.
        error: Its name, such as ``EIO``.
        when: Which of a thread's calls fail, as ``strace`` takes it: ``7``, or ``7+`` for all from
            there on.
        paths: Only calls on these files; none for all.
    """

    calls: tuple[str, ...]
    error: str
    when: str
    paths: tuple[Path, ...] = ()

    def command(self) -> list[str]:
        """Return the command that brings them about; its log and its process are still to say."""
        calls = ",".join(f"?{name}" for name in self.calls)
        paths = [word for path in self.paths for word in ("-P", str(path))]
        rule = f"inject={calls}:error={self.error}:when={self.when}"
        return [tool("strace"), "-f", *paths, "-e", f"trace={calls}", "-e", rule]


@dataclass(frozen=True)
class Run:
    """How a run ended.

    Attributes:
        status: Its exit status; negative for a signal.
        struck: Whether what was to happen to it did happen.
        steps: How many steps it took, if it was not killed; of the busiest thread where calls
            were traced.
        unexpected: The errors that were none of ours, with their traces.
        said: The errors that were.
    """

    status: int
    struck: bool = False
    steps: int = 0
    unexpected: str = ""
    said: str = ""


@cache
def why_not_traced() -> str:
    """Return why system calls cannot be made to fail here; empty where they can."""
    command = [tool("strace"), "-o", "/dev/null", "-e", "inject=?rename:error=EIO", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"strace cannot trace here: {done.stderr.strip()}" if done.returncode else ""


def run(
    step: Callable[..., object],
    *arguments: object,
    disturbance: Disturbance | None = None,
    injection: Injection | None = None,
    meanwhile: Callable[[multiprocessing.process.BaseProcess], bool] | None = None,
    log: Path = Path("/dev/null"),
) -> Run:
    """Do a step in a process of its own.

    Args:
        step: A function that can be imported.
        arguments: Its arguments.
        disturbance: What happens to it from inside.
        injection: Errors of its system calls, with ``log`` to see them by.
        meanwhile: Called while it runs; says whether it found it running.
        log: Where ``strace`` writes.
    """
    address = f"\0puavo-{secrets.token_hex(12)}"
    gate = _context.Event()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears:
        ears.bind(address)
        ears.setblocking(False)
        process = _context.Process(target=_live, args=(address, gate, disturbance, step, arguments))
        process.start()
        tracer = _traced(injection, process.pid or 0, log) if injection else None
        gate.set()
        struck = meanwhile(process) if meanwhile else False
        heard = _heard(ears, process)
        if process.is_alive():
            process.terminate()  # it tells where it is
            process.join(1)
            process.kill()
            process.join()
            heard += ["Traceback: it hung", *_heard(ears, process)]
    steps = [int(text.split()[1]) for text in heard if text.startswith("steps ")]
    struck = struck or "killed" in heard or "struck" in heard
    if tracer:
        tracer.wait(PATIENCE)
        struck, most = injected(log)
        steps = [most]
    unexpected = [text for text in heard if text.startswith("Traceback")]
    said = [text.removeprefix("said ") for text in heard if text.startswith("said ")]
    status = process.exitcode or 0
    return Run(status, struck, max(steps, default=0), "\n".join(unexpected), "\n".join(said))


def before(step: Callable[..., object], *arguments: object) -> None:
    """Do what comes before a fault: what is missing after it would else count as the fault's."""
    done = run(step, *arguments)
    assert not done.unexpected, done.unexpected


def injected(*logs: Path) -> tuple[bool, int]:
    """Return from the logs of ``strace`` whether a call failed, and the calls of the busiest."""
    lines = [line for log in logs for line in log.read_text().splitlines()]
    steps = Counter(line.split()[0] for line in lines)
    return any("(INJECTED)" in line for line in lines), max(steps.values(), default=0)


def _traced(injection: Injection, process: int, log: Path) -> subprocess.Popen[str]:
    log.write_text("")
    command = [*injection.command(), "-o", str(log), "-p", str(process)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = [tracer.stderr.readline()]
    while "attached" not in said[-1]:  # before it, it tells what paths lead to
        assert said[-1], said
        said.append(tracer.stderr.readline())
    threading.Thread(target=tracer.stderr.read, daemon=True).start()
    return tracer


def _heard(ears: socket.socket, process: multiprocessing.process.BaseProcess) -> list[str]:
    """Listen until a process has ended, or patience has: few words wait where nobody listens."""
    heard, end = [], time.monotonic() + PATIENCE
    while True:
        alive = process.is_alive() and time.monotonic() < end
        try:
            while True:
                heard.append(ears.recv(1 << 17).decode())
        except BlockingIOError:
            if not alive:
                return heard
        process.join(0.01)


def _live(
    address: str,
    gate: Any,
    disturbance: Disturbance | None,
    step: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    """Be the process. What it tells goes by ``sendto``: writing may be what fails."""
    mouth = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    mouth.connect(address)

    def tell(text: str) -> int:
        return mouth.send(text.encode(errors="replace")[-50_000:])

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            trace = _trace(record.exc_info[1]) if record.exc_info else ""
            tell(trace or f"said {record.getMessage()}")

    def told(_number: int, _frame: object) -> None:
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            tell(f"Traceback: it hung for {PATIENCE:.0f} s\n{file.read()}")
        os._exit(UNEXPECTED)

    signal.signal(signal.SIGTERM, told)
    contained.call, contained.get_ready = _called_here, _nothing
    logging.getLogger().handlers = [Handler()]
    threading.excepthook = lambda found: tell(_trace(found.exc_value)) and None
    gate.wait()
    if disturbance:
        disturbance.arm(tell)
    status = 0
    try:
        status = FAILED if step(*arguments) is False else 0
    except RepositoryError as error:
        tell(f"said {error}")
        status = FAILED
    except BaseException as error:  # noqa: BLE001 - told, whatever it is
        tell(_trace(error))
        status = UNEXPECTED
    for last in atexit_of_run:
        last()
    os._exit(status)


def _called_here(
    subject: Path,
    doing: str,
    work: Callable[..., Any],
    *given: Any,
    progress: Progress = no_progress,
    remedy: str = "",
) -> Any:
    """Stand for ``contained.call``: what happens to a run happens to this work too, and the helper
    that forks its processes need not be started, which takes a second.
    """
    return work(*given, progress)


def _nothing() -> None:
    """Stand for ``contained.get_ready``."""


def _trace(error: BaseException | None) -> str:
    text = "".join(traceback.format_exception(error))
    return text if text.startswith("Traceback") else f"Traceback: {text}"
