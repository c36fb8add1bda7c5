"""What a kill, a lost answer or a power cut left on a remote: known as ours, and proven."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from puavo_repository import retry
from puavo_repository.errors import (
    ConnectionLostError,
    RepositoryError,
    StorageError,
)
from puavo_repository.progress import NO_WATCHER, Progress
from puavo_repository.publish import clean, send, switch, transfer, upload
from puavo_repository.publish.plan import Transfer, sha256
from puavo_repository.publish.publisher import LockedRemote, Publisher
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.documents import write_whole
from puavo_repository.remote.folder import FolderTree, _FolderFile
from puavo_repository.remote.journal import Part
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Range, RemoteTree
from support.mirrors import (
    KEEP,
    NOW,
    add_image,
    content,
    documents,
    image,
    journal_of,
    other_rdiff,
    prepare,
    publish,
    sum_up,
    tree_of,
    walk,
)


class PowerCut:
    """What a server's disk has after its power was cut: of each file what was synced last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._synced: dict[int, bytes] = {}
        sync = _FolderFile.sync

        def noted(file: _FolderFile) -> None:
            sync(file)
            descriptor = file._descriptor
            found = os.fstat(descriptor)
            self._synced[found.st_ino] = os.pread(descriptor, found.st_size, 0)

        monkeypatch.setattr(_FolderFile, "sync", noted)

    def strike(self, remote: Path) -> int:
        """Lose a piece of each part that was not synced; return how many lost one."""
        struck = 0
        for part in remote.rglob(".*.part"):
            synced = self._synced.get(part.stat().st_ino, b"")
            length = part.stat().st_size
            if length - len(synced) < 1 << 20:
                continue
            hole = min(max(len(synced), 2 << 20), length - (1 << 20))
            with part.open("r+b") as stream:
                stream.seek(hole)
                stream.write(bytes(1 << 20))
            struck += 1
        return struck


@pytest.mark.parametrize("how", ["upload", "assembly"])
def test_what_a_server_lost_when_its_power_was_cut_is_not_taken_for_sent(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    monkeypatch.setattr(upload, "LARGE", 1 << 20)
    monkeypatch.setattr(send, "AHEAD", 2 << 20)
    monkeypatch.setattr(send, "SYNC_EVERY", 8 << 20)
    if how == "assembly":
        big = [image(1), image(2)]
        (mirror / big[0]).write_bytes(content(9, 40 << 20))
        prepare(mirror, big[:1], pairs=[])
        assert publish(mirror, folder, KEEP).ok
        old = (mirror / big[0]).read_bytes()
        (mirror / big[1]).write_bytes(old[: 20 << 20] + b"new" + old[20 << 20 :])
        for rdiff in (mirror / "rdiffs").glob("*"):
            rdiff.unlink()
        prepare(mirror, big, pairs=[(big[0], big[1])])
    else:
        (mirror / image(2)).write_bytes(content(9, 40 << 20))
        prepare(mirror, [image(1), image(2)], pairs=[])
    cut, one = PowerCut(monkeypatch), KEEP.model_copy(update={"connections": 1})
    step = {"upload": "write", "assembly": "copy"}[how]
    real: Callable[..., None] = getattr(_FolderFile, step)
    left = 30 << 20

    def broken(file: _FolderFile, *arguments: object) -> None:
        nonlocal left
        size = arguments[2] if step == "copy" else len(arguments[1])  # type: ignore[arg-type]
        if isinstance(size, int) and size > 1000:
            left -= size
        if left < 0:
            raise StorageError("the server", "went dark")
        real(file, *arguments)

    if how == "assembly":
        # The kernel copies in one piece; a server is asked for many.
        whole = _FolderFile.copy

        def in_pieces(
            file: _FolderFile, source: _FolderFile, taken: Range, offset: int, done: Progress
        ) -> None:
            nonlocal left
            for at in range(0, taken.length, 1 << 20):
                piece = Range(taken.offset + at, min(1 << 20, taken.length - at))
                left -= piece.length
                if left < 0:
                    raise ConnectionLostError("the server", "went dark")
                whole(file, source, piece, offset + at, done)

        monkeypatch.setattr(_FolderFile, "copy", in_pieces)
    else:
        monkeypatch.setattr(_FolderFile, "write", broken)
    with contextlib.suppress(RepositoryError), Publisher(mirror, folder, one) as killed:
        upload.upload(killed)
        assert killed.report.failed
    assert cut.strike(remote) == 1
    left = 1 << 40
    assert publish(mirror, folder, KEEP).ok
    assert walk(remote) == []


def test_what_arrived_before_a_kill_is_known_as_ours(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, NOW).ok
    names = add_image(mirror, [image(1), image(2)])

    class KilledError(Exception):
        pass

    class KillingDict(dict[str, int]):
        def __setitem__(self, path: str, size: int) -> None:
            raise KilledError

    with Publisher(mirror, folder, NOW) as publisher:
        publisher.report.uploaded = publisher.report.assembled = KillingDict()
        with pytest.raises(KilledError):
            upload.upload(publisher)
    arrived = {path.name for path in remote.rglob("*") if path.is_file()} - {
        path.name for path in mirror.rglob("*") if image(3) not in path.name
    }
    assert arrived
    (mirror / image(3)).unlink()
    prepare(mirror, names[:2])
    for _ in range(2):
        assert publish(mirror, folder, NOW).ok
    assert tree_of(remote).keys() == {path for path in tree_of(mirror) if "2026-01-03" not in path}


def test_a_file_that_was_replaced_right_before_a_kill_is_known_as_ours(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, NOW).ok
    other_rdiff(mirror)
    prepare(mirror, [image(1), image(2)])
    rename_into_place = transfer.rename_into_place

    class KilledError(Exception):
        pass

    def killed(*arguments: object) -> None:
        rename_into_place(*arguments)  # type: ignore[arg-type]
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(switch, "rename_into_place", killed)
        with pytest.raises(KilledError):
            publish(mirror, folder, NOW)
    assert publish(mirror, folder, NOW).ok
    assert walk(remote) == []
    prepare(mirror, [image(1), image(2)], pairs=[])
    for _ in range(2):
        assert publish(mirror, folder, NOW).ok
    assert not list((remote / "rdiffs").iterdir())


@pytest.mark.parametrize(
    ("known", "then"),
    [
        (True, "published again"),
        (True, "gone"),
        (False, "published again"),
        (False, "gone"),
        (False, "changed by somebody"),
    ],
)
def test_metadata_that_was_written_right_before_the_server_went_is_known_as_ours(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch,
    known: bool, then: str,
) -> None:  # fmt: skip
    """It names the generation in which it was written; the journal could not be saved."""
    other = "puavo-os-other-bookworm-2026-01-01-120000-amd64.img"
    series = "puavo-os-other-bookworm-amd64"
    (mirror / other).write_bytes(content(1, 1000))
    if known:
        prepare(mirror, [other], series=series)
    assert publish(mirror, folder, NOW).ok
    (mirror / other.replace("01-01", "01-02")).write_bytes(content(2, 1000))
    prepare(mirror, [other, other.replace("01-01", "01-02")], series=series)
    save = LockedRemote.save
    dark = False

    def written(tree: RemoteTree, path: str, *more: Any) -> None:
        nonlocal dark
        write_whole(tree, path, *more)
        dark = path == f"meta/{series}.json"
        if dark:
            raise StorageError("the server", "went dark")

    def saved(held: LockedRemote) -> None:
        if dark:
            raise StorageError("the server", "went dark")
        save(held)

    with monkeypatch.context() as patched:
        patched.setattr(retry, "ATTEMPTS", 1)
        patched.setattr(publisher_lock, "write_whole", written)
        patched.setattr(LockedRemote, "save", saved)
        with pytest.raises(StorageError, match="went dark"):
            publish(mirror, folder, NOW)
    assert other.encode() in documents(remote)[f"meta/{series}.json"]
    if then == "published again":
        assert publish(mirror, folder, NOW).ok
    if then == "changed by somebody":
        with (remote / "meta" / f"{series}.json").open("ab") as stream:
            stream.write(b"\n")
    for path in (*mirror.glob("*other*"), *mirror.glob("*/*other*")):
        path.unlink()
    sum_up(mirror)
    assert publish(mirror, folder, NOW).ok
    theirs = then == "changed by somebody"
    assert (remote / "meta" / f"{series}.json").exists() == theirs
    assert theirs or tree_of(remote) == tree_of(mirror)


def test_metadata_that_was_removed_right_before_the_server_went_is_not_missed(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal could not be saved: the audit would miss it for ever."""
    other = "puavo-os-other-bookworm-2026-01-01-120000-amd64.img"
    series = "puavo-os-other-bookworm-amd64"
    (mirror / other).write_bytes(content(1, 1000))
    prepare(mirror, [other], series=series)
    assert publish(mirror, folder, NOW).ok
    (mirror / "meta" / f"{series}.json").unlink()
    sum_up(mirror)
    remove, dark = FolderTree.remove, False

    def removed(tree: FolderTree, path: str) -> None:
        nonlocal dark
        remove(tree, path)
        dark = dark or path == f"meta/{series}.json"
        if dark:
            raise StorageError("the server", "went dark")

    def saved(_held: LockedRemote) -> None:
        raise StorageError("the server", "went dark")

    with monkeypatch.context() as patched:
        patched.setattr(retry, "ATTEMPTS", 1)
        patched.setattr(FolderTree, "remove", removed)
        save = LockedRemote.save
        patched.setattr(LockedRemote, "save", lambda held: (saved if dark else save)(held))
        with pytest.raises(StorageError, match="went dark"):
            publish(mirror, folder, NOW)
    assert not (remote / "meta" / f"{series}.json").exists()
    assert publish(mirror, folder, NOW).ok
    assert f"meta/{series}.json" not in journal_of(folder).files


def test_a_switch_that_was_cut_short_while_a_file_was_withdrawn_is_done_by_its_retry(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, NOW).ok
    other_rdiff(mirror)
    prepare(mirror, [image(1), image(2)])

    def lost(_seconds: float) -> None:
        raise ConnectionLostError("the server", "went dark")

    with Publisher(mirror, folder, NOW) as publisher:
        upload.upload(publisher)
        with monkeypatch.context() as patched:
            patched.setattr(switch, "sleep", lost)
            with pytest.raises(ConnectionLostError):
                switch.switch(publisher)
        switch.switch(publisher)
        assert publisher.report.ok
    assert tree_of(remote) == tree_of(mirror)


def test_parts_that_nobody_goes_on_with_are_removed_and_others_stay(
    mirror: Path, remote: Path, folder: Target
) -> None:
    assert publish(mirror, folder, KEEP).ok
    add_image(mirror, [image(1), image(2)])
    wanted = f".{image(3)}.{sha256((mirror / image(3)).read_bytes())[:16]}.{'1' * 8}.part"
    debris = remote / f".{image(9)}.{'0' * 16}.{'0' * 8}.part"
    foreign = remote / ".theirs.part"
    for path in (remote / wanted, debris, foreign):
        path.write_bytes(b"x")
    with Publisher(mirror, folder).hold() as other:
        digest = sha256((mirror / image(3)).read_bytes())
        other.parts.put(image(3), Part(wanted, digest, synced=1))
    with Publisher(mirror, folder, KEEP) as publisher:
        clean.clean(publisher)
    assert [path.exists() for path in (remote / wanted, debris, foreign)] == [True, False, True]
    assert publish(mirror, folder, KEEP).ok
    assert [path.name for path in remote.glob(".*.part")] == [foreign.name]


def test_a_part_that_is_not_proven_or_of_another_content_gets_no_name(
    mirror: Path, remote: Path, folder: Target
) -> None:
    assert publish(mirror, folder, NOW).ok
    rdiff = next((mirror / "rdiffs").glob("*.rdiff"))
    path, old = f"rdiffs/{rdiff.name}", rdiff.read_bytes()
    rdiff.write_bytes(old[:-1] + b"\x01a\x00")
    prepare(mirror, [image(1), image(2)])
    size, digest = rdiff.stat().st_size, sha256(rdiff.read_bytes())
    part = f"rdiffs/.{rdiff.name}.{digest[:16]}.{'1' * 8}.part"
    for known in (Part(part, digest, size), Part(part, "0" * 64, size, proven=True)):
        (remote / part).write_bytes(bytes(size))
        with Publisher(mirror, folder).hold() as other:
            other.parts.forget([path])
            other.parts.put(path, known)
        with Publisher(mirror, folder, NOW) as publisher:
            switch.switch(publisher)
        assert (remote / path).read_bytes() == old
    assert publish(mirror, folder, NOW).ok
    assert tree_of(remote) == tree_of(mirror)


def test_a_file_that_vanishes_while_clients_are_told_of_it_fails_the_step(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    run = switch.Switch.run

    def robbed(self: switch.Switch, waiting: list[Transfer]) -> None:
        run(self, waiting)
        (remote / image(1)).unlink()

    monkeypatch.setattr(switch.Switch, "run", robbed)
    with pytest.raises(StorageError, match=r"2026-01-01.*not as the metadata there says"):
        publish(mirror, folder, KEEP)
    assert not journal_of(folder).verified


def test_a_name_whose_answer_was_lost_is_not_taken_for_another_s(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)
    assert publish(mirror, folder, NOW).ok
    names = add_image(mirror, [image(1), image(2)])
    name, lost = transfer.rename_into_place, []

    def unanswered(tree: RemoteTree, item: Transfer, part: str) -> int:
        mtime = name(tree, item, part)
        if item.path not in lost:
            lost.append(item.path)
            raise ConnectionLostError("the server", "went silent")
        return mtime

    monkeypatch.setattr(transfer, "rename_into_place", unanswered)
    assert publish(mirror, folder, NOW).ok
    assert lost
    monkeypatch.undo()
    assert walk(remote) == []
    prepare(mirror, names[:2])
    for _ in range(2):
        assert publish(mirror, folder, NOW).ok
    assert tree_of(remote).keys() == {p for p in tree_of(mirror) if "2026-01-03" not in p}


def test_what_is_acknowledged_during_a_sync_is_not_noted_as_synced() -> None:
    noted: list[Part] = []
    publisher = SimpleNamespace(watcher=NO_WATCHER)
    parts = SimpleNamespace(put=lambda _path, part: noted.append(part))
    remote: Any = SimpleNamespace(
        parts=parts, publisher=publisher, lock=SimpleNamespace(token="1" * 16)
    )
    item = Transfer("x.img", 2 * send.PIECE, "00")
    sending = send._Sending(item, 0, -1, remote, notes=True)
    taken = [sending._take(), sending._take()]
    assert all(taken)

    class File:
        def sync(self) -> None:
            for at in (0, send.PIECE):  # over another connection
                sending._acknowledged(at, send.PIECE)

    file: Any = File()
    sending._sync(file)
    sending._sync(SimpleNamespace(sync=lambda: None))  # type: ignore[arg-type]
    assert [part.synced for part in noted] == [0, 2 * send.PIECE]


def test_one_connection_waits_for_the_disk_while_the_others_send(
    mirror: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "SYNC_EVERY", 1 << 20)
    (mirror / image(1)).write_bytes(content(9, 40 << 20))
    prepare(mirror, [image(1)], pairs=[])
    lock, waiting, most, syncs, passed = threading.Lock(), 0, 0, 0, []
    sync, write = _FolderFile.sync, _FolderFile.write

    def slow(file: _FolderFile) -> None:
        nonlocal waiting, most, syncs
        large = image(1) in file._path
        with lock:
            waiting += large
            most = max(most, waiting)
            syncs += large
        time.sleep(0.03 if large else 0)
        sync(file)
        with lock:
            waiting -= large

    def noted(file: _FolderFile, *arguments: Any) -> None:
        passed.append(waiting)
        time.sleep(0.01 if image(1) in file._path else 0)
        write(file, *arguments)

    monkeypatch.setattr(_FolderFile, "sync", slow)
    monkeypatch.setattr(_FolderFile, "write", noted)
    assert publish(mirror, folder, KEEP).ok
    assert most == 1
    assert syncs > 3
    assert passed.count(1) > 5
