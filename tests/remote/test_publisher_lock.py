"""Two publishers at once notice each other, whatever their clocks say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from puavo_repository.errors import (
    ConnectionLostError,
    LockedError,
    RepositoryError,
    StorageError,
    StorageRefusedError,
)
from puavo_repository.remote import journal
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.lock import PATH, Holder, PublisherLock, server_time
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import OpenMode, RemoteFile, RemoteStat
from support.instead import have_time, instead
from support.servers import elsewhere


@pytest.fixture
def tree(tmp_path: Path) -> FolderTree:
    return FolderTree(Target(path=str(tmp_path)))


def lock_of(tree: FolderTree, token: str) -> PublisherLock:
    return PublisherLock(tree, elsewhere(token))


def test_a_second_publisher_is_told_who_holds_it(tree: FolderTree) -> None:
    first = lock_of(tree, "first")
    first.acquire()
    with pytest.raises(LockedError, match="process 7 on first"):
        lock_of(tree, "second").acquire()
    first.check()
    first.release()
    lock_of(tree, "second").acquire()


def test_a_token_is_what_counts_and_no_other_step_has_it(tree: FolderTree, tmp_path: Path) -> None:
    first = lock_of(tree, "first")
    first.acquire()
    written = json.loads((tmp_path / PATH).read_bytes())
    (tmp_path / PATH).write_text(json.dumps({**written, "host": "renamed", "process": 1}))
    first.check()
    assert Holder.this_process().token != Holder.this_process().token


def test_who_asks_waits_for_who_uses_the_connection(tree: FolderTree) -> None:
    """The threads of a step save, send and look at the lock over the same one."""
    one = PublisherLock(tree)
    one.acquire()
    asking = threading.Thread(target=one.check, daemon=True)
    with one.using:
        asking.start()
        asking.join(0.2)
        assert asking.is_alive()
    asking.join(10)
    assert not asking.is_alive()


def test_a_lock_that_could_not_be_given_back_holds_up_no_later_step(
    tree: FolderTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> FolderTree:
        raise ConnectionLostError(tree.name, "the network is down")

    monkeypatch.setattr(tree, "another", nowhere)
    with PublisherLock(tree).held():
        tree.close()
    assert (tmp_path / PATH).exists()
    PublisherLock(FolderTree(Target(path=str(tmp_path)))).acquire()


def test_a_host_may_have_any_name(tree: FolderTree, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, publisher_lock, socket, gethostname=lambda: "höst\udcff")
    one = PublisherLock(tree)
    one.acquire()
    one.check()
    with pytest.raises(LockedError, match=r"on höst"):
        lock_of(tree, "second").acquire()


def test_a_holder_that_died_here_does_not_hold_it_up(tree: FolderTree) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from puavo_repository.remote.folder import FolderTree\n"
        "from puavo_repository.remote.lock import *\n"
        "from puavo_repository.remote.target import Target\n"
        "PublisherLock(FolderTree(Target(path=sys.argv[1])), Holder.this_process()).acquire()\n"
    )
    include = str(Path(publisher_lock.__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", script, tree._target.path],
        check=True,
        env={**os.environ, "PYTHONPATH": include},
    )
    assert tree.stat(PATH) is not None
    PublisherLock(tree, Holder.this_process()).acquire()


def test_a_living_holder_here_keeps_it(tree: FolderTree) -> None:
    PublisherLock(tree, Holder.this_process()).acquire()
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        PublisherLock(tree, Holder.this_process()).acquire()


def test_a_holder_here_that_retired_does_not_hold_it_up(tree: FolderTree) -> None:
    first = Holder.this_process()
    PublisherLock(tree, first).acquire()
    first.retire()
    PublisherLock(tree, Holder.this_process()).acquire()


def test_a_connection_that_is_lost_while_the_lock_is_taken_holds_no_retry_up(
    tree: FolderTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_tree: FolderTree) -> list[str]:
        raise ConnectionLostError("the server", "went dark")

    with monkeypatch.context() as patched:
        patched.setattr(publisher_lock, "lock_debris", lost)  # what follows its rename
        with pytest.raises(ConnectionLostError), PublisherLock(tree).held():
            pass
    with PublisherLock(tree).held():
        pass


def test_only_the_servers_clock_counts(tree: FolderTree, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_of(tree, "first").acquire()
    clock = [0.0]
    have_time(monkeypatch, lambda: clock[0])
    for clock[0] in (0.0, 4e9):
        with pytest.raises(LockedError):
            lock_of(tree, "second").acquire()


def test_a_silent_holder_loses_it_and_notices(tree: FolderTree, tmp_path: Path) -> None:
    first = lock_of(tree, "first")
    first.acquire()
    long_ago = time.time() - publisher_lock.EXPIRY - 5
    os.utime(tmp_path / PATH, (long_ago, long_ago))
    lock_of(tree, "second").acquire()
    with pytest.raises(LockedError, match="taken over"):
        first.check()
    first.release()
    lock_of(tree, "second").check()


@pytest.mark.parametrize("lost", [True, False])
def test_what_fails_for_good_may_be_what_another_does_who_took_over(
    tree: FolderTree, tmp_path: Path, *, lost: bool
) -> None:
    def fail() -> None:
        with lock_of(tree, "first").held():
            if lost:
                os.utime(tmp_path / PATH, (1, 1))
                lock_of(tree, "second").acquire()
            tree.open("gone", OpenMode.READ)

    with pytest.raises(LockedError if lost else StorageRefusedError):
        fail()


def test_what_is_cleared_away_before_the_lock_has_its_name_is_made_again(
    tree: FolderTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = FolderTree.rename_exclusive

    def too_late(self: FolderTree, path: str, new: str) -> None:
        monkeypatch.undo()
        other = lock_of(tree, "other")
        other.acquire()
        other.release()
        rename(self, path, new)

    monkeypatch.setattr(FolderTree, "rename_exclusive", too_late)
    one = lock_of(tree, "one")
    one.acquire()
    one.check()


def test_who_took_the_lock_without_being_told_has_it(
    tree: FolderTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = FolderTree.rename_exclusive

    def unsaid(self: FolderTree, path: str, new: str) -> None:
        rename(self, path, new)
        raise StorageError(new, "the server says: Failure")

    monkeypatch.setattr(FolderTree, "rename_exclusive", unsaid)
    with PublisherLock(tree).held():
        pass
    assert tree.stat(PATH) is None


def test_a_remote_that_may_not_be_written_is_not_called_taken_over(
    tree: FolderTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_tree: FolderTree, path: str) -> None:
        raise StorageRefusedError(path, "not for you")

    monkeypatch.setattr(FolderTree, "make_folder", refuse)
    with pytest.raises(StorageRefusedError, match="for you"), lock_of(tree, "first").held():
        pass


def test_who_is_slower_does_not_take_the_lock_from_who_was_faster(
    tree: FolderTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_of(tree, "gone").acquire()
    long_ago = time.time() - publisher_lock.EXPIRY - 5
    os.utime(tmp_path / PATH, (long_ago, long_ago))
    rename = FolderTree.rename

    def too_late(self: FolderTree, path: str, new: str) -> None:
        monkeypatch.undo()
        lock_of(tree, "faster").acquire()
        rename(self, path, new)

    monkeypatch.setattr(FolderTree, "rename", too_late)
    with pytest.raises(LockedError):
        lock_of(tree, "slower").acquire()
    lock_of(tree, "faster").check()


def test_a_lock_of_the_future_does_not_stay_for_ever(tree: FolderTree, tmp_path: Path) -> None:
    first = lock_of(tree, "first")
    first.acquire()
    next_year = time.time() + 365 * 24 * 3600
    os.utime(tmp_path / PATH, (next_year, next_year))
    lock_of(tree, "second").acquire()
    with pytest.raises(LockedError, match="taken over"):
        first.check()


def test_a_sign_of_life_keeps_it(tree: FolderTree, tmp_path: Path) -> None:
    first = lock_of(tree, "first")
    first.acquire()
    long_ago = time.time() - publisher_lock.EXPIRY - 5
    os.utime(tmp_path / PATH, (long_ago, long_ago))
    assert abs(first.beat(tree) - (server_time(tree, "x") or 0)) <= 2
    with pytest.raises(LockedError):
        lock_of(tree, "second").acquire()


def test_an_unreadable_lock_holds_until_it_expires(tree: FolderTree, tmp_path: Path) -> None:
    tree.make_folder(journal.FOLDER)
    (tmp_path / PATH).write_bytes(b"")
    with pytest.raises(LockedError, match="not said who"):
        lock_of(tree, "second").acquire()
    long_ago = time.time() - publisher_lock.EXPIRY - 5
    os.utime(tmp_path / PATH, (long_ago, long_ago))
    lock_of(tree, "second").acquire()


def test_it_is_kept_alive_while_it_is_held_and_then_given_back(
    tree: FolderTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_lock, "BEAT", 0.01)
    with lock_of(tree, "first").held():
        os.utime(tmp_path / PATH, (1, 1))
        end = time.monotonic() + 20
        while (tmp_path / PATH).stat().st_mtime < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert (tmp_path / PATH).stat().st_mtime > 2
    assert tree.stat(PATH) is None


def test_a_sign_of_life_is_not_given_for_another(tree: FolderTree, tmp_path: Path) -> None:
    first = lock_of(tree, "first")
    first.acquire()
    long_ago = time.time() - publisher_lock.EXPIRY - 5
    os.utime(tmp_path / PATH, (long_ago, long_ago))
    lock_of(tree, "second").acquire()
    with pytest.raises(LockedError, match="taken over"):
        first.beat(tree)
    lock_of(tree, "second").check()
    (tmp_path / PATH).unlink()
    with pytest.raises(LockedError, match="taken over"):
        first.check()


def test_a_sign_of_life_is_not_given_for_another_that_took_over_at_that_moment(
    tree: FolderTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lock_of(tree, "first")
    first.acquire()
    opened = FolderTree.open

    def too_late(
        self: FolderTree, path: str, access: OpenMode, seen: RemoteStat | None = None
    ) -> RemoteFile:
        if path == PATH and access is OpenMode.CHANGE:
            monkeypatch.undo()
            (tmp_path / PATH).unlink()
            lock_of(tree, "second").acquire()
        return opened(self, path, access, seen)

    monkeypatch.setattr(FolderTree, "open", too_late)
    with pytest.raises(LockedError, match="taken over"):
        first.beat(tree)
    lock_of(tree, "second").check()


def test_a_sign_of_life_makes_no_lock_where_it_was_just_given_back(
    tree: FolderTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lock_of(tree, "first")
    first.acquire()
    opened = FolderTree.open

    def too_late(
        self: FolderTree, path: str, access: OpenMode, seen: RemoteStat | None = None
    ) -> RemoteFile:
        if path == PATH and access is not OpenMode.READ:
            monkeypatch.undo()
            first.release()
        return opened(self, path, access, seen)

    monkeypatch.setattr(FolderTree, "open", too_late)
    with pytest.raises(RepositoryError):
        first.beat(tree)
    assert tree.stat(PATH) is None
    lock_of(tree, "second").acquire()


def test_what_dead_publishers_left_is_cleared(tree: FolderTree, tmp_path: Path) -> None:
    tree.make_folder(journal.FOLDER)
    (tmp_path / f"{PATH}.gone").write_bytes(b"x")
    (tmp_path / journal.FOLDER / ".now.gone").touch()
    (tmp_path / journal.FOLDER / ".journal.json.part").touch()
    lock_of(tree, "first").acquire()
    assert [path.name for path in (tmp_path / journal.FOLDER).iterdir()] == ["publisher.lock"]
