"""A lock file: the kernel drops it with the process, however that ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from puavo_repository.errors import LockedError, storage_error
from puavo_repository.mirror.files import NEW_FILE, make_folder


@contextmanager
def locked(path: Path, holder: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock file.

    Args:
        path: The lock file; made where it is missing.
        holder: Who holds it, in words for the person who finds it held.
        shared: Whether others may hold it shared at the same time.
        wait: Whether to wait for it instead of raising.

    Raises:
        LockedError: Another process holds it.
    """
    make_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, NEW_FILE)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        _lock(path, descriptor, shared=shared, wait=wait)
        # The lock is the kernel's; the name is for people, and a full disk may not take it.
        with suppress(OSError):
            _name_holder(descriptor, holder)
        try:
            yield
        finally:
            with suppress(OSError):
                _forget_holder(descriptor)
    finally:
        os.close(descriptor)


def _lock(path: Path, descriptor: int, *, shared: bool, wait: bool) -> None:
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, mode if wait else mode | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockedError(
            path.parent.parent,
            f"another run is at work on this mirror: {_holder(descriptor)}",
            remedy="Wait for it to end, or stop it; its lock goes with it",
        ) from None
    except OSError as error:
        raise storage_error(path, error) from error


def _name_holder(descriptor: int, holder: str) -> None:
    text = json.dumps({"holder": holder, "process": os.getpid(), "host": socket.gethostname()})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _forget_holder(descriptor: int) -> None:
    """Leave the file empty, so that a run without news changes no byte of the mirror."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # others share it, and one of them will
    os.ftruncate(descriptor, 0)


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"{found['holder']}, process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "it has not said which"
