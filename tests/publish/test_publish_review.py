"""What a review found in publishing: a lock that is not held, samples that prove, others' files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from puavo_repository import retry
from puavo_repository.errors import (
    ConnectionLostError,
    LockedError,
    MassDeleteError,
    PublishError,
    RepositoryError,
    StorageError,
)
from puavo_repository.publish import send, switch, transfer, upload
from puavo_repository.publish.locked import locked
from puavo_repository.publish.options import Options, RemovalPolicy
from puavo_repository.publish.plan import How, Transfer
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.run import publish
from puavo_repository.publish.state import sha256
from puavo_repository.publish.transfer import Transferred
from puavo_repository.remote import generations, journal, parts
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.file import Acknowledge, Range
from puavo_repository.remote.folder import FolderFile, FolderTree
from puavo_repository.remote.lock import PublisherLock
from puavo_repository.remote.parts import Part
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import RemoteTree, read_whole
from puavo_repository.rollback import rollback
from support.mirrors import (
    SERIES,
    add_image,
    content,
    image,
    make_mirror,
    prepare,
    send_one,
    tree_of,
    walk,
)
from support.servers import Sshd

NOW = Options(removal=RemovalPolicy(grace=0.0, share=1.0, pause=0.0))
KEEP = Options(removal=RemovalPolicy(share=1.0, pause=0.0))
OTHER = "puavo-os-other-bookworm-amd64"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    make_mirror(tmp_path / "mirror", count=2)
    return tmp_path / "mirror"


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    (tmp_path / "remote").mkdir()
    return tmp_path / "remote"


@pytest.fixture
def folder(remote: Path) -> Target:
    return Target(path=str(remote))


def documents(remote: Path) -> dict[str, bytes]:
    """Return metadata and CKSUMS, as clients see them."""
    found = tree_of(remote)
    return {p: data for p, data in found.items() if p == "CKSUMS" or p.startswith("meta/")}


def roll_back(mirror: Path, target: Target, to: int | None = None) -> None:
    with Publisher(mirror, target, KEEP) as publisher:
        rollback.roll_back(publisher, to)


def of_now(target: Target) -> journal.Journal:
    return journal.load(FolderTree(target))


def make_stale(remote: Path) -> None:
    """Have the lock look as if nobody had given a sign of life for long."""
    long_ago = time.time() - publisher_lock.EXPIRY - 5
    os.utime(remote / publisher_lock.PATH, (long_ago, long_ago))


def test_a_rollback_between_a_look_and_the_lock_is_not_undone(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, KEEP).ok
    good = documents(remote)
    names = add_image(mirror, [image(1), image(2)])
    assert publish(mirror, folder, KEEP).ok
    add_image(mirror, names, seed=5)
    acquire = PublisherLock.acquire

    def later(lock: PublisherLock) -> None:
        monkeypatch.setattr(PublisherLock, "acquire", acquire)
        roll_back(mirror, folder)
        acquire(lock)

    monkeypatch.setattr(PublisherLock, "acquire", later)
    assert not publish(mirror, folder, KEEP).ok
    assert documents(remote) == good
    assert image(3) in of_now(folder).rejected


def test_who_lost_the_lock_writes_nothing(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one took over while this one slept before it replaced a file, and rolled back."""
    assert publish(mirror, folder, KEEP).ok
    good = documents(remote)
    names = add_image(mirror, [image(1), image(2)])
    assert publish(mirror, folder, KEEP).ok
    rdiff = next((mirror / "rdiffs").glob("*.rdiff"))
    rdiff.write_bytes(rdiff.read_bytes()[:-1] + b"\x01a\x00")
    prepare(mirror, names)
    left: list[dict[str, bytes]] = []

    def sleep(_seconds: float) -> None:
        monkeypatch.undo()
        make_stale(remote)
        roll_back(mirror, folder, 1)
        left.append(tree_of(remote))

    monkeypatch.setattr("puavo_repository.publish.switch.sleep", sleep)
    with pytest.raises(LockedError):
        publish(mirror, folder, replace(KEEP, removal=replace(KEEP.removal, pause=1000.0)))
    assert left == [tree_of(remote)]
    assert documents(remote)[f"meta/{SERIES}.json"] == good[f"meta/{SERIES}.json"]
    assert image(3) in of_now(folder).rejected


@pytest.mark.parametrize(
    "path",
    [f"meta/{SERIES}.json", "CKSUMS", journal.PATH, f"{generations.GENERATIONS}/2.json"],
)
def test_a_lock_that_is_lost_while_a_document_is_written_is_noticed(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A server's disk may take its time; the lock is looked at when all is on it."""
    assert publish(mirror, folder, KEEP).ok
    before = read_whole(FolderTree(folder), path)
    add_image(mirror, [image(1), image(2)])
    real, above, _, name = FolderFile.sync, *path.rpartition("/")
    part = f"{above}/.{name}.part" if above else f".{name}.part"

    def sync(file: FolderFile) -> None:
        real(file)
        if file._path == part:
            monkeypatch.undo()
            make_stale(remote)
            PublisherLock(FolderTree(folder)).acquire()

    monkeypatch.setattr(FolderFile, "sync", sync)
    with pytest.raises(LockedError):
        publish(mirror, folder, KEEP)
    assert read_whole(FolderTree(folder), path) == before


def test_what_a_sleeper_left_goes_in_a_night_without_news(
    mirror: Path, remote: Path, folder: Target
) -> None:
    """Another publisher took over and named the file; the sleeper found its name taken."""
    assert publish(mirror, folder, KEEP).ok
    item = Transfer(image(1), 5, "a" * 64, How.UPLOADED)
    (remote / item.part("0" * 16)).write_bytes(b"left")
    assert publish(mirror, folder, KEEP).ok
    assert tree_of(remote) == tree_of(mirror)
    assert not list(remote.glob(".*.part"))


def test_the_lock_is_kept_alive_for_as_long_as_clients_are_given_time(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, KEEP).ok
    rdiff = next((mirror / "rdiffs").glob("*.rdiff"))
    rdiff.write_bytes(rdiff.read_bytes()[:-1] + b"\x01a\x00")
    prepare(mirror, [image(1), image(2)])
    monkeypatch.setattr(publisher_lock, "BEAT", 0.02)
    alive: list[bool] = []
    real = time.sleep

    def sleep(_seconds: float) -> None:
        make_stale(remote)
        end = time.monotonic() + 60
        while (remote / publisher_lock.PATH).stat().st_mtime < time.time() - 60:
            if time.monotonic() > end:
                break
            real(0.01)
        alive.append(time.monotonic() < end)

    monkeypatch.setattr("puavo_repository.publish.switch.sleep", sleep)
    assert publish(mirror, folder, KEEP).ok
    assert alive == [True]


def test_a_mirror_does_not_take_the_clients_of_another(
    mirror: Path, remote: Path, folder: Target, tmp_path: Path
) -> None:
    assert publish(mirror, folder, KEEP).ok
    before = tree_of(remote)
    other = tmp_path / "other"
    make_mirror(other, count=1)
    (other / "meta" / f"{SERIES}.json").unlink()
    prepare(other, [image(1)], series=OTHER, pairs=[])
    with pytest.raises(PublishError, match=rf"another mirror.*{SERIES}"):
        publish(other, folder, KEEP)
    assert tree_of(remote) == before
    assert publish(mirror, folder, KEEP).ok


def test_what_others_put_there_is_used_and_never_removed(
    mirror: Path, remote: Path, folder: Target
) -> None:
    for name in (image(1), image(2)):
        shutil.copy(mirror / name, remote / name)
    found = publish(mirror, folder, NOW)
    assert found.ok
    assert not {image(1), image(2)} & {*found.uploaded, *found.assembled}
    names = add_image(mirror, [image(1), image(2)])
    prepare(mirror, names[-1:], pairs=[])
    for _ in range(2):
        assert publish(mirror, folder, NOW).ok
    assert (remote / image(1)).exists()
    assert (remote / image(2)).exists()
    assert not list((remote / "rdiffs").iterdir()), "these were ours"


def test_what_others_put_there_is_read_whole_before_it_is_described(
    mirror: Path, remote: Path, folder: Target
) -> None:
    big = image(9)
    (mirror / big).write_bytes(content(9, 12 << 20))
    prepare(mirror, [image(1), image(2), big], pairs=[])
    wrong = bytearray((mirror / big).read_bytes())
    wrong[5_000_000:5_000_001] = bytes([wrong[5_000_000] ^ 1])
    (remote / big).write_bytes(wrong)
    assert publish(mirror, folder, KEEP).ok
    assert walk(remote) == []


def test_a_remote_that_has_to_do_with_our_own_folders_is_refused(
    mirror: Path, tmp_path: Path, sshd: Sshd
) -> None:
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    (images / image(1)).hardlink_to(mirror / image(1))
    before = [tree_of(folder) for folder in (images, mirror)]
    how = replace(NOW, own_folders=(images,))
    places = [images, images / "below", tmp_path, mirror, mirror / "rdiffs"]
    for place in places:
        for target in (Target(path=str(place)), sshd.target(place)):
            with pytest.raises(PublishError, match="own folder"):
                publish(mirror, target, how)
    assert [tree_of(folder) for folder in (images, mirror)] == before
    assert not [path for path in tmp_path.rglob(".puavo-publish") if any(path.iterdir())]


class PowerCut:
    """What a server's disk has after its power was cut: of each file what was synced last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._synced: dict[int, bytes] = {}
        sync = FolderFile.sync

        def noted(file: FolderFile) -> None:
            sync(file)
            descriptor = file._descriptor
            found = os.fstat(descriptor)
            self._synced[found.st_ino] = os.pread(descriptor, found.st_size, 0)

        monkeypatch.setattr(FolderFile, "sync", noted)

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
    cut, one = PowerCut(monkeypatch), replace(KEEP, connections=1)
    step = {"upload": "write", "assembly": "copy"}[how]
    real: Callable[..., None] = getattr(FolderFile, step)
    left = 30 << 20

    def broken(file: FolderFile, *arguments: object) -> None:
        nonlocal left
        size = arguments[2] if step == "copy" else len(arguments[1])  # type: ignore[arg-type]
        if isinstance(size, int) and size > 1000:
            left -= size
        if left < 0:
            raise StorageError("the server", "went dark")
        real(file, *arguments)

    if how == "assembly":
        # The kernel copies in one piece; a server is asked for many.
        whole = FolderFile.copy

        def in_pieces(
            file: FolderFile, source: FolderFile, taken: Range, offset: int, done: Acknowledge
        ) -> None:
            nonlocal left
            for at in range(0, taken.length, 1 << 20):
                piece = Range(taken.offset + at, min(1 << 20, taken.length - at))
                left -= piece.length
                if left < 0:
                    raise ConnectionLostError("the server", "went dark")
                whole(file, source, piece, offset + at, done)

        monkeypatch.setattr(FolderFile, "copy", in_pieces)
    else:
        monkeypatch.setattr(FolderFile, "write", broken)
    with contextlib.suppress(RepositoryError), Publisher(mirror, folder, one) as killed:
        assert killed.upload().failed
    assert cut.strike(remote) == 1
    left = 1 << 40
    assert publish(mirror, folder, KEEP).ok
    assert walk(remote) == []


def test_a_rollback_that_is_made_again_goes_no_further(
    mirror: Path, remote: Path, folder: Target
) -> None:
    """The first one may have failed late: in writing down here what it did."""
    seen = []
    names = [image(1), image(2)]
    for night in range(3):
        if night:
            names = add_image(mirror, names, seed=night)
        assert publish(mirror, folder, KEEP).ok
        seen.append(documents(remote))
    for _ in range(3):
        roll_back(mirror, folder)
        assert documents(remote) == seen[1]
    roll_back(mirror, folder, 1)
    assert documents(remote) == seen[0]


def test_room_is_made_on_a_full_server_before_it_is_filled(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, NOW).ok
    for name in (image(1), image(2)):
        (mirror / name).unlink()
    (mirror / image(3)).write_bytes(content(33, 300_000))
    (mirror / image(4)).write_bytes(content(44, 300_000))
    prepare(mirror, [image(3), image(4)], pairs=[])
    size = 900_000

    def free(_tree: FolderTree) -> int:
        return size - sum(path.stat().st_size for path in remote.rglob("*") if path.is_file())

    monkeypatch.setattr(FolderTree, "free_space", free)
    monkeypatch.setattr("puavo_repository.publish.publisher.SPARE", 1000)
    stop, wrong = threading.Event(), list[str]()

    def watch() -> None:
        document = remote / "meta" / f"{SERIES}.json"
        while not stop.is_set():
            before, found = document.read_bytes(), walk(remote)
            if found and document.read_bytes() == before:
                wrong.extend(found)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = publish(mirror, folder, NOW)
    finally:
        stop.set()
        watcher.join()
    assert found.ok, found.failed
    assert wrong == []
    assert tree_of(remote).keys() == {image(3), image(4), f"meta/{SERIES}.json", "CKSUMS"}


def test_of_a_full_server_what_no_metadata_names_goes_first(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What clients are told of is not taken from them where the rest makes room enough."""
    for number in (1, 2, 3):
        (mirror / image(number)).write_bytes(content(number, 300_000))
    for described in ([image(1), image(2)], [image(2)]):
        prepare(mirror, described, pairs=[])
        assert publish(mirror, folder, KEEP).ok
    assert (remote / image(1)).exists(), "its grace runs"
    prepare(mirror, [image(3)], pairs=[])

    def free(_tree: FolderTree) -> int:
        return 700_000 - sum(path.stat().st_size for path in remote.glob("*.img"))

    monkeypatch.setattr(FolderTree, "free_space", free)
    monkeypatch.setattr("puavo_repository.publish.publisher.SPARE", 1000)
    with Publisher(mirror, folder, NOW) as publisher:
        assert publisher.upload().failed == {}
    assert {path.name for path in remote.glob("*.img")} == {image(2), image(3)}
    assert image(2) in (remote / "meta" / f"{SERIES}.json").read_text()
    assert walk(remote) == []


@pytest.mark.parametrize(("size", "left"), [(880_000, (3,)), (910_000, (1, 2, 3))])
def test_parts_that_nobody_goes_on_with_are_removed_before_a_disk_is_filled(
    mirror: Path,
    remote: Path,
    folder: Target,
    size: int,
    left: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their bytes are never taken for bytes of what is sent: they are removed, and free then."""
    for number in (1, 2, 3):
        (mirror / image(number)).write_bytes(content(number, 300_000))
    prepare(mirror, [image(1), image(2)], pairs=[])
    assert publish(mirror, folder, NOW).ok
    (remote / f".{image(9)}.{'0' * 16}.{'0' * 8}.part").write_bytes(bytes(250_000))
    prepare(mirror, [image(3)], pairs=[])

    def free(_tree: FolderTree) -> int:
        return size - sum(path.stat().st_size for path in remote.iterdir() if path.is_file())

    monkeypatch.setattr(FolderTree, "free_space", free)
    monkeypatch.setattr("puavo_repository.publish.publisher.SPARE", 1000)
    with Publisher(mirror, folder, NOW) as publisher:
        assert publisher.upload().failed == {}
    assert {path.name for path in remote.glob("*.img")} == set(map(image, left))
    assert free(FolderTree(folder)) > 0


def test_an_entry_of_another_size_proves_nothing(
    mirror: Path, remote: Path, folder: Target
) -> None:
    """What the journal and the server agree on is not yet what is wanted there."""
    assert publish(mirror, folder, KEEP).ok
    (remote / image(1)).write_bytes(b"short")
    tree = FolderTree(folder)
    there, record = tree.stat(image(1)), journal.load(tree)
    assert there
    entry = record.files[image(1)]
    record.files[image(1)] = replace(entry, size=there.size, mtime=there.mtime)
    journal.save(tree, record)
    assert publish(mirror, folder, KEEP).ok
    assert walk(remote) == []


def test_a_disk_that_does_not_answer_holds_nobody_up(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest's thread may be in a read that never ends: who is interrupted does not wait."""
    answers = threading.Event()

    def silent(_path: Path, _ended: threading.Event) -> str:
        answers.wait(20)
        return ""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "_sha256", silent)
    monkeypatch.setattr(transfer, "send", interrupted)
    begun = time.monotonic()
    item = Transfer(image(1), 300_000, sha256((mirror / image(1)).read_bytes()), How.UPLOADED)
    try:
        with pytest.raises(KeyboardInterrupt):
            send_one(item, mirror, folder)
        assert time.monotonic() - begun < 10
        started = [one for one in threading.enumerate() if one.name.startswith("digest")]
        assert all(one.daemon for one in started), "the interpreter would wait for it at its end"
        assert started
    finally:
        answers.set()


def test_the_lock_is_looked_at_before_each_write_that_others_rely_on(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, NOW).ok
    rdiff = next((mirror / "rdiffs").glob("*.rdiff"))
    rdiff.write_bytes(rdiff.read_bytes()[:-1] + b"\x01a\x00")
    names = add_image(mirror, [image(1), image(2)])
    writes: dict[str, list[bool]] = {}
    sure = threading.local()
    check = PublisherLock.check

    def checked(lock: PublisherLock) -> None:
        check(lock)
        sure.now = True

    def kind_of(path: str) -> str:
        """Return what kind of file that others rely on this is, if it is one."""
        if Path(path).name.startswith("."):
            return ""
        if path.endswith((".img", ".rdiff")):
            return "data" if (remote / path).exists() else ""
        if path.startswith(generations.GENERATIONS):
            return "generation"
        kinds = {journal.PATH: "journal", parts.PATH: "parts", "CKSUMS": "CKSUMS"}
        return kinds.get(path, "metadata" if path.startswith("meta/puavo") else "")

    def noted(real: Callable[..., object]) -> Callable[..., object]:
        def change(*arguments: object) -> object:
            kind = kind_of(str(arguments[-1]))
            if kind:
                writes.setdefault(kind, []).append(getattr(sure, "now", False))
                sure.now = False
            return real(*arguments)

        return change

    monkeypatch.setattr(PublisherLock, "check", checked)
    monkeypatch.setattr(FolderTree, "remove", noted(FolderTree.remove))
    monkeypatch.setattr(FolderTree, "rename", noted(FolderTree.rename))
    assert publish(mirror, folder, NOW).withdrawn
    prepare(mirror, [image(2)], series=OTHER, pairs=[])
    prepare(mirror, names[1:])
    assert publish(mirror, folder, NOW).pruned
    (mirror / "meta" / f"{OTHER}.json").unlink()
    prepare(mirror, names[1:])
    assert not publish(mirror, folder, NOW).failed
    assert not (remote / "meta" / f"{OTHER}.json").exists()
    assert len(writes) == 6
    assert {kind: all(found) for kind, found in writes.items()} == dict.fromkeys(writes, True)


def test_what_arrived_before_a_kill_is_known_as_ours(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, NOW).ok
    names = add_image(mirror, [image(1), image(2)])

    class KilledError(Exception):
        pass

    def killed(_placed: object) -> None:
        raise KilledError

    with pytest.raises(KilledError), Publisher(mirror, folder, NOW) as publisher:
        publisher.upload(killed)
    arrived = {path.name for path in remote.rglob("*") if path.is_file()} - {
        path.name for path in mirror.rglob("*") if image(3) not in path.name
    }
    assert arrived
    (mirror / image(3)).unlink()
    prepare(mirror, names[:2])
    for _ in range(2):
        assert publish(mirror, folder, NOW).ok
    assert tree_of(remote).keys() == {path for path in tree_of(mirror) if "2026-01-03" not in path}


def test_what_others_put_where_ours_could_not_go_is_left_alone(
    mirror: Path, remote: Path, folder: Target
) -> None:
    names = add_image(mirror, [image(1), image(2)])
    prepare(mirror, names, pairs=[])
    (remote / image(3)).write_bytes(b"theirs".ljust((mirror / image(3)).stat().st_size))
    content_of_3 = (mirror / image(3)).read_bytes()
    (mirror / image(3)).write_bytes(content_of_3[:-1] + b"?")  # not what is described
    assert not publish(mirror, folder, NOW).ok
    prepare(mirror, names[:2], pairs=[])
    for _ in range(2):
        assert publish(mirror, folder, NOW).ok
    assert (remote / image(3)).read_bytes().startswith(b"theirs")


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
    with locked(FolderTree(folder)) as other:
        digest = sha256((mirror / image(3)).read_bytes())
        other.parts.put(image(3), Part(wanted, 10, digest, synced=1))
    with Publisher(mirror, folder, KEEP) as publisher:
        publisher.clean()
    assert [path.exists() for path in (remote / wanted, debris, foreign)] == [True, False, True]
    assert publish(mirror, folder, KEEP).ok
    assert [path.name for path in remote.glob(".*.part")] == [foreign.name]


def test_a_file_that_vanishes_while_clients_are_told_of_it_fails_the_step(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    run = switch.Switch.run

    def robbed(self: switch.Switch, waiting: list[Transfer]) -> switch.Switched:
        done = run(self, waiting)
        (remote / image(1)).unlink()
        return done

    monkeypatch.setattr(switch.Switch, "run", robbed)
    with pytest.raises(StorageError, match=r"2026-01-01.*not as the metadata there says"):
        publish(mirror, folder, KEEP)
    assert not of_now(folder).verified


def test_a_file_that_was_replaced_right_before_a_kill_is_known_as_ours(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, NOW).ok
    rdiff = next((mirror / "rdiffs").glob("*.rdiff"))
    rdiff.write_bytes(rdiff.read_bytes()[:-1] + b"\x01a\x00")
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


def test_making_room_takes_no_more_from_clients_than_was_agreed_on(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, NOW).ok
    before = tree_of(remote)
    for day in (3, 4):
        (mirror / image(day)).write_bytes(content(day, 300_000))
    prepare(mirror, [image(3), image(4)], pairs=[])
    monkeypatch.setattr(FolderTree, "free_space", lambda _tree: 1000)
    careful = replace(NOW, removal=replace(NOW.removal, share=0.3))
    found = None
    with pytest.raises(MassDeleteError):
        found = publish(mirror, folder, careful)
    assert found is None
    assert tree_of(remote) == before


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
    for known in (Part(part, size, digest, size), Part(part, size, "0" * 64, size, proven=True)):
        (remote / part).write_bytes(bytes(size))
        with locked(FolderTree(folder)) as other:
            other.parts.forget([path])
            other.parts.put(path, known)
        with Publisher(mirror, folder, NOW) as publisher:
            publisher.switch()
        assert (remote / path).read_bytes() == old
    assert publish(mirror, folder, NOW).ok
    assert tree_of(remote) == tree_of(mirror)


def test_metadata_of_others_stays_with_what_it_names(
    mirror: Path, remote: Path, folder: Target
) -> None:
    theirs = image(9)
    (remote / "meta").mkdir()
    (remote / theirs).write_bytes(b"theirs")
    document = {OTHER: {"images": [{"filename": theirs, "size": 6}]}}
    (remote / "meta" / f"{OTHER}.json").write_text(json.dumps(document))
    for _ in range(2):
        assert publish(mirror, folder, NOW).ok
    assert (remote / "meta" / f"{OTHER}.json").exists()
    assert (remote / theirs).read_bytes() == b"theirs"


def test_a_lost_journal_makes_nothing_of_others_ours(
    mirror: Path, remote: Path, folder: Target
) -> None:
    for name in (image(1), image(2)):
        shutil.copy(mirror / name, remote / name)
    assert publish(mirror, folder, NOW).ok
    (remote / journal.PATH).unlink()
    names = add_image(mirror, [image(1), image(2)])
    prepare(mirror, names[-1:], pairs=[])
    for _ in range(2):
        assert publish(mirror, folder, NOW).ok
    assert (remote / image(1)).exists()
    assert (remote / image(2)).exists()


def test_whose_remote_it_is_survives_a_lost_journal(
    mirror: Path, remote: Path, folder: Target, tmp_path: Path
) -> None:
    prepare(mirror, [image(1)], series=OTHER, pairs=[])
    assert publish(mirror, folder, KEEP).ok
    (remote / journal.PATH).unlink()
    make_mirror(tmp_path / "other", count=2)
    with pytest.raises(PublishError, match=f"another mirror.*{OTHER}"):
        publish(tmp_path / "other", folder, KEEP)
    shutil.rmtree(mirror / ".puavo-repository")
    assert publish(mirror, folder, KEEP).ok, "its id is lost, but it describes all that is there"


def test_a_new_file_takes_nobody_s_name(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another publisher may have put another file there, and told clients, while this one slept."""
    assert publish(mirror, folder, KEEP).ok
    add_image(mirror, [image(1), image(2)])
    rename_into_place = transfer.rename_into_place

    def too_late(tree: RemoteTree, item: Transfer, part: str, how: How) -> Transferred:
        if item.path == image(3):
            (remote / image(3)).write_bytes(b"another's")
        return rename_into_place(tree, item, part, how)

    monkeypatch.setattr(transfer, "rename_into_place", too_late)
    assert image(3) in publish(mirror, folder, KEEP).failed
    assert (remote / image(3)).read_bytes() == b"another's"
    monkeypatch.undo()
    assert publish(mirror, folder, KEEP).ok
    assert walk(remote) == []


def test_a_name_whose_answer_was_lost_is_not_taken_for_another_s(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)
    assert publish(mirror, folder, NOW).ok
    names = add_image(mirror, [image(1), image(2)])
    name, lost = transfer.rename_into_place, []

    def unanswered(*arguments: object) -> Transferred:
        done = name(*arguments)  # type: ignore[arg-type]
        if done.item.path not in lost:
            lost.append(done.item.path)
            raise ConnectionLostError("the server", "went silent")
        return done

    monkeypatch.setattr(transfer, "rename_into_place", unanswered)
    assert publish(mirror, folder, NOW).ok
    assert lost
    monkeypatch.undo()
    assert walk(remote) == []
    prepare(mirror, names[:2])
    for _ in range(2):
        assert publish(mirror, folder, NOW).ok
    assert tree_of(remote).keys() == {p for p in tree_of(mirror) if "2026-01-03" not in p}
