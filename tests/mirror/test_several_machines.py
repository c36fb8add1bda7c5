"""Two machines on one shared disk, one of which was cut off and has lost its locks."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from puavo_repository.errors import LockedError, StorageError
from puavo_repository.formats.cksum import PosixCksum, reverse_bits
from puavo_repository.formats.metadata import Document
from puavo_repository.mirror import files, records
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror, place
from puavo_repository.mirror.records import WrittenRecord, mirror_id
from puavo_repository.prepare.describe import remove_stale
from puavo_repository.prepare.plan import DiffState, look
from puavo_repository.prepare.policy import Pair
from support.instead import instead
from support.repository import V1, V2, Repository, environment, name, public, snapshot

ONE, TWO = name(V1), name(V2)

# What another machine does; ``asleep`` loses its locks, as a server takes them from a client that
# it hears nothing of, and waits. The client is not told.
SCRIPT = """
import fcntl, os, sys
from pathlib import Path
from puavo_repository import settings
from puavo_repository.mirror.mirror import Mirror

places = dict(zip(settings.FOLDERS, sys.argv[1:4]))
here = settings.load({{**places, **{more}}}, {{}})
mirror = here.mirror_dir

def asleep():
    for entry in Path("/proc/self/fd").iterdir():
        if os.path.lexists(entry) and entry.readlink().name.endswith("lock"):
            fcntl.flock(int(entry.name), fcntl.LOCK_UN)
    print("asleep", flush=True)
    sys.stdin.readline()

{code}
"""

LATE_DIFF = """
from puavo_repository.prepare import diff
from puavo_repository.prepare.describe import remove_stale
from puavo_repository.prepare.policy import Pair
check = diff._Job._check_images
calls = []
def last_look(job):
    check(job)
    calls.append(job)
    if len(calls) == 2:  # it is made and proven, and has no name yet
        asleep()
diff._Job._check_images = last_look
with Mirror(mirror).locked("DAG run", shared=True):
    print(diff.diff(here, Pair(*sys.argv[4:])).name)
"""

LATE_DESCRIBE = """
from puavo_repository.prepare import describe
look = describe.look
def slow(settings):
    found = look(settings)
    asleep()
    return found
describe.look = slow
with Mirror(mirror).locked("DAG run"):
    describe.describe(here)
"""


@contextmanager
def another_machine(
    repository: Repository, code: str, *arguments: str, **more: object
) -> Iterator[subprocess.Popen[str]]:
    """Run code on a machine with another name and other process ids, until it sleeps."""
    if os.geteuid() != 0:
        pytest.skip("another host name needs root")
    script = SCRIPT.format(code=code, more=more)
    places = [repository.images, repository.mirror, repository.puavo_os]
    named = ["unshare", "--uts", "--pid", "--fork", "sh", "-c", 'hostname other && exec "$@"', "sh"]
    with subprocess.Popen(
        [*named, sys.executable, "-c", script, *places, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout
        said = process.stdout.readline()
        assert said == "asleep\n", process.communicate()[1]
        yield process


def wakes(process: subprocess.Popen[str]) -> str:
    """Let it go on to its end; return what it says."""
    said, errors = process.communicate("\n", timeout=60)
    return said + errors


@pytest.fixture
def repository(repository: Repository) -> Repository:
    for image in (ONE, TWO):
        repository.add(image)
    return repository


@pytest.fixture(params=[False, True])
def pair(repository: Repository, request: pytest.FixtureRequest) -> Pair:
    """Return a pair that is to be made; its name is free, or its rdiff is of another image."""
    pair = Pair(ONE, TWO)
    repository.prepare()
    if request.param:
        repository.images.joinpath(ONE).unlink()
        repository.add(ONE, size=70_000)
    else:
        Mirror(repository.mirror).remove_from_metadata({f"rdiffs/{pair.rdiff}"})
        repository.mirror.joinpath("rdiffs", pair.rdiff).unlink()
    return pair


@pytest.mark.alike(1)
def test_a_late_rdiff_that_is_the_same_is_done(repository: Repository, pair: Pair) -> None:
    with another_machine(repository, LATE_DIFF, ONE, TWO) as other:
        assert repository.prepare().ok
        before = snapshot(repository.mirror)
        assert wakes(other) == f"{pair.rdiff}\n"
    record = f".puavo-repository/rdiffs/{pair.rdiff}.json"  # it has the time
    after = snapshot(repository.mirror)
    assert {path for path in after if after[path] != before.get(path)} <= {record}
    assert repository.check() == 2


@pytest.mark.alike(1)
def test_a_late_rdiff_takes_no_other_place(repository: Repository, pair: Pair) -> None:
    # Another engine, so that its bytes differ.
    with another_machine(repository, LATE_DIFF, ONE, TWO, engine="librsync") as other:
        assert repository.prepare().ok
        before = snapshot(repository.mirror)
        assert "another process put a file there meanwhile" in wakes(other)
    after = snapshot(repository.mirror)
    failure = f".puavo-repository/failures/{pair.rdiff}.json"  # what became of that late try
    assert {path for path in after if after[path] != before.get(path)} <= {failure}
    assert repository.check() == 2
    assert repository.prepare().ok
    assert snapshot(repository.mirror) == before


def test_who_lost_the_lock_describes_nothing(repository: Repository) -> None:
    repository.prepare()
    with another_machine(repository, LATE_DESCRIBE, allow_mass_delete=True) as other:
        for image in (ONE, TWO):  # of the night that it knows
            repository.images.joinpath(image).unlink()
        repository.add(name("2022-01-17-120001"))
        assert repository.prepare(allow_mass_delete=True).ok
        before = public(repository.mirror)
        assert "LockedError" in wakes(other)
    assert public(repository.mirror) == before


def test_who_lost_the_lock_removes_and_replaces_nothing(repository: Repository) -> None:
    repository.prepare()
    mirror, there = Mirror(repository.mirror), snapshot(repository.mirror)
    plan = replace(look(repository.settings()), stale=(f"rdiffs/{Pair(ONE, TWO).rdiff}",))
    mirror.remove_from_metadata(plan.stale)
    record = mirror.state.images.get(ONE)
    assert record
    with mirror.locked("a run"):
        mirror.state.lock.write_text("another machine")
        with pytest.raises(LockedError, match="taken over"):
            remove_stale(mirror, plan)
        with pytest.raises(LockedError, match="taken over"):
            place(mirror, repository.images / ONE, replace(record, identity=Identity(1, 1)))
    files = (ONE, TWO, plan.stale[0])
    assert {path: snapshot(repository.mirror)[path] for path in files} == {
        path: there[path] for path in files
    }


def test_metadata_is_not_finished_by_who_lost_its_lock(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.prepare()
    mirror, write = Mirror(repository.mirror), files.write

    def slow(path: Path, content: bytes) -> None:
        if path.parent == mirror.meta:
            mirror.state.metadata_lock.write_text("another machine")
        write(path, content)

    before = mirror.cksums.read_bytes()
    monkeypatch.setattr(files, "write", slow)
    with pytest.raises(LockedError, match="taken over"):
        mirror.remove_from_metadata({ONE})
    assert mirror.cksums.read_bytes() == before


@pytest.mark.parametrize("changed", [True, False])
def test_what_was_written_is_not_noted_by_who_lost_its_lock(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, *, changed: bool
) -> None:
    """What the machine that took over has noted stays, or its mirror could not be published."""
    repository.prepare()
    mirror = Mirror(repository.mirror)
    there, noted = mirror.documents(), mirror.state.written
    of_other = WrittenRecord("description", {"meta/other.json": ["its digest"]})

    def slow() -> Iterator[tuple[str, Document]]:
        yield from ({} if changed else there).items()
        mirror.state.metadata_lock.write_text("another machine")
        noted.put(of_other)

    with pytest.raises(LockedError, match="taken over"):
        mirror.describe(slow())
    assert noted.get("description") == of_other


def test_a_name_is_claimed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    for content in (b"first", b"first of the next"):
        with files.part_of(path) as slow:
            before = files.seen(path)
            slow.write_bytes(b"too late")
            with files.part_of(path) as fast:
                fast.write_bytes(content)
                files.claim(fast, path, before)
            with pytest.raises(StorageError, match="meanwhile"):
                files.claim(slow, path, before)
        assert path.read_bytes() == content
        assert os.listdir(tmp_path) == ["f"]

    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    instead(monkeypatch, files, os, link=refused)  # on a disk without links
    with files.part_of(tmp_path / "g") as part:
        part.write_bytes(b"new")
        files.claim(part, tmp_path / "g", None)
    assert (tmp_path / "g").read_bytes() == b"new"


def test_two_publishers_know_one_mirror_by_one_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def token(size: int) -> str:
        time.sleep(0.2)  # the others come in between
        return secrets.token_hex(size)

    instead(monkeypatch, records, secrets, token_hex=token)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: mirror_id(tmp_path, make=True), range(4)))
    assert found == {mirror_id(tmp_path, make=False)} != {""}


def test_a_record_that_is_written_without_the_lock_is_left_alone(repository: Repository) -> None:
    mirror = Mirror(repository.mirror)
    path = mirror.state.folder / "audit.json"
    with files.new_file(path) as stream:
        with mirror.locked("another run"):
            pass
        stream.write(b"whole")
    assert path.read_bytes() == b"whole"


def test_what_another_machine_did_just_now_is_seen(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of a network file system sees a name as it was until its folder is opened."""
    repository.prepare()
    cached: dict[Path, os.stat_result | None] = {}
    lstat, names, at = os.lstat, files.names, Identity.at

    def found(path: Path) -> os.stat_result | None:
        with suppress(FileNotFoundError):
            return lstat(path)
        return None

    def stale(path: Path | str) -> os.stat_result:
        known = cached.setdefault(Path(path), found(Path(path)))
        if known is None:
            raise FileNotFoundError
        return known

    def stale_at(path: Path) -> Identity | None:
        with suppress(FileNotFoundError):
            return Identity.of_file(stale(path))
        return None

    def opened(folder: Path, pattern: str = "[!.]*") -> list[str]:
        cached.update({path: found(path) for path in cached if path.parent == folder})
        return names(folder, pattern)

    with monkeypatch.context() as here:
        instead(here, files, os, lstat=stale)
        here.setattr(files, "names", opened)
        here.setattr(Identity, "at", stale_at)
        look(repository.settings())
        with monkeypatch.context() as there:
            instead(there, files, os)
            there.setattr(files, "names", names)
            there.setattr(Identity, "at", at)
            repository.images.joinpath(ONE).unlink()
            repository.add(ONE, size=70_000)
            assert repository.prepare().ok
        assert set(look(repository.settings()).states.values()) == {DiffState.PRESENT}


def test_two_processes_that_compile_at_once_mix_up_nothing() -> None:
    """Numba does, where one compiles a kernel for other arguments than the other."""
    cksum = PosixCksum()
    for block in (b"read only", bytearray(b"writable")):
        cksum.update(memoryview(block))
    assert len(reverse_bits.signatures) == 1
