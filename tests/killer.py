"""Runs the command and kills it, as SIGKILL does, at its N-th step that changes a file system.

``python killer.py N ARGUMENTS…``: counting renames, links, removals, syncs, truncations and
writes, the process is killed just before the N-th of them. Exits 3 where it came to its end
before that, else as killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from puavo_repository import cli

STEPS = ("rename", "replace", "link", "unlink", "fsync", "ftruncate", "pwrite", "write", "mkdir")


def main() -> int:
    """Patch the steps and run."""
    left = int(sys.argv[1])
    lock = threading.Lock()

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            with lock:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments, **more)

        return run

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    cli.main(sys.argv[2:])
    return 3


if __name__ == "__main__":
    sys.exit(main())
