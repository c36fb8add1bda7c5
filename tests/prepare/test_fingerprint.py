from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.delta import contained
from puavo_repository.errors import (
    ImageChangingError,
    ImageError,
    RepositoryError,
    StorageError,
    StorageRefusedError,
)
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.prepare import fingerprint as stage
from puavo_repository.prepare.fingerprint import fingerprint
from support.instead import instead
from support.repository import V1, Repository, check_file, name, public

IMAGE = name(V1)


def refused(repository: Repository, kind: type[RepositoryError] = ImageError) -> str:
    """Fingerprint an image that cannot be used; return what is said and kept of it."""
    with pytest.raises(kind) as caught:
        fingerprint(repository.settings(), IMAGE)
    state = Mirror(repository.mirror).state
    failure = state.failures.get(IMAGE)
    assert failure is not None
    assert failure.message == str(caught.value)
    assert state.images.get(IMAGE) is None
    return failure.message


def test_digests_are_those_of_the_standard_programs(repository: Repository) -> None:
    path = repository.add(IMAGE)
    digests = fingerprint(repository.settings(), IMAGE).digests
    check_file(path, digests)


def test_definitions_of_all_files_are_merged(repository: Repository) -> None:
    repository.add(
        IMAGE,
        definitions={"b.json": '{"b": {"default": "ä"}}', "[a]*.json": '{"a": 1}', "x.txt": "{"},
    )
    record = fingerprint(repository.settings(), IMAGE)
    assert list(record.puavo_conf.items()) == [("a", 1), ("b", {"default": "ä"})]


def test_an_image_without_definitions_has_none(repository: Repository) -> None:
    repository.add(IMAGE, definitions={})
    assert fingerprint(repository.settings(), IMAGE).puavo_conf == {}


@pytest.mark.parametrize(
    ("definitions", "says"),
    [
        ({"a.json": '{"k": 1}', "b.json": '{"k": 1}'}, "'k' is defined twice"),
        ({"a.json": '{"k": 1, "k": 2}'}, "'k' is defined twice"),
        ({"a.json": "{"}, "a.json"),
        ({"a.json": "[]"}, "not an object"),
        ({"a.json": '{"k": NaN}'}, "NaN"),
        ({"a.json": '{"k": 1e999}'}, "a.json"),
    ],
)
def test_unusable_definitions_fail_their_image(
    repository: Repository, definitions: dict[str, str], says: str
) -> None:
    repository.add(IMAGE, definitions=definitions)
    message = refused(repository)
    assert says in message
    assert IMAGE in message


def test_a_link_among_the_definitions_is_not_followed(
    repository: Repository, tmp_path: Path
) -> None:
    folder = tmp_path / "tree/usr/share/puavo-conf/definitions"
    folder.mkdir(parents=True)
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    (folder / "a.json").symlink_to(tmp_path / "secret.json")
    image = repository.images / IMAGE
    subprocess.run(["mksquashfs", tmp_path / "tree", image, "-quiet", "-no-progress"], check=True)
    assert "not a plain file" in refused(repository)


@pytest.mark.parametrize("level", ["usr", "usr/share", "usr/share/puavo-conf"])
def test_a_link_on_the_way_to_the_definitions_is_not_followed(
    repository: Repository, tmp_path: Path, level: str
) -> None:
    """An image must not have files of this machine published in its metadata."""
    outside = tmp_path / "outside"
    rest = Path("usr/share/puavo-conf/definitions").relative_to(level)
    (outside / rest).mkdir(parents=True)
    (outside / rest / "a.json").write_text('{"secret": 1}')
    (tmp_path / "tree" / level).parent.mkdir(parents=True)
    (tmp_path / "tree" / level).symlink_to(outside)
    image = repository.images / IMAGE
    subprocess.run(["mksquashfs", tmp_path / "tree", image, "-quiet", "-no-progress"], check=True)
    try:
        repository.prepare()
    finally:
        assert b"secret" not in b"".join(public(repository.mirror).values())


def test_a_link_in_place_of_the_definitions_is_refused(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.json").write_text('{"secret": 1}')
    (tmp_path / "tree/usr/share/puavo-conf").mkdir(parents=True)
    (tmp_path / "tree/usr/share/puavo-conf/definitions").symlink_to(tmp_path / "outside")
    image = repository.images / IMAGE
    subprocess.run(["mksquashfs", tmp_path / "tree", image, "-quiet", "-no-progress"], check=True)
    assert "not a plain folder" in refused(repository)


@pytest.mark.parametrize("goal", ["definitions", "nowhere"])
def test_a_link_to_itself_or_to_nothing_is_refused_for_good(
    repository: Repository, tmp_path: Path, goal: str
) -> None:
    (tmp_path / "tree/usr/share/puavo-conf").mkdir(parents=True)
    (tmp_path / "tree/usr/share/puavo-conf/definitions").symlink_to(goal)
    image = repository.images / IMAGE
    subprocess.run(["mksquashfs", tmp_path / "tree", image, "-quiet", "-no-progress"], check=True)
    assert "usr/share/puavo-conf/definitions" in refused(repository)


def test_definitions_that_would_fill_the_disk_are_refused(
    repository: Repository, tmp_path: Path
) -> None:
    folder = tmp_path / "tree/usr/share/puavo-conf/definitions"
    folder.mkdir(parents=True)
    with (folder / "a.json").open("wb") as file:
        file.write(b'{"a": "')
        file.truncate(300 << 20)  # next to nothing in the image
    image = repository.images / IMAGE
    subprocess.run(["mksquashfs", tmp_path / "tree", image, "-quiet", "-no-progress"], check=True)
    assert "larger than" in refused(repository)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "an empty file"), (b"hsqs", "only 4 bytes"), (b"x" * 5000, "78 78 78 78")],
)
def test_what_is_no_image_is_refused(repository: Repository, content: bytes, says: str) -> None:
    (repository.images / IMAGE).write_bytes(content)
    message = refused(repository)
    assert says in message
    assert "mksquashfs" in message


def test_a_truncated_image_says_how_long_it_should_be(repository: Repository) -> None:
    path = repository.add(IMAGE)
    size = path.stat().st_size
    os.truncate(path, size // 2)
    message = refused(repository)
    assert "truncated" in message
    assert f"found {size // 2} bytes" in message


def test_an_image_with_a_damaged_table_is_refused(repository: Repository) -> None:
    path = repository.add(IMAGE)
    content = bytearray(path.read_bytes())
    content[-4096 - 400 :] = os.urandom(4096 + 400)
    path.write_bytes(content)
    assert "cannot be read as squashfs" in refused(repository)


def test_an_image_that_grows_meanwhile_is_left_for_later(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository.add(IMAGE)
    call = contained.call

    def grow(*arguments: Any, **more: Any) -> Any:
        with path.open("ab") as stream:
            stream.write(b"more")
        return call(*arguments, **more)

    monkeypatch.setattr(contained, "call", grow)
    assert "changed while it was read" in refused(repository, ImageChangingError)


def test_an_image_that_is_replaced_meanwhile_is_left_for_later(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository.add(IMAGE)
    call = contained.call

    def replace(*arguments: Any, **more: Any) -> Any:
        read = call(*arguments, **more)
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        other.rename(path)
        return read

    monkeypatch.setattr(contained, "call", replace)
    refused(repository, ImageChangingError)


def test_an_unreadable_image_names_the_way_out(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository.add(IMAGE)
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **more: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    assert "Give the user that runs this access" in refused(repository, StorageRefusedError)


def test_an_image_is_durable_before_it_is_on_record(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = repository.add(IMAGE), []
    records = Mirror(repository.mirror).state.images

    def note(descriptor: int) -> None:
        synced.append(os.path.samestat(os.fstat(descriptor), path.stat()))
        assert records.get(IMAGE) is None
        os.fsync(descriptor)

    instead(monkeypatch, stage, os, fsync=note)
    fingerprint(repository.settings(), IMAGE)
    assert synced == [True]
    assert records.get(IMAGE) is not None


@pytest.mark.parametrize("code", [errno.EROFS, errno.EINVAL])
def test_an_image_on_a_disk_that_cannot_sync_it_is_used(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    repository.add(IMAGE)
    instead(monkeypatch, stage, os, fsync=lambda _: _refuse(code))
    assert fingerprint(repository.settings(), IMAGE).digests.size


def test_an_image_that_cannot_be_made_durable_is_left_for_later(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository.add(IMAGE)
    instead(monkeypatch, stage, os, fsync=lambda _: _refuse(errno.EIO))
    assert f"{path}: Input/output error" in refused(repository, StorageError)


def _refuse(code: int) -> None:
    raise OSError(code, os.strerror(code))


def test_a_known_image_is_not_read_again(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.add(IMAGE)
    settings = repository.settings()
    first = fingerprint(settings, IMAGE)
    monkeypatch.setattr(stage, "_read", None)
    assert fingerprint(settings, IMAGE) == first


def test_success_clears_the_failure(repository: Repository) -> None:
    (repository.images / IMAGE).write_bytes(b"")
    refused(repository)
    repository.add(IMAGE)
    fingerprint(repository.settings(), IMAGE)
    assert Mirror(repository.mirror).state.failures.names() == []


def _with_definitions(repository: Repository, tmp_path: Path, files: dict[str, int]) -> None:
    """Make an image whose definitions are objects of one long string, of so many bytes."""
    folder = tmp_path / "tree/usr/share/puavo-conf/definitions"
    folder.mkdir(parents=True)
    for file, size in files.items():
        (folder / file).write_text(f'{{"{file}": "{"x" * size}"}}')
    image = repository.images / IMAGE
    subprocess.run(["mksquashfs", tmp_path / "tree", image, "-quiet", "-no-progress"], check=True)


@pytest.mark.parametrize(
    ("count", "size", "says"),
    [(3, 6 << 20, "together larger than 16 MiB"), (4097, 1, "more than 4096")],
)
def test_many_definitions_that_would_fill_the_disk_are_refused_before_they_are_unpacked(
    repository: Repository, tmp_path: Path, count: int, size: int, says: str
) -> None:
    _with_definitions(repository, tmp_path, {f"{n:04}.json": size for n in range(count)})
    assert says in refused(repository)


def test_a_good_image_on_a_full_disk_is_not_called_damaged(
    repository: Repository, tmp_path: Path
) -> None:
    _with_definitions(repository, tmp_path, {"a.json": 1 << 20})
    state = Mirror(repository.mirror).state.folder
    state.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(state)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        assert "No space left on device" in refused(repository, StorageRefusedError)
    finally:
        subprocess.run(["umount", str(state)], check=True)
    assert fingerprint(repository.settings(), IMAGE).puavo_conf


def test_a_file_in_place_of_the_definitions_is_refused(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "tree/usr/share/puavo-conf").mkdir(parents=True)
    (tmp_path / "tree/usr/share/puavo-conf/definitions").write_text("{}")
    image = repository.images / IMAGE
    subprocess.run(["mksquashfs", tmp_path / "tree", image, "-quiet", "-no-progress"], check=True)
    assert "not a plain folder" in refused(repository)
