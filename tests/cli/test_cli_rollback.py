"""The command's rollback, on mirrors that the command made and published."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from support.mirrors import walk
from support.repository import AMXA, COMMAND, FREE, V1, V2, V3, Repository, name, run

SERIES = f"{AMXA}-amd64"


def rollback(repository: Repository, *options: str) -> subprocess.CompletedProcess[str]:
    return run(
        [*COMMAND, "rollback", *options, str(repository.images), str(repository.mirror)], timeout=60
    )


def test_a_bad_night_is_undone_by_one_command(repository: Repository, remote: Path) -> None:
    url = f"file://{remote}"
    for version in (V1, V2):
        repository.add(name(version))
    assert repository.command("-u", url).returncode == 0
    good = (remote / "meta" / f"{SERIES}.json").read_bytes()
    repository.add(name(V3))
    assert repository.command("-u", url).returncode == 0

    listed = rollback(repository, "-u", url, "--list")
    assert listed.returncode == 0, listed.stderr
    assert [line.split(",")[0].strip() for line in listed.stdout.splitlines()[1:]] == [
        "generation 2",
        "generation 1",
    ]
    done = rollback(repository, "-u", url, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["mirrors"][0]
    assert (told["generation"], told["restored"]) == (3, 1)
    assert (remote / "meta" / f"{SERIES}.json").read_bytes() == good
    assert walk(remote) == []

    night = repository.command("-u", url)
    assert night.returncode == 1
    assert "a rollback took from clients" in night.stderr
    assert (remote / "meta" / f"{SERIES}.json").read_bytes() == good
    (repository.images / name(V3)).unlink()
    assert repository.command("-u", url).returncode == 0


def test_bad_usage_is_told(repository: Repository, remote: Path, tmp_path: Path) -> None:
    url = f"file://{remote}"
    nowhere = rollback(repository)
    assert nowhere.returncode == 2
    assert "no published mirror is named" in nowhere.stderr
    two = rollback(repository, "-u", url, "-u", url, "--to", "1")
    assert two.returncode == 2
    assert "counts its own generations" in two.stderr
    fresh = rollback(repository, "-u", url, "-u", f"file://{tmp_path}/missing")
    assert fresh.returncode == 1
    assert "there is no earlier generation" in fresh.stderr
    assert "there is no such folder" in fresh.stderr


def test_a_rollback_needs_no_images(repository: Repository, remote: Path) -> None:
    url = f"file://{remote}"
    for version in (V1, V2):
        repository.add(name(version))
        assert repository.command("-u", url).returncode == 0
    repository.images.rename(repository.root / "unmounted")
    done = rollback(repository, "-u", url)
    assert done.returncode == 0, done.stderr
    assert name(V2) not in (remote / "meta" / f"{SERIES}.json").read_text()


def test_one_series_is_listed_alone(repository: Repository, remote: Path) -> None:
    url = f"file://{remote}"
    repository.add(name(V1))
    repository.add(name(V2, FREE))
    assert repository.command("-u", url).returncode == 0
    listed = rollback(repository, "-u", url, "--list", "--series", SERIES)
    assert listed.stdout.endswith(f": {SERIES} {V1.replace('-', '')}\n")
    unknown = rollback(repository, "-u", url, "--list", "--series", "nobody")
    assert unknown.returncode == 1
    assert f"one of {SERIES}, {FREE}-amd64, found nobody" in unknown.stderr
