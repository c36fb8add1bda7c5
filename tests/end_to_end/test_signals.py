"""The command ends promptly when it is told to, and loses nothing by it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.repository import V1, V2, V3, V4, Repository, environment, name, public
from support.servers import Sshd


@pytest.mark.alike(1)
@pytest.mark.parametrize(("kind", "number"), [("sftp", signal.SIGTERM), ("file", signal.SIGINT)])
def test_a_signal_ends_small_uploads_at_once(
    repository: Repository, sshd: Sshd, tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    repository.seed()
    assert repository.prepare().ok
    remote = tmp_path / "remote"
    remote.mkdir()
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
    url = f"file://{remote}" if kind == "file" else f"sftp://127.0.0.1:{sshd.port}{remote}"
    more = {"SSH_KEY": str(sshd.client_key), "KNOWN_HOSTS": str(known)}
    slowly = {f"PUAVO_REPOSITORY_{key}": value for key, value in more.items()}
    command = [sys.executable, "-m", "puavo_repository.cli", *repository.arguments()]
    command += ["--upload", url.replace(" ", "%20")]
    slow = environment(**slowly, PUAVO_REPOSITORY_BANDWIDTH="50")
    with subprocess.Popen(command, env=slow, stderr=subprocess.PIPE, text=True) as run:
        end = time.monotonic() + 60
        while not list(remote.glob("rdiffs/.*.part")):
            assert run.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        run.send_signal(number)
        begun = time.monotonic()
        try:
            _, said = run.communicate(timeout=20)
        finally:
            run.kill()
        assert time.monotonic() - begun < 10
    assert run.returncode == 130
    assert "the next run goes on" in said
    assert "Traceback" not in said
    assert not list(remote.glob(".puavo-publish/publisher.lock")), "others need not wait"
    if kind == "sftp":
        done = subprocess.run(command, env=environment(**slowly), check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert public(remote) == public(repository.mirror)


def test_a_broken_off_run_says_so_and_goes_on_later(repository: Repository) -> None:
    for version in (V1, V2):
        repository.add(name(version), size=8_000_000)
    command = [sys.executable, "-m", "puavo_repository.cli", *repository.arguments()]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        run.stderr.readline()  # the first stage has begun
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "the next run goes on" in said
    repository.check(at_rest=False)
    assert repository.prepare().ok
    assert repository.check() == 2


def test_who_ends_a_run_has_been_told_of_each_error_before_that(repository: Repository) -> None:
    for version in (V1, V2):
        repository.add(name(version), size=8_000_000)
    (repository.images / name(V3)).write_bytes(b"no image of anything")
    (repository.images / name(V4)).symlink_to("nowhere")
    command = [sys.executable, "-m", "puavo_repository.cli", *repository.arguments()]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        said = ""
        for line in run.stderr:
            said += line
            if line.startswith("diff: "):
                break
        run.send_signal(signal.SIGTERM)
        said += run.communicate(timeout=60)[1]
    assert run.returncode == 130, said
    assert said.count(f"{name(V4)}: ") == 1, said
    assert said.count("not a squashfs image") == 1, said
