"""The long story of several machines: faults of workers and services in real runs of the DAGs.

    PYTHONPATH=include:tests python -m campaign.distributed [--series N] [--images N] [--fault F…]

Two worker machines (``support.distributed``) share an image directory and a mirror, as root. The
first night reads all images. In each later one some come and go, a run prepares and publishes,
and one fault strikes while the task that it is for holds its lock. All of them must end well, with
the mirror and the remote byte for byte as a single machine leaves them, and a watcher who reads
both trees as clients do must not find a file wrong. Prints a table, with the longest time from
a strike until the task that was struck had ended well. Exits 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from campaign.nights import Watch, differences
from puavo_repository.mirror.records import FOLDER as STATE
from puavo_repository.remote.lock import PATH as PUBLISHER
from support.airflow_server import AUDIT, PREPARE, PUBLISH, Airflow
from support.distributed import PARTS, Cluster, cluster
from support.machines import Machine
from support.mirrors import tree_of
from support.repository import Repository, environment, name

TASKS = {
    **dict.fromkeys(("fingerprint", "diff", "describe"), PREPARE),
    **dict.fromkeys(("upload", "switch", "clean"), PUBLISH),
    "local": AUDIT,
}
SILENCE = 150  # seconds without a sign of life; Airflow gives a task up after 120
LEASE = 90  # seconds until a file server drops the locks of a machine that it hears nothing of
RESTART = 10.0  # seconds until systemd starts a service again
PATIENCE = 1500.0  # seconds until a run has to have ended
FASTEST = 5.0  # seconds of a task's running before it is struck without its lock
POLICY = {"targets": 1, "sources": "nearest:2"}


@dataclass
class Row:
    """What one fault did."""

    fault: str
    tries: int = 0
    lost: list[str] = field(default_factory=list)
    recovery: float = 0.0  # seconds, the longest

    def __str__(self) -> str:
        what = "; ".join(self.lost)[:300].replace("|", "/")
        lost = len(self.lost)
        return f"| {self.fault} | {self.tries} | {lost} | {self.recovery:.0f} s | {what} |"


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

    def ended(self, run: str) -> str:
        """Wait until a run has ended; return its state."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            state = str(self.call("GET", run)["state"])
            if state in {"success", "failed"}:
                return state
            time.sleep(1)
        return "still running"

    def caught(self, task: str) -> tuple[Machine, list[dict[str, Any]]]:
        """Freeze a machine on which a task holds its lock; return it and what runs there."""
        dag, deadline = TASKS[task], time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            tasks = [one for one in self.running(dag) if one["task_id"].endswith(task)]
            if not tasks:
                time.sleep(0.1)
                continue
            machine = self._holds(dag, tasks)
            machine.freeze()
            there = [one for one in self.running("~") if one["hostname"] == machine.address]
            if any(one["task_id"].endswith(task) for one in there):
                return machine, there
            machine.thaw()
        raise TimeoutError(f"{task} never ran")

    def _holds(self, dag: str, tasks: list[dict[str, Any]]) -> Machine:
        """Wait until one of these holds a lock, but not for long; return its machine."""
        by_address = {one.address: one for one in self.cluster.workers}
        machine = by_address[tasks[0]["hostname"]]
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
            run = f"{one['dag_id']}/dagRuns/{one['dag_run_id']}/taskInstances/{one['task_id']}"
            mapped = f"/{one['map_index']}" if one["map_index"] >= 0 else ""
            while (state := self.call("GET", run + mapped)["state"]) != "success":
                assert state not in {"failed", "upstream_failed"}, f"{one['task_id']} {state}"
                assert time.monotonic() - since < PATIENCE, f"{one['task_id']} is still {state}"
                time.sleep(1)
        return time.monotonic() - since


def killed(story: Story, task: str) -> float:
    """Cut the power of a worker; it comes back at once, as a machine does that restarts."""
    machine, tasks = story.caught(task)
    struck = time.monotonic()
    machine.power_off()
    story.cluster.network.power_on(machine)
    story.cluster.start_workers(machine)
    return story.recovered(tasks, struck)


def frozen(story: Story, task: str) -> float:
    """Stop a worker's processes; it goes on after it was given up, and before another begins."""
    machine, tasks = story.caught(task)
    struck = time.monotonic()
    time.sleep(SILENCE)
    machine.thaw()
    return story.recovered(tasks, struck)


def cut_off(story: Story, task: str) -> float:
    """Cut a worker off from network and disk; it comes back when others have done its work.

    A file server drops the locks of such a machine. Here others find new files for them.
    """
    machine, tasks = story.caught(task)
    struck = time.monotonic()
    machine.unplug()
    time.sleep(LEASE)
    for lock in ("lock", "metadata.lock"):
        (story.repository.mirror / STATE / lock).unlink(missing_ok=True)
    try:
        return story.recovered(tasks, struck)
    finally:
        machine.plug()
        machine.thaw()


def restarted(story: Story, part: str, task: str) -> float:
    """Kill a service and start it again, as its unit does, while tasks run."""
    machine, tasks = story.caught(task)
    machine.thaw()
    struck = time.monotonic()
    os.killpg(story.cluster.running[part].pid, signal.SIGKILL)
    return story.recovered(tasks, struck)


def second_run(story: Story, task: str) -> float:
    """Run the command on another machine while the DAGs run."""
    machine, tasks = story.caught(task)
    machine.thaw()
    struck, repository = time.monotonic(), story.repository
    command = [sys.executable, "-m", "puavo_repository.cli"]
    command += repository.arguments("--upload", f"file://{story.remote}")
    ours = {n: v for n, v in story.cluster.env.items() if n.startswith("PUAVO_REPOSITORY_")}
    subprocess.run(command, env=environment(**ours), capture_output=True, check=False)
    return story.recovered(tasks, struck)


FAULTS: dict[str, Callable[[Story], float]] = {
    f"{how.__name__}-{task}".replace("_", "-"): partial(how, task=task)
    for how in (killed, frozen, cut_off)
    for task in TASKS
}
FAULTS |= {
    f"{part}-restarted-{task}": partial(restarted, part=part, task=task)
    for part, task in (("scheduler", "diff"), ("redis", "fingerprint"), ("postgresql", "upload"))
}
FAULTS |= {f"second-run-{task}": partial(second_run, task=task) for task in ("diff", "switch")}


@contextmanager
def machines(home: Path, series: int, images: int) -> Iterator[Story]:
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
    with cluster(home / "machines", [shared], **given) as found:
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


def night(story: Story, fault: str, row: Row) -> None:
    """Let a run begin and its fault strike; take note of what was lost and how long it took."""
    before, row.tries = len(story.runs(PUBLISH)), row.tries + 1
    audit = fault.endswith("-local")
    run, seconds = story.trigger(AUDIT if audit else PREPARE), 0.0
    try:
        if fault:
            seconds = FAULTS[fault](story)
    except (AssertionError, TimeoutError) as error:
        row.lost.append(str(error))
    row.recovery = max(row.recovery, seconds)
    ends = [story.ended(run)]
    if not audit and ends == ["success"]:
        while len(every := story.runs(PUBLISH)) == before:
            time.sleep(1)
        ends.append(story.ended(every[-1]))
    row.lost += [f"a run ended as {end}" for end in ends if end != "success"] + story.lost()


def main() -> int:
    """Tell the story from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--images", type=int, default=10, help="of each series")
    parser.add_argument("--home", type=Path, help="an empty folder, which stays, with all logs")
    parser.add_argument("--fault", nargs="+", choices=FAULTS, default=list(FAULTS))
    options = parser.parse_args()
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="distributed-") as temporary,
        machines(options.home or Path(temporary), options.series, options.images) as story,
        Watch(story.repository.mirror, story.remote, pause=1.0) as watch,
    ):
        print("| fault | tried | lost | longest recovery | what was lost |", flush=True)
        print("|---|---|---|---|---|", flush=True)
        for fault in ("", *options.fault):
            row = Row(fault or "none, the first night")
            if fault and not fault.endswith("-local"):
                story.fall()
            night(story, fault, row)
            row.lost += watch.seen()
            rows.append(row)
            print(row, flush=True)
    return 1 if any(row.lost for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
