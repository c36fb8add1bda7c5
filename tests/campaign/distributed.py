"""The long story of several machines: faults of workers and services in real runs of the DAGs.

    PYTHONPATH=include:tests python -m campaign.distributed [--machines KIND] [--fault F…]

Two worker machines (``support.distributed``) share an image directory and a mirror, as root; of
which kind is told where their disks are taken away, in ``support.machines`` and ``kernels``. The
first night reads all images; where faults are named, the command makes it. In each later one some
images come and go, a run prepares and publishes, and one fault strikes while the task that it is
for holds its lock. All of them must end well, with the mirror and the remote byte for byte as a
single machine leaves them, and a watcher who reads both trees as clients do must not find a file
wrong. Prints a table, with the longest time from a strike until the task that was struck had ended
well. Exits 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from campaign.nights import Watch
from campaign.story import KINDS, TASKS, Story, machines
from campaign.terminal import until_ended
from support.airflow_server import AUDIT, PREPARE, PUBLISH

SILENCE = 150  # seconds without a sign of life; Airflow gives a task up after 120
LEASE = 90  # seconds until a file server drops the locks of a machine that it hears nothing of


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
    """Cut a worker off from network and disk; it comes back when others have done its work."""
    machine, tasks = story.caught(task)
    struck = time.monotonic()
    machine.unplug()
    machine.detach()
    machine.thaw()
    time.sleep(LEASE)
    story.drop_locks()
    try:
        return story.recovered(tasks, struck)
    finally:
        machine.attach()
        machine.plug()


def disk_cut(story: Story, task: str) -> float:
    """Take the disk from a worker, and the network not: its task waits, and is not given up.

    The command does the work on another machine meanwhile, and has what locks it held.
    """
    machine, tasks = story.caught(task)
    struck = time.monotonic()
    machine.detach()
    machine.thaw()
    time.sleep(SILENCE)
    story.drop_locks()
    try:
        story.command()
    finally:
        machine.attach()
    return story.recovered(tasks, struck)


def network_cut(story: Story, task: str) -> float:
    """Take the network from a worker, and the disk not: it goes on when another has its task.

    Nobody can tell it to end. It is held still until then, as if the task took so long.
    """
    machine, tasks = story.caught(task)
    struck = time.monotonic()
    machine.unplug()
    try:
        story.begun_elsewhere(next(one for one in tasks if one["task_id"].endswith(task)))
        machine.thaw()
        return story.recovered(tasks, struck)
    finally:
        machine.thaw()
        machine.plug()


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
    struck = time.monotonic()
    story.command()
    return story.recovered(tasks, struck)


FAULTS: dict[str, Callable[[Story], float]] = {
    f"{how.__name__}-{task}".replace("_", "-"): partial(how, task=task)
    for how in (killed, frozen, cut_off, disk_cut, network_cut)
    for task in TASKS
}
FAULTS |= {
    f"{part}-restarted-{task}": partial(restarted, part=part, task=task)
    for part, task in (("scheduler", "diff"), ("redis", "fingerprint"), ("postgresql", "upload"))
}
FAULTS |= {f"second-run-{task}": partial(second_run, task=task) for task in ("diff", "switch")}


def night(story: Story, fault: str, row: Row) -> None:
    """Let a run begin and its fault strike; take note of what was lost and how long it took."""
    before, row.tries = story.runs(PUBLISH), row.tries + 1
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
        ends.append(story.ended(story.follows(before)))
    row.lost += [f"a run ended as {end}" for end in ends if end != "success"] + story.lost()


def main() -> int:
    """Tell the story from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--machines", choices=KINDS, default="namespaces")
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--images", type=int, default=10, help="of each series")
    parser.add_argument("--home", type=Path, help="an empty folder, which stays, with all logs")
    parser.add_argument("--fault", nargs="+", choices=FAULTS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: all machines end
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="distributed-") as temporary,
        machines(
            options.home or Path(temporary),
            KINDS[options.machines],
            options.series,
            options.images,
        ) as story,
        Watch(story.repository.mirror, story.remote, pause=1.0) as watch,
    ):
        print("| fault | tried | lost | longest recovery | what was lost |", flush=True)
        print("|---|---|---|---|---|", flush=True)
        if options.fault:
            story.command()
        for fault in options.fault or ("", *FAULTS):
            row = Row(fault or "none, the first night")
            if fault and not fault.endswith("-local"):
                story.fall()
            night(story, fault, row)
            row.lost += watch.seen()
            rows.append(row)
            print(row, flush=True)
    return 1 if any(row.lost for row in rows) else 0


if __name__ == "__main__":
    sys.exit(until_ended(main))
