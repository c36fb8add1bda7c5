from __future__ import annotations

import errno
import fcntl
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.errors import ImageChangingError, RepositoryError
from puavo_repository.mirror import files
from puavo_repository.mirror import mirror as mirror_module
from puavo_repository.mirror.mirror import Mirror, place
from puavo_repository.prepare.fingerprint import fingerprint
from support.instead import instead
from support.repository import AMXA, V1, V2, Repository, name, snapshot

ONE, TWO = name(V1), name(V2)
RDIFF = f"rdiffs/{AMXA}-{V1}--{V2}-amd64.rdiff"


@pytest.fixture
def mirror(repository: Repository) -> Mirror:
    for image in (ONE, TWO):
        repository.add(image)
    repository.prepare()
    return Mirror(repository.mirror)


def described(mirror: Mirror) -> set[str]:
    return {
        image["filename"]
        for document in mirror.documents().values()
        for series in document.values()
        for image in series["images"]
    }


def test_images_are_hard_links(repository: Repository, mirror: Mirror) -> None:
    assert (mirror.root / ONE).samefile(repository.images / ONE)


def test_a_file_is_withdrawn_from_metadata_and_cksums(mirror: Mirror) -> None:
    mirror.remove_from_metadata({ONE})
    assert described(mirror) == {TWO}
    assert ONE not in mirror.cksums.read_text()
    assert RDIFF.rpartition("/")[2] not in mirror.cksums.read_text()
    before = snapshot(mirror.root)
    mirror.remove_from_metadata({ONE})
    assert snapshot(mirror.root) == before


def test_an_rdiff_is_withdrawn_alone(mirror: Mirror) -> None:
    mirror.remove_from_metadata({RDIFF})
    assert described(mirror) == {ONE, TWO}
    assert RDIFF.rpartition("/")[2] not in mirror.cksums.read_text()


@pytest.mark.parametrize("path", [ONE, RDIFF])
def test_missing_and_changed_files_are_found_without_reading(mirror: Mirror, path: str) -> None:
    assert mirror.wrong_files() == set()
    (mirror.root / path).rename(mirror.root / "aside")
    assert mirror.wrong_files() == {path}
    (mirror.root / path).write_bytes(b"x" * (mirror.root / "aside").stat().st_size)
    assert mirror.wrong_files() == {path}


def test_a_link_is_never_made_to_another_version(repository: Repository, mirror: Mirror) -> None:
    record = mirror.state.images.get(ONE)
    assert record is not None
    (repository.images / ONE).unlink()
    repository.add(ONE, size=70_000)
    (mirror.root / ONE).unlink()
    with pytest.raises(ImageChangingError):
        place(mirror, repository.images / ONE, record)
    assert not (mirror.root / ONE).exists()


def test_where_links_are_impossible_the_image_is_copied_and_compared(
    repository: Repository, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror.root / ONE).unlink()
    instead(monkeypatch, mirror_module, os, link=_refuse)
    record = fingerprint(repository.settings(), ONE)
    place(mirror, repository.images / ONE, record)
    assert (mirror.root / ONE).read_bytes() == (repository.images / ONE).read_bytes()
    assert not (mirror.root / ONE).samefile(repository.images / ONE)
    known = mirror.state.images.get(ONE)
    assert known is not None
    assert known.copy is not None
    before = (mirror.root / ONE).stat()
    place(mirror, repository.images / ONE, known)
    assert (mirror.root / ONE).stat() == before
    assert mirror.wrong_files() == set()


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_an_image_that_cannot_be_placed_is_named_and_not_the_mirrors_file(
    repository: Repository, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, opened = repository.images / ONE, Path.open
    (mirror.root / ONE).unlink()
    record = mirror.state.images.get(ONE)
    assert record is not None

    class Broken(io.FileIO):
        def read(self, *_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    def unreadable(path: Path, *arguments: Any) -> Any:
        if path == image:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments)

    def broken(path: Path, *arguments: Any) -> Any:
        return Broken(path) if path == image else opened(path, *arguments)

    def says() -> str:
        with pytest.raises(RepositoryError) as caught:
            place(mirror, image, record)
        assert caught.value.subject == str(image)
        return caught.value.problem

    with monkeypatch.context() as here:
        instead(here, mirror_module, os, link=_refuse)
        instead(here, mirror_module, fcntl, ioctl=_refuse)
        here.setattr(Path, "open", unreadable)
        assert says() == "Permission denied"
        here.setattr(Path, "open", broken)
        assert says() == "Input/output error"
    image.unlink()
    assert says() == "No such file or directory"


def test_only_what_a_preparation_put_there_is_owned(mirror: Mirror) -> None:
    foreign = [name("2020-01-01-000000"), "notes.txt", "rdiffs/readme", "meta/.hidden.json"]
    for path in foreign:
        (mirror.root / path).touch()
    assert not mirror.owned(mirror.there()) & set(foreign)
    assert {ONE, TWO, RDIFF} <= mirror.owned(mirror.there())


def test_damaged_metadata_counts_as_empty(mirror: Mirror) -> None:
    path = mirror.meta / f"{AMXA}-amd64.json"
    path.write_bytes(path.read_bytes()[:-20])
    assert mirror.documents() == {path.name: {}}


def test_a_copy_that_is_not_what_was_fingerprinted_gets_no_name(
    repository: Repository, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror.root / ONE).unlink()
    instead(monkeypatch, mirror_module, os, link=_refuse)
    instead(monkeypatch, mirror_module, fcntl, ioctl=_refuse)
    record = mirror.state.images.get(ONE)
    assert record is not None
    other = replace(record, digests=replace(record.digests, sha512="0" * 128))
    with pytest.raises(ImageChangingError):
        place(mirror, repository.images / ONE, other)
    assert not (mirror.root / ONE).exists()
    place(mirror, repository.images / ONE, record)
    assert (mirror.root / ONE).read_bytes() == (repository.images / ONE).read_bytes()


def test_no_image_is_described_while_another_takes_its_place(
    repository: Repository, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository.images / ONE).unlink()
    repository.add(ONE, size=70_000)
    record, seen = fingerprint(repository.settings(), ONE), []
    claim = files.claim

    def named(part: Path, path: Path, before: files.Seen | None) -> None:
        seen.append((path.name, described(mirror)))
        claim(part, path, before)

    monkeypatch.setattr(files, "claim", named)
    place(mirror, repository.images / ONE, record)
    assert (ONE, {TWO}) in seen
    assert (mirror.root / ONE).samefile(repository.images / ONE)


def test_a_copy_is_durable_before_its_name(
    repository: Repository, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror.root / ONE).unlink()
    done, claim = [], files.claim

    def synced(descriptor: int) -> None:
        done.append("synced")
        os.fsync(descriptor)

    def named(part: Path, path: Path, before: files.Seen | None) -> None:
        done.append("named")
        claim(part, path, before)

    instead(monkeypatch, mirror_module, os, link=_refuse, fsync=synced)
    monkeypatch.setattr(files, "claim", named)
    place(mirror, repository.images / ONE, fingerprint(repository.settings(), ONE))
    assert done[:2] == ["synced", "named"]


def test_a_reflink_of_an_image_that_changes_meanwhile_gets_no_name(
    repository: Repository, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror.root / ONE).unlink()
    instead(monkeypatch, mirror_module, os, link=_refuse)
    touched = lambda *_: os.utime(repository.images / ONE)  # noqa: E731
    instead(monkeypatch, mirror_module, fcntl, ioctl=touched)
    record = fingerprint(repository.settings(), ONE)
    with pytest.raises(ImageChangingError):
        place(mirror, repository.images / ONE, record)
    assert not (mirror.root / ONE).exists()
