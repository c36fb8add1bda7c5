"""Whose a remote and its files are: what others put there is used, and never removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from puavo_repository.errors import (
    PublishError,
)
from puavo_repository.remote import journal
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.target import Target
from support.mirrors import (
    KEEP,
    NOW,
    SERIES,
    add_image,
    content,
    image,
    journal_of,
    make_mirror,
    prepare,
    publish,
    tree_of,
    walk,
)
from support.servers import Sshd

OTHER = "puavo-os-other-bookworm-amd64"


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


def test_a_remote_that_has_to_do_with_our_own_folders_is_refused(
    mirror: Path, tmp_path: Path, sshd: Sshd
) -> None:
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    (images / image(1)).hardlink_to(mirror / image(1))
    before = [tree_of(folder) for folder in (images, mirror)]
    how = NOW.model_copy(update={"image_dir": images})
    places = [images, images / "below", tmp_path, mirror, mirror / "rdiffs"]
    for place in places:
        for target in (Target(path=str(place)), sshd.target(place)):
            with pytest.raises(PublishError, match="own folder"):
                publish(mirror, target, how)
    assert [tree_of(folder) for folder in (images, mirror)] == before
    assert not [path for path in tmp_path.rglob(".puavo-publish") if any(path.iterdir())]


@pytest.mark.parametrize("journal_is_lost", [False, True])
def test_what_others_put_there_is_used_and_never_removed(
    mirror: Path, remote: Path, folder: Target, journal_is_lost: bool
) -> None:
    for name in (image(1), image(2)):
        shutil.copy(mirror / name, remote / name)
    found = publish(mirror, folder, NOW)
    assert found.ok
    assert not {image(1), image(2)} & {*found.uploaded, *found.assembled}
    if journal_is_lost:
        (remote / journal.PATH).unlink()
    names = add_image(mirror, [image(1), image(2)])
    prepare(mirror, names[-1:], pairs=[])
    for _ in range(2):
        assert publish(mirror, folder, NOW).ok
    assert (remote / image(1)).exists()
    assert (remote / image(2)).exists()
    assert journal_is_lost or not list((remote / "rdiffs").iterdir()), "these were ours"


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


@pytest.mark.parametrize("journal_is_lost", [False, True])
def test_metadata_of_others_stays_theirs_where_it_named_a_file_that_was_replaced(
    mirror: Path, remote: Path, folder: Target, journal_is_lost: bool
) -> None:
    (remote / "meta").mkdir()
    for name in (image(1), image(9)):
        (remote / name).write_bytes(b"theirs")
    images = [{"filename": name, "size": 6} for name in (image(1), image(9))]
    path = remote / "meta" / f"{OTHER}.json"
    path.write_text(json.dumps({OTHER: {"images": images}}))
    assert image(1) in publish(mirror, folder, NOW).withdrawn
    if journal_is_lost:
        (remote / journal.PATH).unlink()
    for _ in range(2):
        assert publish(mirror, folder, NOW).ok
        (left,) = json.loads(path.read_bytes())[OTHER]["images"]
        assert left["filename"] == image(9)
    assert (remote / image(9)).exists()


def test_metadata_that_the_journal_has_no_digest_of_is_no_way_back(
    mirror: Path, remote: Path, folder: Target
) -> None:
    """Only a server that means harm has such a journal."""
    assert publish(mirror, folder, NOW).ok
    known = journal_of(folder)
    known.files[f"meta/{OTHER}.json"] = journal.Entry(0, "", None, None)
    (remote / journal.PATH).write_bytes(known.render())
    (remote / "meta" / f"{OTHER}.json").write_text("{}")
    assert publish(mirror, folder, NOW).ok
    assert not (remote / "meta" / f"{OTHER}.json").exists()
    record = journal.load_generation(FolderTree(folder), 2)
    assert record is not None
    assert record.replaced[f"meta/{OTHER}.json"] == journal.LOST.decode()
