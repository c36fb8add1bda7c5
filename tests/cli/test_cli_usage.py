"""``usage`` of the command."""

from __future__ import annotations

import json

import pytest

from puavo_repository.formats.names import rdiff_name
from support.fleet import DAY, built, line, offer
from support.repository import Repository

OLD, NEW = built(0), built(1)


@pytest.fixture
def log(repository: Repository) -> str:
    rdiff = rdiff_name(OLD, NEW)
    offer(repository.mirror, {OLD: 50_000_000, NEW: 50_000_000}, {(OLD, NEW): 2_000_000})
    path = repository.root / "access.log"
    path.write_text(
        "".join(line(f"rdiffs/{rdiff}", 2_000_000, address=f"::{n}") for n in range(30))
        + "".join(line(NEW, 50_000_000, address=f"::{n}") for n in range(3))
    )
    return str(path)


def test_usage_reads_logs_and_shows_figures(repository: Repository, log: str) -> None:
    done = repository.command("usage", "--log", log)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert " ".join(lines[1].split()) == f"{DAY} 60.0 MB 150.0 MB 0 B 0 B 1.44 GB 30"
    assert "puavo-os-amxa-buster-amd64: 33 clients" in done.stdout
    assert "policy" not in done.stdout
    again = repository.command("usage", "--json", "--policies", "--days", "30", "--log", log)
    (day,) = json.loads(again.stdout)["days"]
    assert [one["policy"] for one in json.loads(again.stdout)["policies"]][-1] == "demand 0.99"
    table = repository.command("usage", "--policies", "--log", log).stdout
    assert "What each policy would have made and saved in the last 90 days:" in table
    assert (day["rdiffs"], day["saved"], day["clients"]) == (60_000_000, 1_440_000_000, 30)


def test_usage_says_what_is_missing(repository: Repository, log: str) -> None:
    done = repository.command("usage")
    assert done.returncode == 2
    assert "PUAVO_REPOSITORY_USAGE_LOGS: no log is named" in done.stderr
    done = repository.command("usage", "--log", f"{log}.nothing")
    assert done.returncode == 2
    assert "no such file is there" in done.stderr
    done = repository.command("usage", "--log", "relative.log")
    assert done.returncode == 2
    assert "--log" in done.stderr
    done = repository.command("usage", "--log", "my-server:/var/log/nginx/access.log*")
    assert "only the DAGs can use" in done.stderr


@pytest.mark.parametrize("days", ["0", "-1", "9999999999"])
def test_usage_refuses_days_that_no_calendar_has(
    repository: Repository, log: str, days: str
) -> None:
    done = repository.command("usage", "--policies", "--days", days, "--log", log)
    assert done.returncode == 2
    assert "--days: not a number of days (expected 1 to 36500)" in done.stderr
