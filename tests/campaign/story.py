"""A repository that several machines work on, and its twin of one: for ``campaign.distributed``."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from campaign.nights import differences
from puavo_repository.mirror.store import FOLDER as STATE
from puavo_repository.remote.lock import PATH as PUBLISHER
from support.airflow_server import AUDIT, PREPARE, PUBLISH, Airflow
from support.distributed import PARTS, Cluster, cluster
from support.kernels import Kernel
from support.machines import Attached, Machine
from support.mirrors import tree_of
from support.repository import Repository, environment, name

KINDS: dict[str, type[Attached] | type[Kernel]] = {"namespaces": Attached, "kernels": Kernel}
TASKS = {
    **dict.fromkeys(("fingerprint", "diff", "describe"), PREPARE),
    **dict.fromkeys(("upload", "switch", "clean"), PUBLISH),
    "local": AUDIT,
}
RESTART = 10.0  # seconds until systemd starts a service again
PATIENCE = 1500.0  # seconds until a run has to have ended
FASTEST = 5.0  # seconds of a task's running before it is struck without its lock
POLICY = {"targets": 1, "sources": "nearest:2"}


class Story:
    """A repository, its undisturbed twin, and the machines that work on it."""

    def __init__(self, home: Path, found: Cluster, series: Sequence[str], images: int) -> None:
        self.cluster, self.series = found, series
        self.repository, self.remote = Repository(home / "shared"), home / "shared" / "remote"
        self._twin, self._day, self._chance = Repository(home / "alone"), 0, random.Random(1)
        for _ in range(images):
            for one in series:
                self._add(one)

    def _add(self, series: str) -> None:
        self._day += 1
        minutes = divmod(self._day, 60)
        image = name(f"2022-01-01-{minutes[0]:02}{minutes[1]:02}00", series)
        shutil.copy(self.repository.add(image), self._twin.images)

    def fall(self) -> None:
        """Let a night fall: in two series an image is new and one gone, in one it is another."""
        first, second, third = self._chance.sample(self.series, 3)
        for series in (first, second):
            self._add(series)
            oldest = min(self.repository.images.glob(f"{series}-*.img")).name
            for one in (self.repository, self._twin):
                one.images.joinpath(oldest).unlink()
        newest = max(self.repository.images.glob(f"{third}-*.img")).name
        self.repository.add(newest, size=60_000 + 1_000 * self._day)
        shutil.copy(self.repository.images / newest, self._twin.images)

    def lost(self) -> list[str]:
        """Return what is not as a single machine would have left it."""
        assert self._twin.prepare(**POLICY, allow_mass_delete=True).ok
        wanted = tree_of(self._twin.mirror)
        trees = (self.repository.mirror, self.remote)
        return [line for tree in trees for line in differences(tree, wanted)]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API until it answers: it may be what was struck."""
        deadline = time.monotonic() + 300
        while True:
            self.revive()
            with suppress(OSError, ValueError, urllib.error.URLError):
                return self._airflow().call(method, f"/api/v2/dags/{path}", body)
            assert time.monotonic() < deadline, f"no answer: {path}"
            time.sleep(1)

    def command(self) -> None:
        """Run the command, to prepare and publish, on a machine that has no worker."""
        command = [sys.executable, "-m", "puavo_repository.cli"]
        command += self.repository.arguments("--upload", f"file://{self.remote}")
        ours = {n: v for n, v in self.cluster.env.items() if n.startswith("PUAVO_REPOSITORY_")}
        subprocess.run(command, env=environment(**ours), capture_output=True, check=False)

    def drop_locks(self) -> None:
        """Drop the mirror's locks, as a file server does that hears nothing of a machine.

        That of kernels does it by itself. Elsewhere others find new files for them.
        """
        if self.cluster.network.kind is not Kernel:
            for lock in ("lock", "metadata.lock"):
                (self.repository.mirror / STATE / lock).unlink(missing_ok=True)

    def _airflow(self) -> Airflow:
        return Airflow(self.cluster.url, self.cluster.password, self.cluster.running[PARTS[0]])

    def revive(self) -> None:
        """Start again what ended, some seconds later, as its unit says."""
        found = self.cluster
        services = {"postgresql": found.start_postgresql, "redis": found.start_redis}
        parts = {part: partial(found.start_airflow, part) for part in PARTS}
        for part, start in (services | parts).items():
            if found.running[part].poll() is not None:
                time.sleep(RESTART)
                with suppress(RuntimeError):  # another one ended as well
                    start()

    def trigger(self, dag: str) -> str:
        """Start a run; return the path of it."""
        body: dict[str, Any] = {"logical_date": None, "conf": {}}
        return f"{dag}/dagRuns/{self.call('POST', f'{dag}/dagRuns', body)['dag_run_id']}"

    def runs(self, dag: str) -> list[str]:
        """Return the paths of the runs of a DAG."""
        found = self.call("GET", f"{dag}/dagRuns?order_by=run_after&limit=1000")["dag_runs"]
        return [f"{dag}/dagRuns/{one['dag_run_id']}" for one in found]

    def running(self, dag: str) -> list[dict[str, Any]]:
        """Return the tasks of a DAG that run now."""
        path = f"{dag}/dagRuns/~/taskInstances?state=running"
        tasks: list[dict[str, Any]] = self.call("GET", path)["task_instances"]
        return tasks

    def follows(self, before: list[str]) -> str:
        """Wait until there is another run of publishing; return its path."""
        deadline = time.monotonic() + PATIENCE
        while len(found := self.runs(PUBLISH)) == len(before):
            assert time.monotonic() < deadline, "nothing was published"
            time.sleep(1)
        return found[-1]

    def ended(self, run: str) -> str:
        """Wait until a run has ended; return its state."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            state = str(self.call("GET", run)["state"])
            if state in {"success", "failed"}:
                return state
            time.sleep(1)
        return "still running"

    def caught(self, task: str) -> tuple[Attached | Kernel, list[dict[str, Any]]]:
        """Freeze a machine on which a task holds its lock; return it and what runs there."""
        dag, deadline = TASKS[task], time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            tasks = [one for one in self.running(dag) if one["task_id"].endswith(task)]
            if not tasks:
                time.sleep(0.1)
                continue
            machine = self._holds(dag, tasks)
            assert isinstance(machine, Attached | Kernel)
            machine.freeze()
            there = [one for one in self.running("~") if one["hostname"] == machine.address]
            if any(one["task_id"].endswith(task) for one in there):
                return machine, there
            machine.thaw()
        raise TimeoutError(f"{task} never ran")

    def _holds(self, dag: str, tasks: list[dict[str, Any]]) -> Machine:
        """Wait until one of these holds a lock, but not for long; return its machine."""
        by_address: dict[str, Machine] = {one.address: one for one in self.cluster.workers}
        machine = by_address[tasks[0]["hostname"]]
        if dag == AUDIT:  # which takes no lock, and is soon done
            return machine
        lock = (
            self.remote / PUBLISHER if dag == PUBLISH else self.repository.mirror / STATE / "lock"
        )
        deadline = time.monotonic() + FASTEST
        while time.monotonic() < deadline:
            with suppress(OSError, ValueError):
                host = json.loads(lock.read_bytes())["host"]
                if found := [one for one in by_address.values() if one.name == host]:
                    return found[0]
            time.sleep(0.001)
        return machine

    def recovered(self, tasks: list[dict[str, Any]], since: float) -> float:
        """Wait until these have ended well; return the seconds."""
        for one in tasks:
            while (state := self._now(one)["state"]) != "success":
                assert state not in {"failed", "upstream_failed"}, f"{one['task_id']} {state}"
                assert time.monotonic() - since < PATIENCE, f"{one['task_id']} is still {state}"
                time.sleep(1)
        return time.monotonic() - since

    def begun_elsewhere(self, task: dict[str, Any]) -> None:
        """Wait until another machine has begun a task, or done it already."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            now = self._now(task)
            if now["hostname"] != task["hostname"] and now["state"] in {"running", "success"}:
                return
            time.sleep(0.1)
        raise TimeoutError(f"{task['task_id']} was not begun again")

    def _now(self, task: dict[str, Any]) -> dict[str, Any]:
        """Return what has become of a task."""
        run = f"{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}"
        mapped = f"/{task['map_index']}" if task["map_index"] >= 0 else ""
        found: dict[str, Any] = self.call("GET", run + mapped)
        return found


@contextmanager
def machines(
    home: Path, kind: type[Attached] | type[Kernel], series: int, images: int
) -> Iterator[Story]:
    """Start all of it; the clock of the second worker is two minutes ahead."""
    shared = home / "shared"
    for folder in ("images", "remote"):
        (shared / folder).mkdir(parents=True)
    settings = {
        "IMAGE_DIR": f"{shared}/images",
        "MIRROR_DIR": f"{shared}/mirror",
        "PUAVO_OS": f"{shared}/puavo-os",
        "REMOTE": f"file://{shared}/remote",
        "GRACE_DAYS": "0",
        "AUDIT_HTTPS": "false",
        "SCHEDULE": "",
        "AUDIT_SCHEDULE": "",
        "ALLOW_MASS_DELETE": "true",
    }
    settings |= {key.upper(): str(value) for key, value in POLICY.items()}
    given = {f"PUAVO_REPOSITORY_{key}": value for key, value in settings.items()}
    names = [f"puavo-os-s{number:02}-bookworm" for number in range(series)]
    with cluster(home / "machines", [shared], kind, **given) as found:
        found.migrate()
        story = Story(home, found, names, images)
        ahead = str(home / "clock.so")
        source = str(Path(__file__).with_name("clock.c"))
        subprocess.run(["cc", "-shared", "-fPIC", "-o", ahead, source], check=True)
        for clock in ({}, {"LD_PRELOAD": ahead}):
            found.add_worker(clock)
        for part in PARTS:
            found.start_airflow(part)
        found.comes_up()
        yield story
