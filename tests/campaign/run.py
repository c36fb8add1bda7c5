"""The campaign of faults: whatever happens, the next run leaves the mirror as if nothing had.

    PYTHONPATH=include:tests python -m campaign.run [--tries N] [--seed S] [--fault NAME…]

Each try is a night: images come, go and change, the fault strikes once or a few times over, and
the run is done again, undisturbed. Then the mirror (and the remote) must be byte-identical to
one that nothing ever disturbed, nothing may lie about, no run may have ended with an error that
is none of ours, and a watcher who walked the trees all the while, metadata first and then each
file that it names, must not have found one wrong or missing. Prints a table; exits 1 if anything
was lost.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from campaign.airflow_kills import AirflowKilled, SchedulerKilled
from campaign.faults import EACH, FAULTS, Fault
from campaign.nights import Nights, Watch
from campaign.terminal import show, until_ended

# Minutes each: not in the suite.
AIRFLOW: dict[str, type[Fault]] = {
    "airflow-task-killed": AirflowKilled,
    "airflow-scheduler-killed": SchedulerKilled,
}
EVERY = FAULTS | EACH | AIRFLOW
TRIES = dict.fromkeys(EACH, 1000) | dict.fromkeys(AIRFLOW, 2)  # each step of a run is one
FEWER = 15  # of each other fault


@dataclass
class Row:
    """What one fault did.

    Attributes:
        fault: Its name.
        tries: Nights.
        struck: How many faults really happened in them.
        walks: How often the watcher walked a tree.
        lost: What was lost, by try.
        seconds: How long it took.
        why_not: Why it was not tried.
    """

    fault: str
    tries: int = 0
    struck: int = 0
    walks: int = 0
    lost: dict[int, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    why_not: str = ""

    def __str__(self) -> str:
        if self.why_not:
            return f"| {self.fault} | not tried | | | | | {self.why_not} |"
        texts = (line.strip().splitlines()[-1] for lines in self.lost.values() for line in lines)
        what = "; ".join(dict.fromkeys(texts))[:300].replace("|", "/")
        survived = self.tries - len(self.lost)
        return (
            f"| {self.fault} | {self.tries} | {self.struck} | {survived} | {len(self.lost)} "
            f"| {self.walks} | {self.seconds:.0f} s | {what} |"
        )


def campaign(name: str, home: Path, tries: int, seed: int, place: str = "") -> Row:
    """Try one fault.

    Args:
        name: Of the fault.
        home: An empty folder.
        tries: How often.
        seed: Decides all that chance decides.
        place: Of the fault among others, to be shown.
    """
    kind, row, begun = EVERY[name], Row(name), time.monotonic()
    row.why_not = kind.why_not()
    if row.why_not:
        return row
    nights = Nights(home, random.Random(f"{seed} {name}"))
    watch = Watch(nights.mirror, nights.remote, patient=kind.patient)
    fault = kind(nights, watch, home)
    with watch, fault.ready():
        for number in range(tries):
            show(f"{place}{name}: night {number + 1} of at most {tries}")
            lost = _try(fault, row)
            row.tries += 1
            if lost:
                row.lost[number] = lost
            if fault.ended:
                break
    row.walks, row.seconds = watch.walks, time.monotonic() - begun
    return row


def _try(fault: Fault, row: Row) -> list[str]:
    lost = []
    fault.fall()
    with fault.looking():
        for _ in range(fault.chance.randint(1, fault.again)):
            done = fault.strike()
            row.struck += done.struck
            lost += [f"an error of no kind: {done.unexpected}"] if done.unexpected else []
        last = fault.mend()
    if last.status or last.unexpected:
        lost.append(f"mending ended with {last.status} {last.said} {last.unexpected}")
    return lost + fault.nights.lost(*fault.trees) + fault.watch.seen()


def main() -> int:
    """Run a campaign from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tries", type=int, help="of each fault")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--fault", nargs="+", choices=EVERY, default=list(EVERY))
    options = parser.parse_args()
    print(f"seed {options.seed}\n", flush=True)
    print("| fault | tries | struck | survived | lost | walks | time | what was lost |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    lost: dict[str, list[str]] = {}
    for number, name in enumerate(options.fault, 1):
        with tempfile.TemporaryDirectory(prefix="campaign-") as home:
            tries = options.tries or TRIES.get(name, FEWER)
            place = f"{number} of {len(options.fault)}, "
            row = campaign(name, Path(home), tries, options.seed, place)
        show("")
        print(row, flush=True)
        lost |= {f"{name}, try {number}": lines for number, lines in row.lost.items()}
    for where, lines in lost.items():
        print(f"\n{where}:", *lines, sep="\n  ")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(until_ended(main))
