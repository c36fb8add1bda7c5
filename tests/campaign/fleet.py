"""The long form of ``tests/fleet/test_policies.py``, and the reading of a log that is large.

    PYTHONPATH=include:tests python -m campaign.fleet [--clients N] [--days N] [--seeds N]

20,000 clients over 200 days: the shares of the fleet are within 3 points of the truth, and rdiffs
by demand at 0.95 are at most half of those of the old rule, and save at most 5 % less. Then as
many days with a server that offers by demand alone, so that whole images are all that tells of the
rdiffs that are not made. Before that a log of others, of so many GiB: 200 MB/s, within 200 MiB.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from campaign.terminal import until_ended
from puavo_repository.fleet import fold
from puavo_repository.fleet.policies import lines
from support.fleet import offer
from support.repository import COMMAND, Repository
from support.synthetic_fleet import SyntheticFleet, furthest, live, on_day

OTHER = (
    '203.0.113.{} - - [30/Nov/2026:05:48:{:02} +0200] "GET /static/{:x}.js HTTP/1.1" 200 {} '
    '"https://example.org/page" "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0"\n'
)


def fleet(folder: Path, clients: int, days: int, seed: int) -> bool:
    """Live with a fleet; return whether all is as it should be."""
    repository = Repository(folder)
    repository.mirror.mkdir()
    log = folder / "access.log"
    chosen = repository.settings(usage_logs=[str(log)])
    every = SyntheticFleet(repository.mirror, log, clients, seed)
    good = True
    for by_demand, part in ((False, range(days)), (True, range(days, 2 * days))):
        every.by_demand = by_demand
        for start in range(part.start, part.stop, 50):
            live(every, chosen, range(start, min(start + 50, part.stop)))
            with on_day(min(start + 50, part.stop) - 1):
                off = furthest(every, fold.figures(chosen))
            print(f"seed {seed}, day {start + 50}: shares within {off:.2%}", flush=True)
            good = good and off < (0.08 if by_demand else 0.03)
        with on_day(part.stop - 1):
            outcomes = fold.policies(chosen, 90)
        print("\n".join(lines(outcomes, 90)), flush=True)
        found = {one.policy: one for one in outcomes}
        old, new = found["all"], found["demand 0.95"]
        least = 0.94 if by_demand else 0.95
        good = good and new.rdiffs <= old.rdiffs / 2 and new.saved >= least * old.saved
        print(f"whole images in place of an rdiff: {every.missed} of {every.updates}")
    return good


def large(folder: Path, gigabytes: int) -> bool:
    """Read a log of others; return whether that was quick and took little memory."""
    # Little at once: what this process takes at most counts as the child's, too.
    block = "".join(OTHER.format(n % 250, n % 60, n, n) for n in range(20_000)).encode()
    with (folder / "large.log").open("wb") as stream:
        while stream.tell() < gigabytes << 30:
            stream.write(block)
    repository = Repository(folder)
    offer(repository.mirror, {})
    command = [*COMMAND, "usage", "--json", "--log", f"{folder}/large.log"]
    begun = time.perf_counter()
    subprocess.run([*command, *repository.arguments()], check=True, stdout=subprocess.DEVNULL)
    wall, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent, most, size = used.ru_utime + used.ru_stime, used.ru_maxrss >> 10, gigabytes << 30
    rate, real = size / spent / 1e6, size / wall / 1e6
    print(f"{gigabytes} GiB: {rate:.0f} MB/s of CPU, {real:.0f} MB/s of the clock, {most} MiB")
    return rate > 200 and most < 200


def main() -> int:
    """Return 0 where all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--gigabytes", type=int, default=1)
    asked = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        if asked.gigabytes:
            (Path(folder) / "log").mkdir()
            good = large(Path(folder) / "log", asked.gigabytes)
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            good = fleet(Path(folder), asked.clients, asked.days, seed) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(until_ended(main))
