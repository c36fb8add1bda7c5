"""Machines on this machine: each with its own network, host name, mounts and processes.

A machine is a set of Linux namespaces that its first process holds. Power is cut by killing that
process: the kernel ends all others, and network and mounts go with them. They all end with the
program that made them, too, however that ends. Needs root.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

# The first process: it tells that everything is mounted, and buries what dies in its machine.
_INIT = """
set -eu
hostname {name}
mount --make-rprivate /
mount --bind {hosts} /etc/hosts
for folder in {folders}; do mount --bind "$folder" "$folder"; done
echo ready
exec 1>&-
while :; do sleep 3600; done
"""


@dataclass
class Machine:
    """One of them; ``address`` is the one that others reach it by."""

    name: str
    address: str
    home: Path
    port: str = ""  # its plug in the network's bridge; none where it is on this machine's network
    init: subprocess.Popen[str] | None = None
    env: dict[str, str] = field(default_factory=dict)  # of what runs there
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Return the number of its first process."""
        assert self.init is not None, f"{self.name} is off"
        children = Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children").read_text()
        return int(children.split()[0])

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs a command on this machine."""
        kinds = ["--mount", "--uts", "--pid", *(["--net"] if self.port else [])]
        return ["nsenter", "--target", str(self.pid), *kinds, "--", *command]

    def run(self, *command: str) -> str:
        """Run a command on this machine; return what it prints."""
        inside = self.inside(*command)
        return subprocess.run(inside, stdout=subprocess.PIPE, text=True, check=True).stdout

    def start(
        self, command: Sequence[str], env: Mapping[str, str], output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a program on this machine, in a session of its own, which ends as a whole."""
        program = subprocess.Popen(
            self.inside(*command),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        self.started.append(program)
        return program

    def hosts(self) -> Path:
        """Return a file for /etc/hosts, by which it finds its own address."""
        file = self.home / "hosts"
        file.write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        return file

    def power_on(self, shared: Sequence[Path], bridge: str) -> None:
        """Start it, in a bridge's network, with folders that it shares with others."""
        folders = " ".join(shlex.quote(str(folder)) for folder in shared) or "''"
        script = _INIT.format(
            name=self.name, hosts=shlex.quote(str(self.hosts())), folders=folders
        ).replace("in ''", "in")
        apart = ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--uts"]
        apart += ["--net"] if self.port else []
        self.init = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", *apart, "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.init.stdout is not None
        if self.init.stdout.readline() != "ready\n":
            raise RuntimeError(f"{self.name} does not start: {self.init.communicate()[1]}")
        if self.port:
            self._connect(bridge)

    def _connect(self, bridge: str) -> None:
        ip("link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        ip("link", "set", self.port, "master", bridge, "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        for name in ("lo", "eth0"):
            self.run("ip", "link", "set", name, "up")

    def power_off(self) -> None:
        """Cut its power: every process ends at once, and nobody hears of it."""
        if self.init is not None:
            if self.port:  # first, or the kernel would say farewell for its connections
                with suppress(subprocess.CalledProcessError):
                    ip("link", "del", self.port)
            with suppress(ProcessLookupError, IndexError):
                os.kill(self.pid, signal.SIGKILL)
            self.end_started()
            self.init.wait()
            self.init = None

    def end_started(self) -> None:
        """End what stands for its programs out here, also where it is stopped."""
        for program in self.started:
            program.kill()
            program.wait()
        self.started.clear()

    def freeze(self) -> None:
        """Stop all of its processes where they are."""
        self._signal("STOP")

    def thaw(self) -> None:
        """Let them go on."""
        self._signal("CONT")
        for program in self.started:
            program.send_signal(signal.SIGCONT)

    def _signal(self, name: str) -> None:
        # From inside, this reaches all but the first process and the one that sends it.
        self.run("sh", "-c", f"kill -{name} -1")

    def unplug(self) -> None:
        """Cut its network off: nothing arrives, and nobody is told."""
        cut(self.port)

    def plug(self) -> None:
        """Connect its network again."""
        cut(self.port, again=True)


class Attached(Machine):
    """One whose disk can be taken alone: bindfs brings the shared folders, with locks.

    Where that program stands still, whatever asks for a file waits, as it does for a file server
    that is mounted ``hard``. All else goes on, also other threads of the same process.
    """

    disks: tuple[subprocess.Popen[bytes], ...] = ()

    def power_on(self, shared: Sequence[Path], bridge: str) -> None:
        """Start it, and wait until it has everything mounted."""
        super().power_on((), bridge)
        # It is none of the machine's processes: that one's are frozen without it.
        enter = ["setpriv", "--pdeathsig=KILL", "nsenter", "--target", str(self.pid), "--mount"]
        serve = ["bindfs", "-f", "--multithreaded", "--enable-lock-forwarding", "-o", "nonempty"]
        with (self.home / "disk.log").open("ab") as log:
            self.disks = tuple(
                subprocess.Popen([*enter, "--", *serve, one, one], stdout=log, stderr=log)
                for one in shared
            )
        mounts, deadline = Path(f"/proc/{self.pid}/mounts"), time.monotonic() + 10
        while mounts.read_text().count(" fuse ") < len(shared):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} has no disk: see {self.home}/disk.log")
            time.sleep(0.01)

    def end_started(self) -> None:
        """End what stands for its disks as well, first: what waits for them could not end."""
        for disk in self.disks:
            disk.kill()
            disk.wait()
        super().end_started()

    def detach(self) -> None:
        """Take its disk away."""
        for disk in self.disks:
            disk.send_signal(signal.SIGSTOP)

    def attach(self) -> None:
        """Give it back."""
        for disk in self.disks:
            disk.send_signal(signal.SIGCONT)


@dataclass
class Network:
    """Machines that reach each other and this one, and nothing else."""

    number: int
    folder: Path
    shared: list[Path]  # folders that every machine mounts at the same place
    kind: type[Machine] = Machine  # of those with a network of their own
    machines: list[Machine] = field(default_factory=list)

    @property
    def bridge(self) -> str:
        return f"pri-{self.number}"

    @property
    def prefix(self) -> str:
        """Return the start of all addresses: of a block that no real network uses (RFC 2544)."""
        return f"198.18.{self.number}"

    @property
    def lines(self) -> dict[str, str]:
        """Return the bridges with the address that this machine has on each: also one for disks."""
        return {
            self.bridge: f"{self.prefix}.1",
            storage_bridge(self.bridge): storage_address(f"{self.prefix}.1"),
        }

    def here(self, name: str) -> Machine:
        """Start a machine on the network of this one, whose address on the bridge it has."""
        return self._started(Machine(name, f"{self.prefix}.1", self.folder / name))

    def machine(self, name: str) -> Machine:
        """Start a machine with a network of its own."""
        number = 2 + sum(bool(one.port) for one in self.machines)
        port, address = f"{self.bridge}-{number}", f"{self.prefix}.{number}"
        return self._started(self.kind(name, address, self.folder / name, port))

    def _started(self, machine: Machine) -> Machine:
        self.machines.append(machine)
        self.power_on(machine)
        return machine

    def power_on(self, machine: Machine) -> None:
        """Start a machine, the first time or after its power was cut."""
        machine.home.mkdir(parents=True, exist_ok=True)
        machine.power_on(self.shared, self.bridge)


@contextmanager
def network(
    folder: Path, shared: Sequence[Path] = (), kind: type[Machine] = Machine
) -> Iterator[Network]:
    """Make a network; end it with all machines that were started in it.

    Args:
        folder: Where each machine has its home.
        shared: Folders that are mounted on each of them.
        kind: What the machines are.
    """
    if os.geteuid() != 0:
        raise PermissionError("machines of their own need root: sudo make distributed")
    number, lock = _free()
    found = Network(number, folder, list(shared), kind)
    try:
        for bridge, address in found.lines.items():
            with suppress(subprocess.CalledProcessError):
                ip("link", "del", bridge)  # of a program that was killed
            ip("link", "add", bridge, "type", "bridge")
            ip("addr", "add", f"{address}/24", "dev", bridge)
            ip("link", "set", bridge, "up")
        yield found
    finally:
        for machine in reversed(found.machines):
            machine.power_off()
        for bridge in found.lines:
            with suppress(subprocess.CalledProcessError):
                ip("link", "del", bridge)
        lock.close()


def end(process: subprocess.Popen[bytes], grace: float = 20) -> None:
    """End a program with all that it started, by force after some seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + grace
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.05)
    process.wait()


def _free() -> tuple[int, IO[str]]:
    """Return the number of a network that no other program has, and what keeps it so."""
    for number in range(256):
        lock = Path(f"/run/lock/puavo-network-{number}").open("w")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return number, lock
    raise RuntimeError("256 networks are in use already")


def storage_bridge(bridge: str) -> str:
    """Return the bridge over which a file server is reached, beside a network's own."""
    return f"{bridge}-disk"


def storage_address(address: str) -> str:
    """Return the address there of who has this one in the network; RFC 2544's block has both."""
    return address.replace("198.18.", "198.19.", 1)


def cut(port: str, *, again: bool = False) -> None:
    """Have a bridge drop all that comes and goes by a port, or none of it again."""
    state = "3" if again else "0"  # forwarding, disabled: include/uapi/linux/if_bridge.h
    subprocess.run(["bridge", "link", "set", "dev", port, "state", state], check=True)


def ip(*arguments: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
