"""What clients have stays theirs: whatever is unmounted, broken, unreadable or taken away."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.delta import contained
from puavo_repository.delta.work import prove_rdiff
from puavo_repository.errors import MassDeleteError, StorageRefusedError
from puavo_repository.mirror import files
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import Failure
from puavo_repository.mirror.store import Records
from puavo_repository.prepare.describe import clean, describe
from puavo_repository.prepare.fingerprint import fingerprint
from puavo_repository.prepare.plan import DiffState
from puavo_repository.prepare.run import dry_run
from support.repository import AMXA, FREE, V1, V2, V3, V4, Repository, name, public, snapshot

V5 = "2022-03-01-120000"
SERIES = f"{AMXA}-amd64"
OLDER = (V1, V2, V3, V4)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return a repository of four images that nobody may change."""
    found = Repository(tmp_path_factory.mktemp("prepared"))
    for version in OLDER:
        found.add(name(version))
    assert found.prepare().ok
    return found


@pytest.fixture
def seeded(prepared: Repository, repository: Repository) -> Repository:
    """Return a copy of it: links, times and all, so that there is nothing to be done."""
    subprocess.run(["cp", "-a", f"{prepared.root}/.", repository.root], check=True)
    return repository


def offered(repository: Repository) -> list[str]:
    return [image["filename"] for image in repository.meta()]


# 4: mass removal


@pytest.mark.parametrize("unmounted", ["images", "images and mirror"])
def test_an_image_directory_that_has_become_empty_is_an_error(
    seeded: Repository, unmounted: str
) -> None:
    seeded.images.rename(seeded.root / "elsewhere")
    seeded.images.mkdir()
    if "mirror" in unmounted:
        shutil.rmtree(seeded.mirror)
    before = snapshot(seeded.root)
    with pytest.raises(MassDeleteError, match=r"holds no image any more.*ALLOW_MASS_DELETE=true"):
        seeded.prepare()
    assert snapshot(seeded.root) == before
    assert seeded.prepare(allow_mass_delete=True).ok
    assert public(seeded.mirror) == {"CKSUMS": b""}


def test_more_images_gone_than_was_agreed_on_change_nothing(seeded: Repository) -> None:
    for version in (V1, V2):
        (seeded.images / name(version)).unlink()
    seeded.add(name(V1, FREE))
    before = snapshot(seeded.root)
    for begin in (seeded.prepare, lambda: clean(seeded.settings())):
        with pytest.raises(MassDeleteError, match=r"2 images would go.*at most 30% at once"):
            begin()
    assert snapshot(seeded.root) == before
    assert seeded.prepare(max_delete=0.5).ok
    assert offered(seeded) == [name(V3), name(V4)]


def test_a_configuration_that_names_less_is_refused_as_well(seeded: Repository) -> None:
    seeded.write_config("buster", {SERIES: [name(V4)]})
    before = public(seeded.mirror)
    with pytest.raises(MassDeleteError, match="ALLOW_MASS_DELETE=true"):
        seeded.prepare(no_config=True)
    assert public(seeded.mirror) == before


def test_a_series_that_a_killed_night_took_away_is_agreed_on_once(
    seeded: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few are described when it goes on: one was replaced, and a new one is not in place yet."""
    seeded.add(name(V1, FREE))
    assert seeded.prepare().ok
    for gone in (name(V1, FREE), name(V1)):
        (seeded.images / gone).unlink()
    seeded.add(name(V2), size=70_000)
    seeded.add(name(V5))
    for read in (name(V2), name(V5)):
        fingerprint(seeded.settings(), read)
    remove = files.remove

    def killed(path: Path) -> bool:
        if path.parent == seeded.mirror:
            raise KeyboardInterrupt
        return remove(path)

    with monkeypatch.context() as patched:
        patched.setattr(files, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            seeded.prepare()
    assert (seeded.mirror / name(V1, FREE)).exists()
    assert seeded.prepare().ok
    assert not (seeded.mirror / name(V1, FREE)).exists()


@pytest.mark.parametrize("known", [True, False])
def test_a_series_whose_metadata_was_lost_is_still_there(
    seeded: Repository, *, known: bool
) -> None:
    seeded.add(name(V1, FREE))
    assert seeded.prepare().ok
    (seeded.images / name(V1, FREE)).unlink()
    (seeded.mirror / "meta" / f"{FREE}-amd64.json").unlink()
    if not known:  # as where another system made it
        (seeded.mirror / ".puavo-repository/description.json").unlink()
    with pytest.raises(MassDeleteError, match="1 image would go"):
        seeded.prepare(max_delete=0.1)


def test_a_newer_image_takes_the_place_of_an_older_one(repository: Repository) -> None:
    repository.add(name(V1))
    repository.prepare()
    (repository.images / name(V1)).unlink()
    repository.add(name(V2))
    assert repository.prepare().ok
    assert offered(repository) == [name(V2)]


@pytest.mark.parametrize("other", [name(V1, FREE), name(V1)])
def test_an_image_of_another_series_or_an_older_one_does_not(
    repository: Repository, other: str
) -> None:
    repository.add(name(V2))
    repository.prepare()
    (repository.images / name(V2)).unlink()
    repository.add(other)
    with pytest.raises(MassDeleteError):
        repository.prepare()
    assert offered(repository) == [name(V2)]


def test_a_broken_newcomer_takes_nobody_s_place(repository: Repository) -> None:
    repository.add(name(V1))
    repository.prepare()
    before = public(repository.mirror)
    (repository.images / name(V1)).unlink()
    (repository.images / name(V2)).write_bytes(b"hsqs broken")
    with pytest.raises(MassDeleteError):
        repository.prepare()
    assert public(repository.mirror) == before


def test_clients_are_led_to_nothing_that_cleaning_removes(
    seeded: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    (seeded.images / name(V1)).unlink()
    remove = files.remove

    def removed(path: Path) -> bool:
        done = remove(path)
        assert not Mirror(seeded.mirror).wrong_files(), f"{path} is gone and still described"
        return done

    monkeypatch.setattr(files, "remove", removed)
    assert name(V1) in clean(seeded.settings())
    assert offered(seeded) == [name(V2), name(V3), name(V4)]
    assert seeded.check() == 6


# 5: only what can be used counts


@pytest.mark.alike(1)
@pytest.mark.parametrize(("targets", "rdiffs"), [(3, 9), (1, 3)])
def test_a_broken_newcomer_pushes_out_no_rdiff(
    repository: Repository, targets: int, rdiffs: int
) -> None:
    for version in OLDER:
        repository.add(name(version))
    assert len(repository.prepare(targets=targets).rdiffs) == rdiffs
    before = public(repository.mirror)
    whole = repository.add(name(V5)).read_bytes()
    (repository.images / name(V5)).write_bytes(whole[:5000])
    for _ in range(2):
        found = repository.prepare(targets=targets)
        assert [failure.name for failure in found.failures] == [name(V5)]
        assert public(repository.mirror) == before
    (repository.images / name(V5)).write_bytes(whole)
    assert repository.prepare(targets=targets).ok
    assert {diff["version"] for diff in repository.meta()[4]["diffs"]} == {
        version.replace("-", "") for version in OLDER
    }
    assert repository.check() == (12 if targets == 3 else 4)


# 9 and 26: what cannot be looked at is not gone


@pytest.mark.parametrize("how", ["dangling", "unreachable"])
def test_an_image_behind_a_broken_link_stays_with_the_clients(
    seeded: Repository, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = public(seeded.mirror)
    path = seeded.images / name(V2)
    if how == "dangling":
        path.unlink()
        path.symlink_to("/mnt/not-mounted/image")
    else:
        _deny(monkeypatch, path)
    (failure,) = seeded.prepare().failures
    assert failure.name == name(V2)
    assert public(seeded.mirror) == before
    assert seeded.read_config("buster")[SERIES] == [name(version) for version in OLDER]


@pytest.mark.parametrize("folder", ["images", "mirror/meta", "puavo-os/config/images"])
def test_a_folder_that_cannot_be_listed_is_an_error(
    seeded: Repository, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(seeded.root)
    with monkeypatch.context() as patched:
        _deny(patched, seeded.root / folder)
        with pytest.raises(StorageRefusedError, match=f"{folder}: Permission denied"):
            seeded.prepare()
    assert snapshot(seeded.root) == before


@pytest.mark.parametrize("folder", ["mirror/meta", "puavo-os/config/images"])
def test_a_folder_that_is_a_broken_link_is_not_an_empty_one(
    seeded: Repository, folder: str
) -> None:
    path = seeded.root / folder
    path.rename(seeded.root / "unmounted")
    path.symlink_to("/mnt/not-mounted")
    with pytest.raises(StorageRefusedError, match="not-mounted"):
        seeded.prepare()


def _deny(monkeypatch: pytest.MonkeyPatch, denied: Path) -> None:
    """Have the system refuse a path; root may look everywhere, and tests may run as root."""
    look, scan, stat = os.listdir, os.scandir, os.stat

    def refused(path: object) -> bool:
        return isinstance(path, str | Path) and Path(path) == denied

    def denying(real: Any) -> Any:
        def checked(path: Any = ".", *arguments: Any, **more: Any) -> Any:
            if refused(path):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *arguments, **more)

        return checked

    monkeypatch.setattr(os, "listdir", denying(look))
    monkeypatch.setattr(os, "scandir", denying(scan))
    if denied.suffix == ".img":
        monkeypatch.setattr(os, "stat", denying(stat))


# 34: somebody's folder


@pytest.mark.parametrize("content", [b'{"name": "theirs"}', b"{}", b"not json", b"[1]"])
def test_somebody_s_files_in_meta_are_neither_removed_nor_replaced(
    repository: Repository, content: bytes
) -> None:
    repository.add(name(V1))
    for file in ("package.json", f"{SERIES}.json"):
        theirs = repository.mirror / "meta" / file
        theirs.parent.mkdir(parents=True, exist_ok=True)
        theirs.write_bytes(content)
        for step in (repository.prepare, lambda: describe(repository.settings())):
            with pytest.raises(StorageRefusedError, match=r"package|amxa.*no run wrote it"):
                step()
        assert theirs.read_bytes() == content
        theirs.unlink()
    assert repository.prepare().ok


# 29: room


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Repository]:
    """Yield a repository on a file system that is soon full."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield Repository(tmp_path / "repository")
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.parametrize(("targets", "rdiffs"), [(3, 6), (0, 0)])
def test_what_the_operator_removes_makes_room_on_a_full_disk(
    small_disk: Repository, targets: int, rdiffs: int
) -> None:
    for version in OLDER:
        small_disk.add(name(version))
    assert small_disk.prepare(targets=targets).ok
    (small_disk.images / name(V1)).unlink()
    if not rdiffs:  # nothing goes that no client sees: only what can be made again makes room
        (small_disk.mirror / ".puavo-repository/anchors" / name(V1)).unlink()
    filler = small_disk.root / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
    report = small_disk.prepare(targets=targets)
    assert report.ok
    assert name(V1) in report.removed
    assert offered(small_disk) == [name(V2), name(V3), name(V4)]
    assert small_disk.check() == rdiffs


def test_one_image_of_a_small_series_may_be_taken_away(repository: Repository) -> None:
    for version in (V1, V2, V3):
        repository.add(name(version))
    assert repository.prepare().ok
    (repository.images / name(V3)).unlink()
    assert repository.prepare().ok
    assert [entry["filename"] for entry in repository.meta()] == [name(V1), name(V2)]
    assert not (repository.mirror / name(V3)).exists()


def test_somebody_s_cksums_is_not_replaced(repository: Repository) -> None:
    repository.add(name(V1))
    repository.mirror.mkdir()
    (repository.mirror / "CKSUMS").write_bytes(b"my own notes\n")
    with pytest.raises(StorageRefusedError, match=r"CKSUMS.*no run wrote it"):
        repository.prepare()
    assert (repository.mirror / "CKSUMS").read_bytes() == b"my own notes\n"


@pytest.mark.parametrize("version", [V2, V4])
@pytest.mark.parametrize("how", ["unreachable", "broken"])
def test_what_cannot_be_made_with_an_image_is_not_tried_and_not_counted_as_failed_beside_it(
    seeded: Repository, how: str, version: str
) -> None:
    victim = seeded.images / name(version)
    if how == "unreachable":
        victim.unlink()
        victim.symlink_to(seeded.root / "unmounted" / victim.name)
    else:
        victim.write_bytes(victim.read_bytes()[:2000])
    next((seeded.mirror / "rdiffs").glob(f"*{V2}*{V4}*")).unlink()
    tried = dry_run(seeded.settings()).pairs(DiffState.MISSING)
    assert not [pair for pair in tried if victim.name in {pair.source, pair.target}]
    found = seeded.prepare()
    assert {failure.name for failure in found.failures} == {victim.name}


@pytest.mark.parametrize("step", ["describe", "remove"])
def test_a_night_that_was_killed_in_the_middle_is_no_mass_removal(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The new images are in the mirror by then, so they do not look new any more."""
    for prefix in (AMXA, FREE):
        for version in (V1, V2):
            repository.add(name(version, prefix))
    assert repository.prepare().ok
    for prefix in (AMXA, FREE):
        (repository.images / name(V1, prefix)).unlink()
        repository.add(name(V3, prefix))

    class KilledError(Exception):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        if step == "describe":
            patched.setattr(Mirror, "describe", killed)
        else:
            patched.setattr("puavo_repository.prepare.describe._remove", killed)
        with pytest.raises(KilledError):
            repository.prepare()
    assert repository.prepare().ok
    assert offered(repository) == [name(V2), name(V3)]


def test_why_an_image_failed_is_in_the_log_where_it_cannot_be_kept(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (repository.images / name(V1)).write_bytes(b"no image")
    usual = Records.put

    def full(records: Records[Any], record: Any) -> None:
        if isinstance(record, Failure) and "squashfs" in record.message:
            raise StorageRefusedError(repository.mirror, "as if the disk was full")
        usual(records, record)

    with monkeypatch.context() as disk:
        disk.setattr(Records, "put", full)
        (failure,) = repository.prepare().failures
    assert "see the log" in failure.message
    assert "as if the disk was full" in caplog.text
    assert "not a squashfs image" in caplog.text
    caplog.clear()
    assert "not a squashfs image" in repository.prepare().failures[0].message
    assert caplog.text.count("not a squashfs image") == 1


def test_an_rdiff_that_waits_for_a_changed_image_is_no_failure_but_in_the_log(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    repository.add(name(V1))
    assert repository.prepare().ok
    repository.add(name(V2))
    call = contained.call

    def change(*arguments: Any, **more: Any) -> Any:
        if prove_rdiff in arguments:
            return repository.add(name(V1), size=70_000)
        return call(*arguments, **more)

    with monkeypatch.context() as somebody:
        somebody.setattr(contained, "call", change)
        assert repository.prepare().ok, "the next run makes it"
    assert "changed after it was fingerprinted" in caplog.text
    assert len(repository.prepare().rdiffs) == 2
