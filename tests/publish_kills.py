# ruff: noqa: E402 - it is a command too, and finds the code beside it
"""A campaign of kills: publishing is killed again and again while a client reads the remote.

    python tests/publish_kills.py --rounds 500

Each round is a night: a new image, the oldest one gone, sometimes an rdiff made anew. The
publisher is killed (SIGKILL) when a random number of bytes has left it, some times over, and
then left to finish. All the while a reader walks the remote tree as clients do: metadata first,
then each file it names, by size and sha512. It must never find one wrong or missing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "include")]

from mirrors import add_image, make_mirror, prepare, tree_of, walk
from puavo_repository.stages.prune import Cleaning
from puavo_repository.stages.publish import publish
from puavo_repository.stages.publish_options import Options
from puavo_repository.storage.target import Target
from servers import Proxy, Sshd, running

IMAGE = 120_000  # bytes: small, so that half of what travels is metadata, journal and lock
KEPT = 4  # images
GRACE = 2.0  # seconds; a walk takes a small part of it
PAUSE = 0.5


@dataclass
class Outcome:
    """What a campaign saw."""

    rounds: int = 0
    kills: int = 0
    walks: int = 0
    usual: int = 200_000  # bytes that the round before sent
    wrong: list[str] = field(default_factory=list)


def publish_once(mirror: Path, target: Target) -> None:
    """Publish; runs in a process of its own."""
    options = Options(connections=2, cleaning=Cleaning(grace=GRACE, share=1.0, pause=PAUSE))
    found = publish(mirror, target, options)
    if not found.ok:
        raise SystemExit(f"not published: {found.failed} {found.held}")


def campaign(home: Path, rounds: int, seed: int) -> Outcome:
    """Kill publishers for some rounds; returns what the reader saw."""
    chance = random.Random(seed)
    outcome, mirror, remote = Outcome(), home / "mirror", home / "remote"
    remote.mkdir(parents=True)
    names = make_mirror(mirror, size=IMAGE)
    ended = threading.Event()
    reader = threading.Thread(target=_read, args=(remote, outcome, ended))
    with running(Sshd(home / "sshd")) as server, Proxy(server.port) as proxy:
        reader.start()
        try:
            for _ in range(rounds):
                _round(mirror, remote, server.target(remote, proxy.port), proxy, chance, outcome)
                outcome.rounds += 1
                names = add_image(mirror, names, keep=KEPT, seed=chance.randrange(1 << 30))
                if chance.random() < 0.3:
                    _remake_an_rdiff(mirror, names, chance)
        finally:
            ended.set()
            reader.join()
    return outcome


def _round(
    mirror: Path,
    remote: Path,
    target: Target,
    proxy: Proxy,
    chance: random.Random,
    outcome: Outcome,
) -> None:
    begin = proxy.sent
    for _ in range(chance.randrange(1, 4)):
        process = _process(mirror, target)
        proxy.sprung = process.kill
        proxy.trap = proxy.sent + chance.randrange(outcome.usual)
        process.start()
        process.join()
        proxy.heal()
        outcome.kills += process.exitcode == -9
    last = _process(mirror, target)
    last.start()
    last.join()
    if last.exitcode != 0:
        outcome.wrong.append(f"the publisher ended with {last.exitcode}")
    lost = {path for path, data in tree_of(mirror).items() if tree_of(remote).get(path) != data}
    described = {line.split()[2] for line in (mirror / "CKSUMS").read_text().splitlines()}
    outcome.usual = proxy.sent - begin
    outcome.wrong += [f"{p} did not arrive" for p in lost if p.rpartition("/")[2] in described]


def _process(mirror: Path, target: Target) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["puavo_repository.stages.publish", "publish_kills"])
    return context.Process(target=publish_once, args=(mirror, target))  # type: ignore[return-value]


def _read(remote: Path, outcome: Outcome, ended: threading.Event) -> None:
    while not ended.is_set():
        outcome.wrong += walk(remote)
        outcome.walks += 1
        time.sleep(0.01)


def _remake_an_rdiff(mirror: Path, names: list[str], chance: random.Random) -> None:
    """Give an rdiff that is published another content: a literal more, cut off again by nobody."""
    rdiffs = sorted((mirror / "rdiffs").glob(f"*--{names[-2][-27:-10]}-amd64.rdiff"))
    if rdiffs:
        rdiff = chance.choice(rdiffs)
        rdiff.write_bytes(rdiff.read_bytes()[:-1] + bytes([1, chance.randrange(256), 0]))
        prepare(mirror, names)


def main() -> int:
    """Run a campaign from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as home:
        outcome = campaign(Path(home), options.rounds, options.seed)
    print(f"{outcome.rounds} rounds, {outcome.kills} kills, {outcome.walks} walks")
    for line in outcome.wrong:
        print(line)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
