from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.errors import LockedError, StorageError, StorageRefusedError
from puavo_repository.mirror import files, locks
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.locks import locked
from support.instead import instead
from support.repository import environment


def test_a_file_has_its_old_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with files.new_file(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]


def test_a_failure_leaves_the_old_content_and_no_part_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), files.new_file(path) as stream:
        stream.write(b"new" * (1 // 0))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_writing_the_same_content_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "f"
    files.write(path, b"x")
    before = path.stat()
    files.write(path, b"x")
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert after.st_ctime_ns == before.st_ctime_ns


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with pytest.raises(StorageRefusedError, match="Free some space"), files.new_file(path):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_each_try_has_a_part_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with files.new_file(path) as dead:
        dead.write(b"of a try that is")
        with files.new_file(path) as alive:
            alive.write(b"whole")
        dead.write(b" thought dead")
        dead.flush()
        assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["f"]


def test_sweeping_removes_part_files_only(tmp_path: Path) -> None:
    for name in (".a.part", "a.part", ".keep", "b"):
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".keep", "a.part", "b"]


def test_sweeping_can_be_for_the_parts_of_one_file(tmp_path: Path) -> None:
    for name in (".a.json.1.part", ".b.json.1.part", "a.json"):
        (tmp_path / name).touch()
    files.sweep(tmp_path, of="a.json.")
    assert sorted(os.listdir(tmp_path)) == [".b.json.1.part", "a.json"]


def test_identity_is_of_regular_files_only(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("f")
    found = Identity.at(tmp_path / "f")
    assert found is not None
    assert found.size == 3
    assert Identity.at(tmp_path / "link") is None
    assert Identity.at(tmp_path) is None
    assert Identity.at(tmp_path / "nothing") is None


def test_the_lock_is_exclusive_and_names_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "mirror" / "state" / "lock"
    with locked(lock, "the first"):
        with pytest.raises(LockedError, match=f"the first, process {os.getpid()}"):
            locked(lock, "the second").__enter__()
        with pytest.raises(LockedError, match="the first"):
            locked(lock, "a reader", shared=True).__enter__()
    assert lock.read_bytes() == b""
    with locked(lock, "the second"):
        pass


def test_the_lock_is_shared_among_steps_of_one_run(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock, "one", shared=True):
        with locked(lock, "two", shared=True):
            assert b"two" in lock.read_bytes()
        with pytest.raises(LockedError):
            locked(lock, "a writer").__enter__()
    assert lock.read_bytes() == b""


def test_who_shares_a_lock_is_not_refused_while_another_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one holds it alone for a moment, since it empties the file."""
    lock, leaving = tmp_path / "lock", threading.Event()

    def slow(descriptor: int, size: int) -> None:
        if threading.current_thread() is first and os.fstat(descriptor).st_size:
            leaving.set()
            time.sleep(0.2)
        os.ftruncate(descriptor, size)

    def leave() -> None:
        with locked(lock, "the first", shared=True):
            pass

    first = threading.Thread(target=leave)
    instead(monkeypatch, locks, os, ftruncate=slow)
    first.start()
    assert leaving.wait(30)
    with locked(lock, "the second", shared=True):
        first.join()
        assert b"the second" in lock.read_bytes()
    assert lock.read_bytes() == b""


def test_a_killed_holder_loses_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys, time, pathlib\n"
        "from puavo_repository.mirror.locks import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), 'the killed'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(LockedError, match="the killed"):
            locked(lock, "me").__enter__()
        process.send_signal(signal.SIGKILL)
        process.wait()
    with locked(lock, "me"):
        assert b"me" in lock.read_bytes()


def test_a_lock_can_be_taken_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(monkeypatch, locks, os, ftruncate=_refuse, pwrite=_refuse)
    lock = tmp_path / "state" / "lock"
    with locked(lock, "a run"), pytest.raises(LockedError), locked(lock, "another"):
        pass


def test_a_part_that_cannot_be_removed_does_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse_below(tmp_path, "unlink", monkeypatch)
    with pytest.raises(StorageRefusedError, match="full"), files.new_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "full")
    assert list(tmp_path.iterdir()), "the part, which could not be removed"


def test_a_disk_that_fails_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse_below(tmp_path, "lstat", monkeypatch)
    instead(monkeypatch, files, os, listdir=_refuse)
    with pytest.raises(StorageError):
        Identity.at(tmp_path / "a")
    with pytest.raises(StorageError):
        files.listed(tmp_path, "*")


def _refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def _refuse_below(folder: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(Path, step)

    def refused(path: Path, *arguments: Any, **more: Any) -> Any:
        return (_refuse if folder in path.parents else real)(path, *arguments, **more)

    monkeypatch.setattr(Path, step, refused)


@pytest.mark.parametrize(("umask", "file", "folder"), [(0, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_nobody_else_may_write_what_is_made(
    tmp_path: Path, umask: int, file: int, folder: int
) -> None:
    before = os.umask(umask)
    try:
        files.write(tmp_path / "a" / "b" / "f", b"new")
        with locked(tmp_path / "a" / "lock", "a test"):
            pass
    finally:
        os.umask(before)
    for path in (tmp_path / "a" / "b" / "f", tmp_path / "a" / "lock"):
        assert stat.S_IMODE(path.stat().st_mode) == file
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(path.stat().st_mode) == folder


def test_content_is_durable_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    rename = Path.rename

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append(f"sync {path.name}: {path.read_text() if path.is_file() else ''}")
        os.fsync(descriptor)

    def renamed(self: Path, goal: Path) -> Path:
        if self.parent == tmp_path:
            steps.append(f"rename {goal.name}")
        return rename(self, goal)

    instead(monkeypatch, files, os, fsync=synced)
    monkeypatch.setattr(Path, "rename", renamed)
    files.write(tmp_path / "f", b"x")
    part = steps[0].removeprefix("sync ").removesuffix(": x")
    assert re.fullmatch(r"\.f\.[0-9a-f]{8}\.part", part)
    assert steps == [f"sync {part}: x", "rename f", f"sync {tmp_path.name}: "]


def test_who_waits_for_a_lock_gets_it_when_it_is_given_back(tmp_path: Path) -> None:
    lock, got = tmp_path / "lock", threading.Event()

    def wait() -> None:
        with locked(lock, "the second", wait=True):
            got.set()

    second = threading.Thread(target=wait)
    with locked(lock, "the first"):
        second.start()
        assert not got.wait(0.2)
    assert got.wait(30)
    second.join()
