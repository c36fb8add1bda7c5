"""Connections are used again, but never one that is dead; and all of them can be ended at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from puavo_repository import retry
from puavo_repository.errors import ConnectionLostError, StoppedError
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.pool import Pool, abort_all
from puavo_repository.remote.sftp import session as sftp_session
from puavo_repository.remote.sftp import ssh
from puavo_repository.remote.sftp import tree as sftp_tree
from puavo_repository.remote.sftp.tree import SftpTree
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import OpenMode, Piece, RemoteTree
from puavo_repository.retry import with_retries
from support.servers import Proxy, Sshd, running

SILENCE = 2.0  # seconds: a loaded machine's server is not silent for as long


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    """An sshd of the test's own, whose sessions may be killed."""
    with running(Sshd(tmp_path / "sshd")) as started:
        yield started


def sessions(server: Sshd, number: signal.Signals) -> int:
    """Send a signal to every process that serves a connection; return how many there are."""
    assert server.process
    found = [server.process.pid]
    for process in found:
        for path in Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    for process in found[1:]:
        with contextlib.suppress(ProcessLookupError):  # it ended with the one before
            os.kill(process, number)
    return len(found) - 1


def fill(pool: Pool, count: int) -> None:
    """Have idle connections in a pool."""
    trees = [pool.take() for _ in range(count)]
    for tree in trees:
        tree.list("")
        pool.give(tree)


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSTOP])
def test_the_second_attempt_has_a_living_connection(
    server: Sshd, tmp_path: Path, death: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed ones end their connection; those that are halted only become silent."""
    monkeypatch.setattr(sftp_session, "SILENCE_TIMEOUT", SILENCE)
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)
    pool = Pool(lambda: SftpTree(server.target(tmp_path)), 5)
    fill(pool, 5)
    done = []

    def step() -> None:
        done.append(1)
        with pool.tree() as tree:
            assert "sshd" in tree.list("")

    try:
        assert sessions(server, death) >= 5
        with_retries(step)
        assert len(done) <= 2
    finally:
        sessions(server, signal.SIGCONT)
        pool.close()


def test_a_connection_that_is_known_to_be_dead_is_not_lent(server: Sshd, tmp_path: Path) -> None:
    pool = Pool(lambda: SftpTree(server.target(tmp_path)), 5)
    fill(pool, 3)
    first = pool.take()
    pool.give(first)
    assert pool.take() is first, "a living one is used again"
    pool.give(first)
    sessions(server, signal.SIGKILL)
    while any(tree.is_alive for tree in pool._all):  # each notices by itself
        time.sleep(0.01)
    with pool.tree() as tree:
        assert tree is not first
        tree.list("")
    pool.close()


def test_another_error_leaves_the_idle_ones(tmp_path: Path) -> None:
    pool = Pool(lambda: FolderTree(Target(path=str(tmp_path))), 5)
    one, other = pool.take(), pool.take()
    pool.give(other)
    pool.give(one)
    with pytest.raises(KeyError), pool.tree():
        raise KeyError
    assert not one.is_alive
    assert pool.take() is other
    pool.close()


def wait_in(pool: Pool, tmp_path: Path) -> tuple[threading.Thread, list[BaseException]]:
    """Have a thread wait for the answer of a server that has become silent."""
    errors: list[BaseException] = []
    waits = threading.Event()

    def work() -> None:
        try:
            with pool.tree() as tree, tree.open("file", OpenMode.CREATE) as file:
                waits.set()
                while True:
                    file.write(0, bytes(1 << 20))
                    file.flush()
        except BaseException as error:  # noqa: BLE001 - whatever it is
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert waits.wait(60)
    return thread, errors


@pytest.mark.parametrize("kind", ["folder", "sftp"])
def test_an_abort_ends_what_other_threads_do(sshd: Sshd, tmp_path: Path, kind: str) -> None:
    with Proxy(sshd.port) as proxy:

        def connect() -> RemoteTree:
            if kind == "folder":
                return FolderTree(Target(path=str(tmp_path)))
            return SftpTree(sshd.target(tmp_path, proxy.port))

        pool = Pool(connect, 5)
        thread, errors = wait_in(pool, tmp_path)
        if kind == "sftp":
            proxy.stall_after = proxy.sent + (1 << 20)
            time.sleep(0.3)
        abort_all()
        thread.join(30)  # silence is borne for longer
        ended = not thread.is_alive()
        proxy.heal()
        assert ended
        assert [type(error) for error in errors] == [StoppedError]

        refused: list[BaseException] = []
        connected = proxy.connections

        def late() -> None:
            try:
                pool.take()
            except StoppedError as error:
                refused.append(error)

        other = threading.Thread(target=late)
        other.start()
        other.join()
        assert len(refused) == 1
        assert proxy.connections == connected, "nothing is even begun"
        with pool.tree() as tree:
            tree.remove("file")  # whoever ended it may still put things in order
        pool.close()


def test_a_connection_that_is_made_meanwhile_is_not_lent(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    made: list[RemoteTree] = []
    errors: list[BaseException] = []

    def connect() -> RemoteTree:
        begun.set()
        go_on.wait(60)
        made.append(FolderTree(Target(path=str(tmp_path))))
        return made[-1]

    pool = Pool(connect, 5)

    def work() -> None:
        try:
            pool.take()
        except StoppedError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    pool.abort()
    go_on.set()
    thread.join(60)
    assert len(errors) == 1
    assert not made[0].is_alive


def test_a_closed_connection_does_nothing_more(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    for tree in (FolderTree(Target(path=str(tmp_path))), SftpTree(sshd.target(tmp_path))):
        file = tree.open("there", OpenMode.CHANGE)
        assert tree.is_alive
        tree.close()
        assert not tree.is_alive
        for step in (file.flush, file.sync, lambda file=file: file.write(0, b"x" * (1 << 20))):
            with pytest.raises(ConnectionLostError):
                step()
    assert (tmp_path / "there").read_bytes() == b""


def test_an_abort_ends_an_assembly(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(100))
    pool = Pool(lambda: SftpTree(sshd.target(tmp_path)), 1)
    under_way, errors = threading.Event(), []

    def pieces() -> Iterator[Piece]:
        for _ in range(1_000_000):
            yield Piece("source", 0, 100)
            under_way.set()

    def work() -> None:
        try:
            with pool.tree() as tree:
                tree.assemble("goal", pieces())
        except StoppedError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert under_way.wait(60)
    abort_all()
    thread.join(60)
    assert len(errors) == 1


def test_an_abort_right_before_an_assembly_has_its_connection_ends_it(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever closes a connection may have looked for the one beside it a moment too early."""
    (tmp_path / "source").write_bytes(bytes(100))
    tree, beside = SftpTree(sshd.target(tmp_path)), SftpTree(sshd.target(tmp_path))
    close = tree._session.close

    def late() -> None:
        tree._beside = beside  # as an assembly does at this very moment
        close()

    monkeypatch.setattr(tree._session, "close", late)
    tree.close()
    assert not tree.is_alive
    assert not beside.is_alive


def test_a_close_while_an_assembly_connects_ends_it(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(bytes(100))
    tree, connect = SftpTree(sshd.target(tmp_path)), ssh.connect

    def late(target: Target, *, compressed: bool) -> paramiko.Transport:
        tree.close()
        return connect(target, compressed=compressed)

    monkeypatch.setattr(sftp_tree, "connect", late)
    with pytest.raises(ConnectionLostError, match="was closed"):
        tree.assemble("goal", [Piece("source", 0, 1)])
    assert not (tmp_path / "goal").exists()


def test_what_an_assembly_sends_is_counted(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(100))
    tree = SftpTree(sshd.target(tmp_path))
    before = tree.sent
    tree.assemble("goal", [Piece("source", 0, 1) for _ in range(100)])
    assert tree.sent - before > 100 * 62
    tree.close()
