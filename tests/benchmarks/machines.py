"""One Celery worker on one core against two with a core each, and what does not scale of it.

Usage, as root, with include and tests in PYTHONPATH: python -m benchmarks.machines IMAGE_DIR

The whole prepare of 12 images, with the settings of ``deploy/``: IMAGE_DIR holds two or three of
one series, which are prepared under the names of six or four. With one core everything is on that
core, PostgreSQL, Redis, scheduler and API server among it; with two, each worker has one of its own
and the rest takes part of both. So what is compared is one core with two, all counted.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from support.airflow_server import PREPARE, Airflow
from support.distributed import PARTS, Cluster, cluster, of_unit
from support.repository import Repository

IMAGES = 12
PATIENCE = 3600  # seconds for one run
POLLING = 10  # seconds; when it ended is told by Airflow
MAPPED = ("fingerprint", "diff")


@dataclass(frozen=True)
class Figures:
    """What one run took, in seconds."""

    whole: float
    stages: dict[str, float]  # from the first task's begin to the last one's end

    @property
    def serial(self) -> float:
        """What is done one after another, however many workers there are."""
        return self.whole - sum(self.stages.values())


def repository(images: list[Path], root: Path) -> Repository:
    """Return a repository that has the images under the names of several series."""
    found = Repository(root)
    for number in range(IMAGES // len(images)):
        for image in images:
            system, rest = image.name.split("-os-", 1)
            os.link(image, found.images / f"{system}-os-s{number}{rest}")
    return found


def figures(airflow: Airflow, run: dict[str, Any]) -> Figures:
    """Return what a run took, as the API tells it."""
    path = f"/api/v2/dags/{PREPARE}/dagRuns/{run['dag_run_id']}/taskInstances?limit=1000"
    tasks = airflow.call("GET", path)["task_instances"]
    stages = {}
    for stage in MAPPED:
        mine = [task for task in tasks if task["task_id"] == stage]
        begin = min(_time(task["start_date"]) for task in mine)
        end = max(_time(task["end_date"]) for task in mine)
        stages[stage] = end - begin
    return Figures(_time(run["end_date"]) - _time(run["start_date"]), stages)


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def ended(airflow: Airflow) -> dict[str, Any]:
    """Wait for the run; it is asked for seldom, which takes time of what is measured."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(POLLING)
        with suppress(OSError):  # on a busy core it may take too long
            (run,) = airflow.runs(PREPARE)
            if run["state"] in {"success", "failed"}:
                found: dict[str, Any] = run
                return found
    raise TimeoutError(f"the run takes longer than {PATIENCE} s")


def start(found: Cluster, workers: int) -> Airflow:
    """Start everything; each worker is pinned to a core."""
    found.migrate()
    for part in PARTS:
        found.start_airflow(part)
    for core in range(workers):
        machine = found.network.machine(f"worker{core + 1}")
        for part in ("compute", "transfer"):
            command = ["taskset", "--cpu-list", str(core), *of_unit(part, machine.name)]
            found.start(machine, f"{machine.name}-{part}", *command)
    found.comes_up()
    return Airflow(found.url, found.password, found.running["api-server"])


def prepare(images: list[Path], workers: int, folder: Path) -> Figures:
    """Prepare with so many workers, on as many cores."""
    os.sched_setaffinity(0, range(workers))  # of all that is started from here
    shared = repository(images, folder)
    settings = {
        "PUAVO_REPOSITORY_IMAGE_DIR": str(shared.images),
        "PUAVO_REPOSITORY_MIRROR_DIR": str(shared.mirror),
        "PUAVO_REPOSITORY_PUAVO_OS": str(shared.puavo_os),
        "PUAVO_REPOSITORY_SCHEDULE": "",
        "PUAVO_REPOSITORY_AUDIT_SCHEDULE": "",
    }
    with cluster(folder / "machines", [folder], **settings) as found:
        airflow = start(found, workers)
        airflow.trigger(PREPARE)
        run = ended(airflow)
        if run["state"] != "success":
            raise RuntimeError(f"the run failed; see {found.network.folder}")
        return figures(airflow, run)


def main() -> None:
    """Measure in turns, and print a table of the best of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--repeat", type=int, default=1)
    asked = parser.parse_args()
    images = sorted(asked.images.resolve().glob("*.img"))[-3:]
    runs: dict[int, list[Figures]] = {1: [], 2: []}
    for _ in range(asked.repeat):
        for workers, done in runs.items():
            with tempfile.TemporaryDirectory(dir=asked.images, prefix=".machines-") as folder:
                done.append(prepare(images, workers, Path(folder)))
    one, two = (min(done, key=lambda found: found.whole) for done in runs.values())
    print(f"| {IMAGES} images | one core | two workers, a core each | ratio |")
    print("|---|---|---|---|")
    rows = [("the whole run", one.whole, two.whole)]
    rows += [(f"{stage}, all tasks", one.stages[stage], two.stages[stage]) for stage in MAPPED]
    rows.append(("one after another", one.serial, two.serial))
    for name, before, after in rows:
        print(f"| {name} | {before:.1f} s | {after:.1f} s | {before / after:.2f} |")


if __name__ == "__main__":
    main()
