"""Machines with a Linux of their own: Debian's user-mode-linux, and the shared folders by NFS.

Each has its own clock, memory and NFS client; its root is this machine's, by hostfs. The folders
that all share are mounted as ``docs/distributed.md`` says, from an NFS server on this machine.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from support import agent
from support.machines import Machine, cut, ip, storage_address, storage_bridge

ROOT = Path(__file__).resolve().parents[2]
MEMORY = "2500M"
PATIENCE = 120  # seconds to start in

_INIT = """#!/bin/sh
exec >{log} 2>&1
set -eux
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm || {{ mkdir -p /dev/shm; mount -t tmpfs tmpfs /dev/shm; }}
hostname {name}
mount --bind {hosts} /etc/hosts
ip addr add {address}/24 dev vec0
ip addr add {storage}/24 dev vec1
for line in lo vec0 vec1; do ip link set $line up; done
mkdir -p /run/lib
ln -s /usr/lib/uml/modules /run/lib/modules
modprobe -d /run nfsv4
for folder in {folders}; do
    mount -i -t nfs4 -o {options},addr={server},clientaddr={storage} {server}:$folder $folder
done
exec {python} {agent}
"""

_GANESHA = """
NFS_CORE_PARAM {{
    Protocols = 4; Bind_addr = {address}; NFS_Port = 2049; Enable_NLM = false;
    Enable_RQUOTA = false; allow_set_io_flusher_fail = true;
}}
NFSv4 {{ Minor_Versions = 1, 2; Graceless = true; Only_Numeric_Owners = true;
    RecoveryBackend = fs; RecoveryRoot = {state}; }}
LOG {{ Default_Log_Level = EVENT; }}
"""
_EXPORT = """
EXPORT {{
    Export_Id = {number}; Path = {folder}; Pseudo = {folder}; Access_Type = RW;
    Squash = No_Root_Squash; SecType = sys; Protocols = 4; Transports = TCP;
    FSAL {{ Name = VFS; }}
}}
"""


def options() -> str:
    """Return the mount options that the document gives, without those that are for fstab alone."""
    document = (ROOT / "docs" / "distributed.md").read_text()
    found = re.search(r"/srv /srv nfs4 (\S+) 0 0", document)
    assert found is not None
    return found[1].removesuffix(",_netdev")


def ganesha(state: Path, address: str, shared: Sequence[Path]) -> list[str]:
    """Return the command that serves folders by NFS."""
    state.mkdir(exist_ok=True)
    exports = [_EXPORT.format(number=n, folder=one) for n, one in enumerate(shared, 1)]
    text = _GANESHA.format(address=address, state=state) + "".join(exports)
    (state / "ganesha.conf").write_text(text)
    command = ["ganesha.nfsd", "-F", "-L", "STDOUT", "-f", str(state / "ganesha.conf")]
    return [*command, "-p", str(state / "pid")]


class Kernel(Machine):
    """One of them. Its disk comes over a line of its own, so that either can be cut alone."""

    @property
    def _plugs(self) -> dict[str, str]:
        """Return what it has in the network's bridge, and in the one for disks."""
        bridge, number = self.port.rsplit("-", 1)
        return {self.port: bridge, f"{storage_bridge(bridge)}-{number}": storage_bridge(bridge)}

    @property
    def _disk(self) -> str:
        return list(self._plugs)[1]

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs a command on this machine."""
        return [sys.executable, agent.__file__, self.address, *command]

    def power_on(self, shared: Sequence[Path], bridge: str) -> None:
        """Start its kernel, and wait until it has everything mounted."""
        storage = storage_address(self.address)
        script = self.home / "init"
        script.write_text(
            _INIT.format(
                log=shlex.quote(str(self.home / "init.log")),
                name=self.name,
                hosts=shlex.quote(str(self.hosts())),
                address=self.address,
                storage=storage,
                server=f"{storage.rpartition('.')[0]}.1",
                folders=" ".join(shlex.quote(str(folder)) for folder in shared),
                options=options(),
                python=sys.executable,
                agent=agent.__file__,
            )
        )
        script.chmod(0o755)
        for port, line in self._plugs.items():
            ip("tuntap", "add", "dev", port, "mode", "tap")
            ip("link", "set", port, "master", line, "up")
        command = ["setpriv", "--pdeathsig=KILL", "linux.uml", f"mem={MEMORY}", "root=/dev/root"]
        command += ["rootfstype=hostfs", "rootflags=/", "rw", f"init={script}", "con=null"]
        command += [
            f"vec{number}:transport=tap,ifname={port},depth=128,gro=1"
            for number, port in enumerate(self._plugs)
        ]
        with (self.home / "kernel.log").open("ab") as log:
            self.init = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection((self.address, agent.PORT), 5):
                return
            time.sleep(0.2)
        raise RuntimeError(f"{self.name} does not start: see {self.home}/*.log")

    def power_off(self) -> None:
        """Cut its power: every process ends at once, and nobody hears of it."""
        if self.init is not None:
            for port in self._plugs:
                with suppress(subprocess.CalledProcessError):
                    ip("link", "del", port)
            with suppress(ProcessLookupError):
                os.killpg(self.init.pid, signal.SIGKILL)
            self.end_started()
            self.init.wait()
            self.init = None

    def freeze(self) -> None:
        """Stop its kernel where it is; what runs on it can do nothing without."""
        assert self.init is not None
        self.init.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.init is not None
        self.init.send_signal(signal.SIGCONT)

    def detach(self) -> None:
        """Take its disk away: nothing reaches the file server, which is waited for (``hard``)."""
        cut(self._disk)

    def attach(self) -> None:
        """Give it back."""
        cut(self._disk, again=True)
