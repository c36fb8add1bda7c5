"""The command as a process: streams that nobody reads, and signals that end it at once."""

import io
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn, TextIO

from puavo_repository.remote.pool import abort_all

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NUDGE = signal.SIGURG  # ignored by default, so a stray one does no harm


def protect_streams() -> None:
    """Make standard output and error safe to write to.

    One that was closed (``>&-``) is as good as ``/dev/null``. Its number is taken: else the
    next file that is opened would get it, and whatever a child process prints would be
    written into that file. Where a reader goes away (``| head``) the rest is dropped: the
    work counts, and its exit status. A full disk behind a redirection is an error as ever.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream: TextIO | None = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and (stream is None or stream.fileno() == number):
            at_once = name == "stderr"
            wrapped = io.TextIOWrapper(
                io.BufferedWriter(_Deaf(number, "w", closefd=False)),
                encoding=stream.encoding if stream else "utf-8",
                errors=stream.errors if stream else "replace",
                line_buffering=at_once or os.isatty(number),
                write_through=at_once,
            )
            setattr(sys, name, wrapped)


class _Deaf(io.FileIO):
    """A stream whose reader may go away."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)  # for the rest, or it fails again at the end
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                return len(data)
            raise OSError(error.errno, error.strerror, "standard output") from error


def end_on_signals() -> None:
    """Have SIGTERM and SIGINT raise ``KeyboardInterrupt`` in the main thread, which must call this.

    What other threads do with a remote is aborted: else it would be waited for.
    """

    def interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
        abort_all()
        raise KeyboardInterrupt

    # The system may give a signal to any thread. Python then runs the handler in the main
    # thread, but does not wake it: one that waits for the others would wait to their end.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, interrupted)
    signal.signal(_NUDGE, lambda _number, _frame: None)
    main = threading.main_thread().ident

    def wake() -> None:
        while came := os.read(reader, 1):
            if main and came[0] in _SIGNALS:
                signal.pthread_kill(main, _NUDGE)

    threading.Thread(target=wake, name="signals", daemon=True).start()
