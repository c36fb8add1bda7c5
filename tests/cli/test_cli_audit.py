"""The command's audit: options, output, exit status."""

from __future__ import annotations

import json
import subprocess

import pytest

from support.audits import NEW, RDIFF, Audited, flip
from support.repository import COMMAND, environment, run


def command(audited: Audited, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    found = audited.repository
    places = ["-p", str(found.puavo_os), str(found.images), str(found.mirror)]
    return run([*COMMAND, "audit", *options, *places], env=environment(**more), timeout=60)


def test_a_sound_repository_is_told_so(audited: Audited) -> None:
    with audited.served() as server:
        done = command(
            audited,
            *("-r", server.url, "-u", audited.target.url, "--share", "1"),
            PUAVO_REPOSITORY_CA_FILE=str(server.certificate),
        )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "everything is as it should be")
    assert "canary: " in done.stdout
    assert "10 files read whole there" in done.stdout
    assert "error" not in done.stderr
    assert "HTTP" not in done.stderr


def test_an_error_is_named_on_stderr_and_in_the_exit_status(audited: Audited) -> None:
    flip(audited.remote / NEW)
    (audited.remote / "stray").touch()
    remotes = {"PUAVO_REPOSITORY_REMOTE": audited.target.url}
    done = command(audited, "--no-https", "--share", "1", **remotes)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()[-2:]
    said = f"puavo-update-repository: error: {audited.target.url}: {NEW}: is not the file"
    assert first.startswith(said)
    assert second.startswith(f"puavo-update-repository: warning: {audited.target.url}: stray: ")
    assert done.stdout.splitlines()[-1] == "errors: 1, warnings: 1"
    repaired = command(audited, "--no-https", "--share", "1", "--repair", "--json", **{
        **remotes, "PUAVO_REPOSITORY_REPLACE_PAUSE": "0",
    })  # fmt: skip
    assert repaired.returncode == 0, "a warning is left"
    report = json.loads(repaired.stdout)
    assert (report["ok"], report["turn"]) == (True, 2)
    assert [one["file"] for one in report["checks"][1]["repaired"]] == [NEW]
    assert [one["file"] for one in report["checks"][1]["findings"]] == ["stray"]


def test_what_clients_see_is_left_out_where_that_is_set(audited: Audited) -> None:
    flip(audited.mirror / RDIFF)
    done = command(audited, "--json", PUAVO_REPOSITORY_AUDIT_HTTPS="false")
    assert done.returncode == 1
    assert [check["where"] for check in json.loads(done.stdout)["checks"]] == ["local"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--share", "2"], "a share from 0 to 1"),
        (["--share", "x"], "--share: 'x' cannot be used"),
        (["-u", "ftp://host/path"], "no place to publish to"),
    ],
)
def test_bad_usage_exits_2(audited: Audited, options: list[str], says: str) -> None:
    done = command(audited, "--no-https", *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert "--help" not in done.stderr or "puavo-update-repository audit --help" in done.stderr


def test_help_names_every_option(audited: Audited) -> None:
    done = command(audited, "--help")
    assert done.returncode == 0
    for option in ("--repository", "--upload", "--share", "--no-https", "--repair", "--json"):
        assert option in done.stdout


def test_a_connection_of_airflow_is_not_left_out_in_silence(audited: Audited) -> None:
    done = command(audited, "--no-https", PUAVO_REPOSITORY_REMOTE=f"www {audited.target.url}")
    assert done.returncode == 2
    assert "www is an Airflow connection" in done.stderr
    assert "--upload" in done.stderr
