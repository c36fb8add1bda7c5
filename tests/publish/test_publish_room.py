"""Room on a server: it is made before it is filled, and not at the cost of clients."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from puavo_repository.errors import (
    StorageError,
    StorageRefusedError,
)
from puavo_repository.mirror import published
from puavo_repository.publish import upload
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.run import remember
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.target import Target
from support.mirrors import (
    KEEP,
    NOW,
    SERIES,
    content,
    image,
    make_mirror,
    prepare,
    publish,
    tree_of,
    walk,
)
from support.servers import Sshd, running


def test_what_a_server_has_left_is_kept_and_one_that_does_not_tell_is_published_all_the_same(
    mirror: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderTree, "free_space", lambda _tree: 1 << 40)
    remember(mirror, publish(mirror, folder, NOW))
    assert list(published.known(mirror, folder.url).free.values()) == [1 << 40]

    def refuse(_tree: FolderTree) -> int:
        raise StorageError("the server", "says: failure")

    monkeypatch.setattr(FolderTree, "free_space", refuse)
    again = publish(mirror, folder, NOW)
    assert (again.ok, again.free) == (True, None)


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
    monkeypatch.setattr("puavo_repository.publish.upload.SPARE", 1000)
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
    monkeypatch.setattr("puavo_repository.publish.upload.SPARE", 1000)
    with Publisher(mirror, folder, NOW) as publisher:
        upload.upload(publisher)
        assert publisher.report.failed == {}
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
    monkeypatch.setattr("puavo_repository.publish.upload.SPARE", 1000)
    with Publisher(mirror, folder, NOW) as publisher:
        upload.upload(publisher)
        assert publisher.report.failed == {}
    assert {path.name for path in remote.glob("*.img")} == set(map(image, left))
    assert free(FolderTree(folder)) > 0


def test_making_room_takes_no_more_from_clients_than_was_agreed_on(
    mirror: Path, remote: Path, folder: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(mirror, folder, NOW).ok
    before = tree_of(remote)
    for day in (3, 4):
        (mirror / image(day)).write_bytes(content(day, 300_000))
    prepare(mirror, [image(3), image(4)], pairs=[])
    monkeypatch.setattr(FolderTree, "free_space", lambda _tree: 1000)
    careful = NOW.model_copy(update={"max_delete": 0.3})
    assert "would go" in publish(mirror, folder, careful).failed["removing"]
    assert tree_of(remote) == before


def test_a_disk_that_is_full_stops_before_clients_notice(mirror: Path, tmp_path: Path) -> None:
    make_mirror(mirror, count=3)  # nearly a megabyte
    disk = tmp_path / "disk"
    disk.mkdir()
    server = Sshd(tmp_path / "sshd", full_disk=disk, disk_size="1m")
    with running(server), pytest.raises(StorageRefusedError, match="too full"):
        publish(mirror, server.target(disk), KEEP)


def test_a_disk_that_fills_up_in_the_middle_is_told(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SPARE", -(1 << 40))
    make_mirror(mirror, count=3)  # nearly a megabyte
    disk = tmp_path / "disk"
    disk.mkdir()
    with running(Sshd(tmp_path / "sshd", full_disk=disk, disk_size="1m")) as server:
        try:
            told = str(publish(mirror, server.target(disk), KEEP).failed)
        except StorageRefusedError as error:  # there was no room for the journal either
            told = str(error)
        assert "the server's disk is full" in told
