"""The command as a user meets it: options, output, exit status."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from puavo_repository.cli import process
from puavo_repository.cli.main import main
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.publish.publisher import PublishReport
from support.repository import (
    AMXA,
    COMMAND,
    ROOT,
    V1,
    V2,
    V3,
    Repository,
    check_mirror,
    name,
    public,
    run,
    snapshot,
)


def test_help_names_every_option(repository: Repository) -> None:
    done = repository.command("--help")
    assert done.returncode == 0
    for option in ("--repository", "--puavo-os", "--no-config", "--upload", "--dry-run", "--json"):
        assert option in done.stdout
    assert "IMAGE_DIR [MIRROR_DIR]" in done.stdout


@pytest.mark.parametrize("command", [[], ["audit"], ["rollback"]])
def test_every_option_is_explained_in_one_way_as_argparse_does(command: list[str]) -> None:
    text = run([*COMMAND, *command, "--help"]).stdout
    assert "folder with the images" in text
    assert not re.search(r"^(  \S.*  | {24})[A-Z][a-z]", text, re.MULTILINE)


def test_a_run_ends_with_a_report(repository: Repository) -> None:
    repository.seed()
    done = repository.command("-r", "images.example")
    assert done.returncode == 0, done.stderr
    assert f"{AMXA}-amd64" in done.stdout
    assert "5 images in 2 series, 9 rdiffs" in done.stdout
    assert repository.check() == 9
    assert repository.meta()[0]["urls"] == [f"https://images.example/{name(V1)}"]


def test_the_mirror_is_below_the_images_by_default(repository: Repository) -> None:
    repository.add(name(V1))
    for _ in range(2):
        done = run([*COMMAND, "images"], cwd=repository.root)
        assert done.returncode == 0, done.stderr
        assert "1 image in 1 series, 0 rdiffs" in done.stdout
    assert (repository.images / "mirror" / name(V1)).exists()
    assert (repository.images / "puavo-os" / "config" / "images" / "buster.json").exists()


def test_the_report_is_json_when_asked_for(repository: Repository) -> None:
    repository.seed()
    (repository.images / name(V3, "puavo-os-x-buster")).touch()
    done = repository.command("--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert len(report["rdiffs"]) == 9
    assert report["series"][0]["images"] == 4
    assert [failure["name"] for failure in report["failures"]] == [name(V3, "puavo-os-x-buster")]


def test_failures_are_named_on_stderr_and_the_rest_is_done(repository: Repository) -> None:
    repository.add(name(V1))
    (repository.images / name(V2)).write_bytes(b"")
    done = repository.command()
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("puavo-update-repository: error: ")
    assert name(V2) in last
    assert done.stderr.count("an empty file") == 1, "an error is told once"
    assert [image["filename"] for image in repository.meta()] == [name(V1)]


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(repository: Repository) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    before = snapshot(repository.root)
    done = repository.command("--dry-run")
    assert done.returncode == 0
    assert f"would read {name(V1)}" in done.stdout
    assert f"would make rdiffs/{AMXA}-{V1}--{V2}-amd64.rdiff" in done.stdout
    assert "2 images in 1 series; 2 to read, 2 rdiffs to make" in done.stdout
    assert snapshot(repository.root) == before
    assert not repository.mirror.exists()
    assert json.loads(repository.command("--dry-run", "--json").stdout)["fingerprints"] == [
        name(V1),
        name(V2),
    ]


def test_who_only_names_the_steps_loads_no_ssh_library() -> None:
    """As the scheduler does, which loads each DAG again and again."""
    rooms = "audit.audit", "publish.run", "rollback.rollback"
    code = "import sys; " + "; ".join(f"import puavo_repository.{room}" for room in rooms)
    done = run([sys.executable, "-c", f"{code}; assert 'paramiko' not in sys.modules"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("module", "slow"), [("web.app", "numpy"), ("fleet.fold", "httpx")])
def test_what_airflow_loads_again_and_again_is_light(module: str, slow: str) -> None:
    code = f"import sys, puavo_repository.{module}; assert {slow!r} not in sys.modules"
    done = run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr


def test_a_run_without_news_loads_nothing_slow(repository: Repository) -> None:
    repository.add(name(V1))
    repository.prepare()
    code = (
        "import sys\nfrom puavo_repository.cli.main import main\nassert main(sys.argv[1:]) == 0\n"
        "slow = {'numba', 'numpy', 'paramiko', 'airflow', 'pydantic_settings', 'asyncio'}\n"
        "assert not slow & set(sys.modules)\n"
    )
    done = run([sys.executable, "-c", code, *repository.arguments()])
    assert done.returncode == 0, done.stderr


def test_a_mirror_is_published_where_it_is_asked_for(repository: Repository) -> None:
    repository.seed()
    remote = repository.root / "published here"
    url = f"file://{remote}".replace(" ", "%20")
    done = repository.command("--upload", url)
    assert done.returncode == 1
    assert done.stderr.count("there is no such folder") == 1, "an error is told once"
    assert repository.check() == 9
    remote.mkdir()
    done = repository.command("--upload", url, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"would publish to {url}, of the mirror as it is now:\n  rdiffs/" in done.stdout
    assert "rdiffs/" not in done.stderr, "the plan is told once"
    assert list(remote.iterdir()) == []
    done = repository.command("--upload", url, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("rdiffs/") == 9, "each file is told once"
    (published,) = json.loads(done.stdout)["published"]
    assert published["generation"] == 1
    assert public(remote) == public(repository.mirror)
    assert check_mirror(remote) == 9


def test_a_file_that_cannot_be_sent_is_named_once_with_the_way_out(repository: Repository) -> None:
    repository.add(name(V1))
    repository.prepare()
    remote = repository.root / "remote"
    remote.mkdir()
    image = repository.images / name(V1)
    before = image.stat()
    image.write_bytes(bytes(before.st_size))  # as if the disk had lost its content
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = repository.command("--upload", f"file://{remote}")
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if "not what the metadata" in line)
    assert line.startswith(f"puavo-update-repository: error: file://{remote}: {name(V1)}: ")


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError(5, "as if the disk is lost")])
def test_whatever_ends_a_run_each_error_before_it_is_told_once(
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: BaseException,
) -> None:
    repository.add(name(V1))
    (repository.images / name(V2)).write_bytes(b"no image of anything")
    nowhere, remote = (
        f"file://{repository.root}/{one}".replace(" ", "%20") for one in ("nowhere", "remote")
    )
    (repository.root / "remote").mkdir()
    monkeypatch.setattr(process, "end_on_signals", lambda: None)

    def ended(*_: object) -> None:
        raise end

    monkeypatch.setattr(PublishReport, "saw", ended)
    arguments = repository.arguments("--upload", nowhere, "--upload", remote)
    assert main(arguments) in (1, 130)
    said = capsys.readouterr().err
    assert said.count("not a squashfs image") == 1, said
    assert said.count("there is no such folder") == 1, said
    assert ("as if the disk is lost" in said) == isinstance(end, OSError)


def test_a_place_that_cannot_be_published_to_stops_before_the_work(repository: Repository) -> None:
    repository.add(name(V1))
    done = repository.command("--upload", "ftp://host/path")
    assert done.returncode == 2
    assert not repository.mirror.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["/nowhere"], "/nowhere: there is no such folder"),
        ([], "IMAGE_DIR: is not set"),
        (["-r", "ftp://x", "."], "no host"),
    ],
)
def test_bad_usage_exits_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = run([*COMMAND, *arguments], cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_mirror_on_top_of_its_images_is_refused(repository: Repository) -> None:
    image = repository.add(name(V1))
    done = repository.command(str(repository.images), str(repository.images))
    assert done.returncode == 2
    done = run([*COMMAND, repository.images, repository.images])
    assert done.returncode == 2
    assert "cannot be, or lie around" in done.stderr
    assert image.exists()


def test_a_bad_configuration_stops_with_nothing_changed(repository: Repository) -> None:
    repository.add(name(V1))
    repository.write_config("buster", '{"s": ["../x-2022-01-01-120000-amd64.img"]}')
    before = snapshot(repository.root)
    done = repository.command("-n")
    assert done.returncode == 2
    assert "buster.json" in done.stderr
    assert "../x" in done.stderr
    assert public(repository.mirror) == {}
    assert {k: v for k, v in snapshot(repository.root).items() if "lock" not in k} == before


def test_an_absent_image_is_named_and_the_rest_is_described(repository: Repository) -> None:
    repository.add(name(V1))
    repository.write_config("buster", {f"{AMXA}-amd64": [name(V1), name(V2)]})
    done = repository.command("-n")
    assert done.returncode == 1
    assert f"{name(V2)}: series {AMXA}-amd64 names this image" in done.stderr
    assert [image["filename"] for image in repository.meta()] == [name(V1)]


def test_another_run_is_named(repository: Repository) -> None:
    repository.add(name(V1))
    with Mirror(repository.mirror).locked("DAG run tonight"):
        done = repository.command()
    assert done.returncode == 1
    assert "another run is at work on this mirror: DAG run tonight" in done.stderr
    assert repository.command().returncode == 0


@pytest.mark.alike(1)
@pytest.mark.parametrize(
    ("removal", "package"),
    [
        ("import shutil; shutil.which = lambda *a, **k: None", "squashfs-tools"),
        (
            "from puavo_repository.delta import librsync; librsync.LIBRSYNC = 'libmissing.so.2'",
            "librsync2",
        ),
    ],
)
def test_a_missing_tool_is_named_before_any_work(
    repository: Repository, removal: str, package: str
) -> None:
    repository.add(name(V1))
    start = "import sys\nfrom puavo_repository.cli.main import main\n"
    code = f"{start}{removal}\nsys.exit(main(sys.argv[1:]))"
    done = run([sys.executable, "-c", code, *repository.arguments()])
    assert done.returncode == 2
    assert package in done.stderr


@pytest.fixture
def open_repository() -> Iterator[Repository]:
    """Return a repository where other users can reach it; pytest's own folder is private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Repository(Path(folder))


def test_a_read_only_mirror_is_named(open_repository: Repository) -> None:
    open_repository.add(name(V1))
    open_repository.mirror.mkdir(mode=0o555)
    done = run_as_nobody(open_repository)
    assert done.returncode == 1
    assert f"{open_repository.mirror}" in done.stderr
    assert "Permission denied" in done.stderr


def test_an_unreadable_image_is_named_and_the_rest_is_done(open_repository: Repository) -> None:
    open_repository.add(name(V1))
    open_repository.add(name(V2)).chmod(0o000)
    done = run_as_nobody(open_repository)
    assert done.returncode == 1
    assert f"{name(V2)}: Permission denied" in done.stderr
    assert [image["filename"] for image in open_repository.meta()] == [name(V1)]


def test_an_ordinary_user_needs_no_root(open_repository: Repository) -> None:
    for version in (V1, V2):
        open_repository.add(name(version))
    done = run_as_nobody(open_repository)
    assert done.returncode == 0, done.stderr
    assert open_repository.check() == 2


# This machine's Python may lie where only root can read: a first run elsewhere loads all of it.
AS_NOBODY = """
import contextlib, io, os, pwd, sys
from puavo_repository.cli.main import main
if os.getuid() == 0:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main([sys.argv.pop(1)]) == 0
    user = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
os.chdir("/")
sys.exit(main(sys.argv[1:]))
"""


def run_as_nobody(repository: Repository) -> subprocess.CompletedProcess[str]:
    """Run the command as a user who is not root."""
    first = []
    if os.getuid() == 0:
        elsewhere = Repository(repository.root / "elsewhere")
        for version in (V1, V2):
            elsewhere.add(name(version))
        first = [str(elsewhere.images)]
        user = pwd.getpwnam("nobody")
        for path in (repository.root, *repository.root.rglob("*")):
            shutil.chown(path, user.pw_uid, user.pw_gid)
    return run([sys.executable, "-c", AS_NOBODY, *first, *repository.arguments()])


def test_the_script_finds_its_python(repository: Repository, tmp_path: Path) -> None:
    script = tmp_path / "puavo-update-repository"
    shutil.copy(ROOT / "puavo-update-repository", script)
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "make setup" in done.stderr
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "include").symlink_to(ROOT / "include")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
