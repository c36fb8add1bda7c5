"""Standard streams that nobody reads, or that are closed, do not end the command."""

from __future__ import annotations

import io
import os
import sys
from typing import IO, Any, TextIO


def protect() -> None:
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
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif stream is getattr(sys, f"__{name}__") and stream.fileno() == number:
            setattr(sys, name, _wrapped(stream))


def _wrapped(stream: TextIO) -> IO[str]:
    stream.flush()
    raw: io.RawIOBase = _Deaf(stream.fileno(), "w", closefd=False)
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffered,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.isatty() or stream is sys.__stderr__,
        write_through=stream is sys.__stderr__,
    )


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
