"""What publishing costs, beside OpenSSH's ``sftp``: the figures of docs/benchmarks.md.

    python tests/benchmarks/sftp.py OLD.img NEW.img [--rounds 3] [--folder /on/a/disk]

Both programs send the same image to the same ``sshd``, by turns, on loopback and through a
proxy with a round trip of 50 ms. Ours also compares the local file's sha256 with the metadata's,
puts the file on the server's disk and reads samples of it back before it counts as sent. ``sftp``
does none of that; ``put -f`` puts it on the disk, and in the third row ``sha256sum`` of both files
is compared, each side on a core of its own: it is the server that reads its file there, which
plain SFTP cannot have it do.
"""

# ruff: noqa: E402 - it is a command, and finds the code beside it
from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "include")]


from puavo_repository import settings
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.prepare import run as prepare
from puavo_repository.progress import NO_WATCHER
from puavo_repository.publish.plan import Transfer
from support.mirrors import publish, send_one
from support.servers import Proxy, Sshd, running, tool

ROUND_TRIP = 0.05  # seconds


class Bench:
    """One image, one server, and the two ways to send the one to the other."""

    def __init__(self, home: Path, image: Path, server: Sshd) -> None:
        self.remote = home / "remote"
        self.remote.mkdir()
        self._image = image
        self._size = image.stat().st_size
        self._server = server
        self._mirror = prepared(home / "one", image)
        known = Mirror(self._mirror).state.images.get(image.name)
        assert known is not None
        self._sha256 = known.digests.sha256

    def ours(self, port: int) -> None:
        target = self._server.target(self.remote, port)
        item = Transfer(self._image.name, self._size, self._sha256)
        send_one(item, self._mirror, target)

    def openssh(self, port: int, flags: str = "") -> None:
        command = [tool("sftp"), "-q", "-b", "-", "-P", str(port)]
        command += ["-i", str(self._server.client_key)]
        trust = ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={os.devnull}"]
        put = f"put {flags} {self._image} {self.remote}/{self._image.name}\n"
        subprocess.run(
            [*command, *trust, "127.0.0.1"],
            input=put.encode(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def compared(self, port: int) -> None:
        """Send it durably with OpenSSH's, then compare both sides by their digests."""
        self.openssh(port, "-f")
        sides = self._image, self.remote / self._image.name
        sums = [subprocess.Popen([tool("sha256sum"), one], stdout=subprocess.PIPE) for one in sides]
        assert len({one.communicate()[0].split()[0] for one in sums}) == 1

    def rate(self, way: Callable[[], None]) -> float:
        """Return MB/s; the image is removed again."""
        begun = time.monotonic()
        way()
        seconds = time.monotonic() - begun
        sent = self.remote / self._image.name
        assert sent.stat().st_size == self._size
        sent.unlink()
        return self._size / 1e6 / seconds


def prepared(home: Path, *images: Path) -> Path:
    """Add images to a repository and prepare it; return its mirror."""
    folder = home / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        os.link(image, folder / image.name)
    options = {"image_dir": folder, "puavo_os": home / "puavo-os", "sources": "older"}
    found = settings.load(options, {})
    prepare.prepare(found, NO_WATCHER, "benchmark")
    return found.mirror_dir


def compare(bench: Bench, port: int, rounds: int, title: str) -> None:
    """Send the image both ways by turns, and print medians."""
    ways = {
        "ours": lambda: bench.ours(port),
        "sftp": lambda: bench.openssh(port),
        "sftp, put -f": lambda: bench.openssh(port, "-f"),
        "sftp, put -f, compared": lambda: bench.compared(port),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            rates[name].append(bench.rate(way))
    for name, found in rates.items():
        each = " ".join(f"{rate:.0f}" for rate in found)
        print(f"| {title} | {name} | {statistics.median(found):.0f} | {each} |", flush=True)
    for name in list(ways)[1:]:
        ratios = [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
        print(f"| {title} | ours : {name} | {statistics.median(ratios):.2f} | |", flush=True)


def night(home: Path, server: Sshd, old: Path, new: Path) -> None:
    """Publish a new image to a server that has the old one, and print what travels."""
    remote = home / "published"
    remote.mkdir()
    with Proxy(server.port) as proxy:
        target = server.target(remote, proxy.port)
        publish(prepared(home / "night", old), target)
        mirror = prepared(home / "night", new)
        proxy.sent = 0
        report = publish(mirror, target)
        sent = proxy.sent
        proxy.sent = 0
        again = publish(mirror, target)
        rdiff = sum(path.stat().st_size for path in (mirror / "rdiffs").glob("*.rdiff"))
        same = subprocess.run([tool("cmp"), new, remote / new.name], check=False).returncode == 0
        how = "assembled there" if report.assembled else "uploaded"
        print(f"\nNew image: {how}, identical: {same}, {report.seconds:.1f} s")
        print(f"Bytes sent: {sent:,} for an rdiff of {rdiff:,}: {sent / rdiff:.3f} times")
        print(f"Again, nothing new: {again.seconds:.2f} s, {proxy.sent:,} bytes sent")


@contextmanager
def far_away(port: int) -> Iterator[int]:
    """Yield a port that leads to another one with a delay, by way of a process of its own.

    In this one it would take turns with ours, and not with ``sftp``, for Python's lock.
    """
    ours, theirs = multiprocessing.Pipe()

    def serve() -> None:
        with Proxy(port, ROUND_TRIP / 2) as proxy:
            theirs.send(proxy.port)
            theirs.recv()

    process = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the file system that holds the images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder or options.new.parent) as folder:
        home = Path(folder)
        with running(Sshd(home / "sshd")) as server, far_away(server.port) as far:
            bench = Bench(home, options.new, server)
            print("| | | MB/s | each |\n|---|---|---|---|")
            compare(bench, server.port, options.rounds, "loopback")
            compare(bench, far, options.rounds, "50 ms round trip")
            night(home, server, options.old, options.new)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"Largest memory of this process, preparation included: {memory:.0f} MiB")


if __name__ == "__main__":
    main()
