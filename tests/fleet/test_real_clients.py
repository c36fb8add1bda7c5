"""What the two clients' own requests leave in nginx's log is counted as what they did."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from puavo_repository.fleet import fold
from puavo_repository.formats.names import rdiff_name
from support.fleet import SERIES, built, counted, offer
from support.repository import Repository
from support.servers import HttpsServer, tool

OLD, NEW = built(0), built(1)
RDIFF, BACK = f"rdiffs/{rdiff_name(OLD, NEW)}", f"rdiffs/{rdiff_name(NEW, OLD)}"
SIZES = {RDIFF: 400_000, NEW: 700_000}
RATE = 800_000  # bytes a second that the server sends, so that there is time to break off


@pytest.fixture
def server(repository: Repository) -> Iterator[HttpsServer]:
    mirror = repository.mirror
    offer(mirror, {OLD: SIZES[NEW], NEW: SIZES[NEW]}, {(OLD, NEW): SIZES[RDIFF]})
    (mirror / "rdiffs").mkdir()
    for path, size in SIZES.items():
        (mirror / path).write_bytes(random.Random(path).randbytes(size))
    home = repository.root / "nginx"
    how = f"access_log {home}/access.log combined; limit_rate {RATE}; sendfile_max_chunk 32k;"
    with HttpsServer(home, mirror, more=how) as found:
        yield found


class Laptop:
    """The laptop client: wget as ``puavo-install-and-update-ltspimages`` calls it."""

    def __init__(self, server: HttpsServer, home: Path, address: str) -> None:
        home.mkdir()
        self._server, self._home, self._address = server, home, address

    def wget(self, path: str, *, kill_at: int | None = None) -> int:
        """Fetch a file, or go on with it; it is killed when it has so many bytes."""
        to = self._home / f"{path.rpartition('/')[2]}.tmp"
        trust = f"--ca-certificate={self._server.certificate}"
        options = ["--continue", f"--output-document={to}", "--progress=dot:mega"]
        options += [f"--bind-address={self._address}", "-q", trust, f"{self._server.url}/{path}"]
        client = subprocess.Popen([tool("wget"), *options])
        while kill_at is not None and client.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                if to.stat().st_size >= kill_at:
                    client.kill()
            time.sleep(0.005)
        return client.wait(30)

    def has(self, path: str) -> bool:
        there = self._home / f"{path.rpartition('/')[2]}.tmp"
        return there.read_bytes() == (self._server.root / path).read_bytes()


# The school server's client: one GET of the whole file, its body a piece at a time.
RUBY = """
require "net/http"
uri, trust, enough = URI(ARGV[0]), ARGV[1], ARGV[2].to_i
got = 0
Net::HTTP.start(uri.host, uri.port, use_ssl: true, ca_file: trust) do |http|
  http.request(Net::HTTP::Get.new(uri)) do |answer|
    puts answer.code
    $stdout.flush
    answer.read_body { |piece| exit!(0) if (got += piece.bytesize) >= enough && enough > 0 }
  end
end
"""


def net_http(server: HttpsServer, path: str, *, stop_after: int = 0) -> int:
    """Fetch a file as the school server does; it may end in the middle."""
    url = f"{server.url}/{path}"
    command = [tool("ruby"), "-e", RUBY, url, str(server.certificate), str(stop_after)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def test_downloads_are_counted_as_they_were_made(
    server: HttpsServer, repository: Repository, tmp_path: Path
) -> None:
    first, second = (Laptop(server, tmp_path / f"{n}", f"127.0.0.{n}") for n in (11, 12))
    for laptop in (first, second):
        assert laptop.wget(f"meta/{SERIES}.json") == 0
    assert first.wget(RDIFF) == 0
    assert second.wget(RDIFF, kill_at=100_000) == -9
    assert second.wget(RDIFF, kill_at=200_000) == -9
    assert second.wget(RDIFF) == 0
    assert second.has(RDIFF)
    assert second.wget(RDIFF) == 0  # all is there: 416
    assert first.wget(BACK) == 8  # there is none, so it fetches the whole image
    assert first.wget(NEW, kill_at=300_000) == -9
    assert first.wget(NEW) == 0
    assert first.has(NEW)
    assert second.wget(NEW, kill_at=300_000) == -9  # and never comes back
    assert net_http(server, RDIFF) == 200
    assert net_http(server, NEW) == 200
    assert net_http(server, NEW, stop_after=100_000) == 200
    to = str(tmp_path / "part")
    curl = [tool("curl"), "-sf", "--cacert", str(server.certificate), "-o", to]
    for more in (["-I"], *(["-r", f"{at}-{at + 99_999}"] for at in range(0, 400_000, 100_000))):
        subprocess.run([*curl, *more, f"{server.url}/{RDIFF}"], check=True)
    subprocess.run([*curl, "-A", "SomeBot/1.0", f"{server.url}/{RDIFF}"], check=True)
    log = server.home / "access.log"
    end = time.monotonic() + 20  # nginx sees only when it sends that a client is gone
    while log.read_bytes().count(b"\n") < 20 and time.monotonic() < end:
        time.sleep(0.02)
    assert log.read_bytes().count(b"\n") == 20, log.read_text()

    chosen = repository.settings(usage_logs=[str(log)])
    fold.fold_logs(chosen, chosen.target)
    found = {(name, via): n for (_, name, via), (n, _) in counted(repository.mirror).items()}
    rdiff, back = RDIFF.removeprefix("rdiffs/"), BACK.removeprefix("rdiffs/")
    assert found == {
        (rdiff, "https"): 4,  # two by wget, one by Ruby, one in ranges
        (NEW, "https"): 2,
        (rdiff, "bot"): 0,
        (back, "missing"): 1,
    }
    fields = [line.split() for line in log.read_text().splitlines()]
    served = sum(int(one[9]) for one in fields if one[8] in "200 206" and "GET" in one[5])
    others = sum(int(one[9]) for one in fields if one[6].startswith("/meta/"))
    assert sum(sent for _, sent in counted(repository.mirror).values()) == served - others
    assert fold.figures(chosen).days[0].clients == 3
