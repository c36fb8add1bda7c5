"""From an image directory to a laptop: prepared, published over SFTP, served by https, patched."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from puavo_repository.publish.publisher import Publisher
from puavo_repository.rollback import rollback
from puavo_repository.settings.model import Model
from support.mirrors import publish
from support.repository import AMXA, V1, V2, V3, V4, Repository, name
from support.servers import HttpsServer, Proxy, Sshd, tool

SERIES = f"{AMXA}-amd64"
GENEROUS = Model(max_delete=1.0)


class Laptop:
    """The steps of the laptop client's updater, with the tools that it uses."""

    def __init__(self, home: Path, server: HttpsServer) -> None:
        home.mkdir()
        self._home = home
        self._server = server

    def update(self, have: Path, want: str) -> Path:
        """Turn an image into another by the rdiff whose name the client computes by itself."""
        self._fetch(f"meta/{SERIES}.json", "meta.json")
        stem, version = have.name.rsplit("-", 5)[0], "-".join(have.name.split("-")[-5:-1])
        goal = "-".join(want.split("-")[-5:-1])
        rdiff = f"{stem}-{version}--{goal}-amd64.rdiff"
        self._fetch(f"rdiffs/{rdiff}", "rdiff")
        self._check("rdiff", self._ask(f'.[][][] | .diffs[] | select(.filename == "{rdiff}")'))
        image = self._home / want
        subprocess.run([tool("rdiff"), "patch", have, self._home / "rdiff", image], check=True)
        self._check(want, self._ask(f'.[][][] | select(.filename == "{want}")'))
        return image

    def newest(self) -> str:
        """Return the image that the metadata names last."""
        self._fetch(f"meta/{SERIES}.json", "meta.json")
        command = [tool("jq"), "-r", ".[][][-1].filename", str(self._home / "meta.json")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def download(self, want: str) -> Path:
        """Fetch a whole image, as a client does for which there is no rdiff."""
        self._fetch(f"meta/{SERIES}.json", "meta.json")
        self._fetch(want, want)
        self._check(want, self._ask(f'.[][][] | select(.filename == "{want}")'))
        return self._home / want

    def _fetch(self, path: str, name: str) -> None:
        trust = f"--ca-certificate={self._server.certificate}"
        command = [
            tool("wget"),
            "-q",
            trust,
            "-O",
            str(self._home / name),
            f"{self._server.url}/{path}",
        ]
        subprocess.run(command, check=True)

    def _ask(self, entry: str) -> list[str]:
        """Look an entry up; return its size and sha512."""
        query = f"{entry} | .size, .sha512"
        command = [tool("jq"), "-r", query, str(self._home / "meta.json")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    def _check(self, name: str, expected: list[str]) -> None:
        data = (self._home / name).read_bytes()
        assert [str(len(data)), hashlib.sha512(data).hexdigest()] == expected


@pytest.mark.alike(1)
@pytest.mark.parametrize("with_copy", [True, False])
def test_a_laptop_updates_from_what_was_published(
    repository: Repository, tmp_path: Path, sshd: Sshd, sshd_without_copy: Sshd, with_copy: bool
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    target = (sshd if with_copy else sshd_without_copy).target(remote)
    for version in (V1, V2, V3):
        repository.add(name(version))
    assert repository.prepare().ok
    assert publish(repository.mirror, target).ok
    with HttpsServer(tmp_path / "nginx", remote) as server:
        old = Laptop(tmp_path / "first", server).download(name(V3))
        repository.add(name(V4))
        assert repository.prepare().ok
        night = publish(repository.mirror, target)
        assert night.ok, night.failed
        assert (name(V4) in night.assembled) == with_copy
        laptop = Laptop(tmp_path / "second", server)
        new = laptop.update(old, name(V4))
        assert new.read_bytes() == (repository.images / name(V4)).read_bytes()
        back = Laptop(tmp_path / "third", server).update(new, name(V3))
        assert back.read_bytes() == old.read_bytes(), "clients roll back too"
        hidden = f"{server.url}/.puavo-publish/journal.json"
        trust = f"--ca-certificate={server.certificate}"
        assert subprocess.run([tool("wget"), "-q", "-O", "-", trust, hidden]).returncode != 0


def test_after_a_bad_night_a_rollback_lets_clients_update_at_once(
    repository: Repository, tmp_path: Path, sshd: Sshd
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    target = sshd.target(remote)
    for version in (V1, V2, V3):
        repository.add(name(version))
    assert repository.prepare().ok
    assert publish(repository.mirror, target).ok
    with HttpsServer(tmp_path / "nginx", remote) as server:
        laptop = Laptop(tmp_path / "laptop", server)
        old = laptop.download(name(V2))
        repository.add(name(V4))  # it does not boot, say: nothing that a checksum would tell
        assert repository.prepare().ok
        assert publish(repository.mirror, target).ok
        assert laptop.newest() == name(V4)
        bad = Laptop(tmp_path / "early", server).update(old, name(V4))
        with Publisher(repository.mirror, target) as publisher:
            rollback.roll_back(publisher, None)
        assert laptop.newest() == name(V3)
        new = laptop.update(old, name(V3))
        assert new.read_bytes() == (repository.images / name(V3)).read_bytes()
        # One that has the bad image gets the whole good one: it is told of no rdiff.
        assert bad.exists()
        assert Laptop(tmp_path / "back", server).download(name(V3)).read_bytes() == new.read_bytes()
        (repository.images / name(V4)).unlink()
        assert repository.prepare().ok
        assert publish(repository.mirror, target, GENEROUS).ok
        assert laptop.newest() == name(V3)
        later = Laptop(tmp_path / "later", server).update(old, name(V3))
        assert later.read_bytes() == new.read_bytes()


def test_the_new_image_costs_only_its_rdiff(
    repository: Repository, tmp_path: Path, sshd: Sshd
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    for version in (V1, V2):
        repository.add(name(version), size=12_000_000)
    assert repository.prepare(targets=0).ok
    with Proxy(sshd.port) as proxy:
        target = sshd.target(remote, proxy.port)
        (repository.images / name(V2)).rename(tmp_path / "kept")
        assert repository.prepare().ok
        assert publish(repository.mirror, target).ok
        (tmp_path / "kept").rename(repository.images / name(V2))
        assert repository.prepare(sources="older").ok
        begin = proxy.sent
        night = publish(repository.mirror, target)
        assert list(night.assembled) == [name(V2)]
        rdiffs = sum(path.stat().st_size for path in (repository.mirror / "rdiffs").iterdir())
        # metadata, journal, handshakes, locks, and what room is left there
        assert proxy.sent - begin <= 1.1 * rdiffs + 64_000
        assert rdiffs < 2_000_000
