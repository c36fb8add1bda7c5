"""Lock files. The kernel keeps them; what is written into one says who holds it."""

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from puavo_repository.errors import LockedError, as_storage_error
from puavo_repository.mirror import files

_MOMENT, _PAUSE = 0.25, 0.01  # seconds: how long one that is held is tried, and how often
_held: dict[Path, bytes] = {}  # what this process wrote into each lock that it alone holds


@contextmanager
def locked(path: Path, holder: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, made where it is missing; the kernel drops it with the process.

    Who finds it held is told of its ``holder`` in these words, or waits for its end.
    """
    files.make_folder(path.parent)
    with as_storage_error(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, files.NEW_FILE)
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with os.fdopen(descriptor, "r+b", 0) as lock:
        with as_storage_error(path):
            try:
                fcntl.flock(descriptor, mode) if wait else _take(descriptor, mode)
            except BlockingIOError:
                raise LockedError(
                    path.parent.parent,
                    f"another run is at work on this mirror: {_holder(descriptor)}",
                    remedy="Wait for it to end, or stop it; its lock goes with it",
                ) from None
        who = {"holder": holder, "process": os.getpid(), "host": socket.gethostname()}
        content = json.dumps({**who, "token": secrets.token_hex(8)}).encode()
        # The lock is the kernel's, and a full disk may not take this.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, content, 0)
            os.fsync(descriptor)  # for other machines
            if not shared:
                _held[path] = content
        try:
            yield
        finally:
            _held.pop(path, None)
            # A run without news changes no byte of the mirror, so nobody is named any more.
            with suppress(OSError):  # others share the lock, and the last of them will
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)


def _take(descriptor: int, mode: int) -> None:
    """Take a lock, tried for a moment: who leaves a shared one holds it alone for as long."""
    until = time.monotonic() + _MOMENT
    while True:
        try:
            return fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE)


def check_held(path: Path) -> None:
    """Raise a ``LockedError`` where a lock that this process alone held is lost.

    A network file system drops it when it hears nothing of this machine, which may have been cut
    off or asleep, and tells it nothing. Who took the lock then has written its own name there.
    """
    mine = _held.get(path)
    if mine is not None and files.read(path) != mine:
        raise LockedError(
            path.parent.parent,
            "another run has taken over, because this machine was cut off or asleep",
            remedy="Nothing more was written. Run again when the other one is done",
        )


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"{found['holder']}, process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "it has not said which"
