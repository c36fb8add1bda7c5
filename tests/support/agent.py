"""Runs commands on a machine that has no other door.

``agent.py`` waits there, ``agent.py ADDRESS COMMAND…`` asks here. The one here is the command for
whoever started it: the output is that one's, it ends with the same status, hands on SIGTERM, and
takes the command along when it is killed. Only what Python brings is used: it runs with the
command's environment.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

PORT = 7000
_END = re.compile(rb"\0EXIT (-?\d+)\n\Z")  # what follows the output


def serve() -> None:
    """Run what is asked for, until the machine is switched off."""
    with socket.create_server(("", PORT)) as door:
        while True:
            asked, _ = door.accept()
            threading.Thread(target=_run, args=(asked,), daemon=True).start()


def _run(asked: socket.socket) -> None:
    lines = asked.makefile("rb")
    if not (line := lines.readline()):
        return  # somebody looked whether the machine is up
    command, env = json.loads(line)
    try:
        program = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=asked.fileno(),
            stderr=asked.fileno(),
            start_new_session=True,
        )
    except OSError as error:
        asked.sendall(f"{error}\n\0EXIT 127\n".encode())
        return
    threading.Thread(target=_signals, args=(lines, program), daemon=True).start()
    status = program.wait()
    with suppress(OSError):
        asked.sendall(f"\0EXIT {status}\n".encode())


def _signals(lines: BinaryIO, program: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        for line in lines:
            _kill(program, int(line))
    _kill(program, signal.SIGKILL)  # who asked for it is gone


def _kill(program: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(program.pid, number)


def ask(address: str, command: list[str]) -> int:
    """Have a command run; return its status, 255 where the machine is lost."""
    with socket.create_connection((address, PORT)) as asked:
        asked.sendall(json.dumps([command, dict(os.environ)]).encode() + b"\n")
        signal.signal(signal.SIGTERM, lambda *_: asked.sendall(b"%d\n" % signal.SIGTERM))
        held = b""
        while received := asked.recv(1 << 16):
            held += received
            if found := _END.search(held):
                _write(held[: found.start()])
                status = int(found[1])
                return status if status >= 0 else 128 - status
            keep = held.rfind(b"\0", len(held) - 20)  # the begin of the end, perhaps
            cut = keep if keep >= 0 else len(held)
            _write(held[:cut])
            held = held[cut:]
    return 255


def _write(output: bytes) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    if not sys.argv[1:]:
        serve()
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
