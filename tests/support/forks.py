"""Code in a process that has its modules already: a server forks one for each piece of it.

The server reads an order a line, as JSON, and answers each with a line, the exit status, when the
code has ended. What is forked uses the server's helper for compiled code (``delta.contained``).
"""

from __future__ import annotations

import json
import os
import secrets
import select
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from puavo_repository.delta import contained
from puavo_repository.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
SERVER = "import sys; from support import forks; forks.main(sys.argv[1], int(sys.argv[2]))"


class Forks:
    """A server, and its client.

    Args:
        module: What it has; its ``warm_up`` is called first, and ``in_child`` in what is forked.
        environment: Of the server.
    """

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self._temporary = tempfile.TemporaryDirectory()  # as long as this
        self._folder = Path(self._temporary.name)
        self._answers, theirs = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, module, str(theirs)],
            env={**environment, "PYTHONPATH": f"{ROOT / 'include'}:{ROOT / 'tests'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=(self._folder / "log").open("wb"),
            pass_fds=[theirs],
            text=True,
        )
        os.close(theirs)

    def run(
        self, code: str, arguments: list[str], environment: dict[str, str], folder: str = "/"
    ) -> subprocess.CompletedProcess[str]:
        """Run code in a process of its own, with this whole environment, in a folder."""
        streams = [self._folder / f"{name}-{secrets.token_hex(8)}" for name in ("out", "err")]
        order = [code, arguments, environment, folder, [str(path) for path in streams]]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._answers], [], [], 240)
        assert ready, "it hangs"
        answer = os.read(self._answers, 100)
        assert answer, (self._folder / "log").read_text()[-6000:]
        said = [stream.read_text(errors="replace") for stream in streams]
        return subprocess.CompletedProcess(arguments, int(answer), *said)


def main(module: str, answers: int) -> None:
    """Do what is asked for until nobody asks any more."""
    kind = import_module(module)
    kind.warm_up()
    contained.call(Path("nothing"), "at its start", _nothing)
    helper = contained._helper._control
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            contained._helper._control = helper
            _run(kind, *json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(answers, f"{status}\n".encode())


def _nothing(_progress: Progress) -> None:
    pass


def _run(
    kind: Any,
    code: str,
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    streams: list[str],
) -> NoReturn:
    status: Any = 1
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[1:] = arguments
    try:
        kind.in_child()
        exec(code, {"__name__": "__main__"})
        status = 0
    except SystemExit as ended:
        status = ended.code
    except BaseException:  # noqa: BLE001 - told, whatever it is
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
