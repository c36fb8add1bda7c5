"""Airflow on several machines, each of them on this one: ``make distributed``.

PostgreSQL, Redis, the API server, scheduler, DAG processor and triggerer are on a machine that
shares this one's network, so that a browser here reaches the UI; each worker has a machine of its
own. The settings are those of ``deploy/``, with other addresses, folders and secrets.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from puavo_repository_airflow.standalone import interrupted, on_ends
from support.kernels import Kernel, ganesha
from support.machines import Machine, Network, end, network, storage_address

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")
KINDS = {"namespaces": Machine, "kernels": Kernel}
WORKER_PARTS = ("compute", "transfer", "logs")
_FOLDERS = [f"PUAVO_REPOSITORY_{name}" for name in ("IMAGE_DIR", "MIRROR_DIR", "PUAVO_OS")]
_OURS = ("PUAVO_REPOSITORY_", "AIRFLOW_CONN_")  # what is handed on of the environment
PATIENCE = 600  # seconds until everything has to be up; with kernels it takes minutes
_POSTGRES = "/var/lib/postgresql"  # PostgreSQL's user may not enter just any folder


def as_systemd(text: str) -> dict[str, str]:
    """Parse an EnvironmentFile; refuse the forms of it that the wrapper does not read."""
    found = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        assert equals, line
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", name), line
        quoted = re.fullmatch(r"""(["'])(.*)\1""", value)
        assert quoted or not re.search(r"""["'#\s]""", value), line
        assert "\\" not in value, line
        assert not (quoted and quoted[1] in quoted[2]), line
        found[name] = quoted[2] if quoted else value
    return found


def shipped(name: str, address: str, password: str) -> str:
    """Return a file of ``deploy/`` with an address, secrets and folders of ours."""
    text = re.sub(r"CHANGE_ME_\d", password, (DEPLOY / name).read_text())
    return text.replace("10.0.0.1", address).replace("/opt/puavo-repository", str(ROOT))


def environment(address: str, password: str) -> dict[str, str]:
    """Return what ``deploy/`` sets for Airflow on every machine."""
    found = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for name in ("puavo-repository.env", "puavo-repository-machines.env"):
        given = as_systemd(shipped(name, address, password))
        found |= {one: value for one, value in given.items() if one.startswith("AIRFLOW__")}
    return {**found, "PYTHONPATH": str(ROOT / "include")}


def of_unit(part: str, host: str) -> list[str]:
    """Return the command of a unit of ``deploy/``."""
    unit = (DEPLOY / "systemd" / f"puavo-repository-{part}.service").read_text()
    command = re.search(r"^ExecStart=\S+/bin/(.+)$", unit, re.MULTILINE)
    assert command, part
    return command[1].replace("%H", host).split()


@dataclass
class Cluster:
    """All of it; each part may be stopped and started again by its name."""

    network: Network
    central: Machine
    env: dict[str, str]  # of every machine
    workers: list[Machine] = field(default_factory=list)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Return the address of the UI."""
        return self.env["AIRFLOW__API__BASE_URL"]

    @property
    def password(self) -> str:
        """Return the password of ``admin``."""
        file = self.central.home / "simple_auth_manager_passwords.json.generated"
        return str(json.loads(file.read_text())["admin"])

    def environment(self, machine: Machine) -> dict[str, str]:
        """Return the environment of a machine, whose home is its own: its logs are there."""
        home = str(machine.home)
        return {**self.env, "HOME": home, "AIRFLOW_HOME": home, "TMPDIR": home, **machine.env}

    def log(self, name: str) -> Path:
        """Return where the output of a part is."""
        return self.network.folder / f"{name}.log"

    def start(self, machine: Machine, name: str, *command: str, **more: str) -> None:
        """Start a part on a machine."""
        with self.log(name).open("ab") as output:
            env = {**self.environment(machine), **more}
            self.running[name] = machine.start(command, env, output)

    def stop(self, name: str) -> None:
        """Stop a part and all that it started."""
        end(self.running.pop(name))

    def start_airflow(self, part: str) -> None:
        """Start a part of Airflow beside the database."""
        self.start(self.central, part, *of_unit(part, self.central.name))

    def start_postgresql(self, *options: str) -> None:
        """Start PostgreSQL, whose folder it makes the first time."""
        data, address = self.central.home / "postgresql", self.central.address
        programs = str(max(Path("/usr/lib/postgresql").glob("*/bin")))
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        if new := not data.exists():
            data.mkdir()
            (data / "password").write_text(self.env["PASSWORD"])
            for path in (data, data / "password"):
                shutil.chown(path, "postgres", "postgres")
            self.central.run("mount", "--bind", str(data), _POSTGRES)
            setting_up = ["-U", "puavo-repository", "--auth=scram-sha-256", "--no-sync"]
            setting_up += [f"--pwfile={_POSTGRES}/password", "-D", f"{_POSTGRES}/data"]
            self.central.run(*user, f"{programs}/initdb", *setting_up)
            (data / "data/pg_hba.conf").write_text("host all all samenet scram-sha-256\n")
            with (data / "data/postgresql.conf").open("a") as settings:
                settings.write(shipped("postgresql.conf", address, ""))
                settings.write(f"listen_addresses = '{address}'\nunix_socket_directories = ''\n")
                # Not in /dev/shm, where its power may be cut and it cannot tidy up.
                settings.write("dynamic_shared_memory_type = mmap\n")
        also = [word for one in options for word in ("-c", one)]
        command = [*user, f"{programs}/postgres", "-D", f"{_POSTGRES}/data", *also]
        self.start(self.central, "postgresql", *command)
        self.listens(5432)
        if new:
            create = ["createdb", "-h", address, "-U", "puavo-repository", "puavo-repository"]
            self.central.run("env", f"PGPASSWORD={self.env['PASSWORD']}", *create)

    def start_redis(self) -> None:
        """Start Redis, with what it had when it ended."""
        data = self.central.home / "redis"
        data.mkdir(exist_ok=True)
        address = self.central.address
        text = shipped("redis.conf", address, self.env["PASSWORD"])
        (data / "redis.conf").write_text(f"{text}\nbind {address}\ndir {data}\n")
        self.start(self.central, "redis", "redis-server", str(data / "redis.conf"))
        self.listens(6379)

    def start_nfs(self) -> None:
        """Start the server of the shared folders."""
        address = storage_address(self.central.address)
        command = ganesha(self.central.home / "nfs", address, self.network.shared)
        self.start(self.central, "nfs", *command)
        self.listens(2049, address)

    def add_worker(self, env: Mapping[str, str] | None = None) -> Machine:
        """Start a machine with its workers, which have an environment beside that of all."""
        number = len(self.workers) + 1
        machine = self.network.machine(f"worker{number}")
        machine.env.update(env or {})
        self.workers.append(machine)
        self.start_workers(machine)
        return machine

    def start_workers(self, machine: Machine) -> None:
        """Start the workers of a machine and the server of its logs."""
        for part in WORKER_PARTS:
            self.start(machine, f"{machine.name}-{part}", *of_unit(part, machine.name))

    def listens(self, port: int, address: str = "") -> None:
        """Wait until a part beside the database answers."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with (
                suppress(OSError),
                socket.create_connection((address or self.central.address, port), 5),
            ):
                return
            self.check()
            time.sleep(0.1)
        raise TimeoutError(f"nothing listens on port {port}; see {self.network.folder}")

    def migrate(self) -> None:
        """Make Airflow's tables."""
        self.start(self.central, "migrate", "airflow", "db", "migrate")
        self.ended("migrate")

    def ended(self, name: str) -> None:
        """Wait until a part ends, as it should."""
        if self.running.pop(name).wait():
            said = self.log(name).read_text()[-3000:]
            raise RuntimeError(f"{name} failed; the end of {self.log(name)}:\n{said}")

    def comes_up(self) -> None:
        """Wait until all of Airflow is at work, and every worker has reported to the broker."""
        deadline, health = time.monotonic() + PATIENCE, f"{self.url}/api/v2/monitor/health"
        waiting = [name for name in self.running if name.startswith("worker")]
        waiting = [name for name in waiting if not name.endswith("-logs")]
        while time.monotonic() < deadline:
            self.check()
            with suppress(OSError, ValueError), urllib.request.urlopen(health, timeout=5) as answer:
                states = json.load(answer).values()
                healthy = all((one or {}).get("status") == "healthy" for one in states)
                waiting = [one for one in waiting if b" ready." not in self.log(one).read_bytes()]
                if healthy and not waiting:
                    return
            time.sleep(0.5)
        raise TimeoutError(f"Airflow did not come up: see {self.network.folder}/*.log")

    def check(self) -> None:
        """Raise a ``RuntimeError`` if a part is not running any more."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended: see {self.log(name)}")


@contextmanager
def cluster(
    folder: Path, shared: Sequence[Path], kind: type[Machine] = Machine, /, **more: str
) -> Iterator[Cluster]:
    """Make the machine for all but the workers, with PostgreSQL and Redis.

    Args:
        folder: Where the machines have their homes.
        shared: The folders that all of them share.
        kind: What the workers' machines are; a ``Kernel`` gets the folders by NFS.
        more: Settings beside those of ``deploy/``.
    """
    with network(folder, shared, kind) as found:
        password = secrets.token_hex(16)
        central = found.here("scheduler")
        env = {**environment(central.address, password), "PASSWORD": password, **more}
        made = Cluster(found, central, env)
        made.start_postgresql()
        made.start_redis()
        if kind is Kernel:
            made.start_nfs()
        yield made


def main() -> int:
    """Run all of it until somebody ends it; arguments: how many machines, and of which kind."""
    if sys.argv[2] not in KINDS:
        print(f"error: MACHINES={sys.argv[2]}: one of {', '.join(KINDS)}", file=sys.stderr)
        return 2
    folder = Path(os.environ["AIRFLOW_HOME"])
    on_ends(interrupted)  # once: who presses Ctrl-C again would leave the network behind
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        ours = _given()
        print(f"Starting PostgreSQL, Redis and Airflow; their output is in {folder}", flush=True)
        with cluster(folder, _shared(ours), KINDS[sys.argv[2]], **ours) as made:
            made.migrate()
            for _ in range(int(sys.argv[1])):
                made.add_worker()
            for part in PARTS:
                made.start_airflow(part)
            made.comes_up()
            _tell(made)
            while True:
                time.sleep(5)
    except KeyboardInterrupt:
        print("Stopping all of it", flush=True)
        return 0
    except (PermissionError, RuntimeError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _given() -> dict[str, str]:
    """Return what the environment sets for the machines; their folders are absolute."""
    found = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    for name in _FOLDERS:
        if found.get(name):
            found[name] = str(Path(found[name]).resolve())
    return found


def _shared(ours: Mapping[str, str]) -> list[Path]:
    """Return the folders that the workers share; of the settings' those that runs make are made."""
    images, *made = [ours.get(name, "") for name in _FOLDERS]
    remotes = ours.get("PUAVO_REPOSITORY_REMOTE", "").split()
    there = [images, *(one[len("file://") :] for one in remotes if one.startswith("file://"))]
    for one in filter(None, made):
        Path(one).mkdir(parents=True, exist_ok=True)
    folders = [Path(one) for one in (*there, *made) if one]
    if missing := [str(one) for one in folders if not one.is_dir()]:
        raise RuntimeError(f"there is no such folder: {', '.join(missing)}")
    # One file system, where they lie side by side: images are hard links in the mirror.
    common = Path(os.path.commonpath(folders))
    return folders if common == Path("/") else [common]


def _tell(made: Cluster) -> None:
    workers = ", ".join(f"{worker.name} ({worker.address})" for worker in made.workers)
    print(
        f"\n  Airflow is up:  {made.url}\n"
        f"  The repository: {made.url}/plugin/puavo-repository\n"
        f"  Log in as       admin\n"
        f"  with password   {made.password}\n"
        f"  Workers         {workers}\n\n"
        "  Ctrl-C ends it.\n",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
