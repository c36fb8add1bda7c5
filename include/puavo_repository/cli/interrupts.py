"""SIGTERM and SIGINT end the command at once, whatever its threads wait for."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import NoReturn

from puavo_repository.remote.pool import abort_all

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NUDGE = signal.SIGURG  # ignored by default, so a stray one does no harm


def install() -> None:
    """Have these signals raise ``KeyboardInterrupt`` in the main thread, which must call this.

    What other threads do with a remote is aborted: else it would be waited for.
    """
    # The system may give a signal to any thread. Python then runs the handler in the main
    # thread, but does not wake it: one that waits for the others would wait to their end.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, _interrupted)
    signal.signal(_NUDGE, lambda _number, _frame: None)
    main = threading.main_thread().ident
    threading.Thread(target=_wake, args=(reader, main), name="signals", daemon=True).start()


def _wake(reader: int, main: int) -> None:
    while came := os.read(reader, 1):
        if came[0] in _SIGNALS:
            signal.pthread_kill(main, _NUDGE)


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    abort_all()
    raise KeyboardInterrupt
