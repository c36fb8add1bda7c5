from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.formats import jsonfile
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.prepare import describe, fingerprint
from support.repository import AMXA, FREE, V1, V2, V3, V4, Repository, name, public, snapshot

SERIES = f"{AMXA}-amd64"


def images(repository: Repository) -> list[str]:
    return [image["filename"] for image in repository.meta()]


def test_the_mirror_of_the_old_readme(repository: Repository) -> None:
    repository.seed()
    report = repository.prepare(repository="images.example")
    assert report.ok
    assert repository.check() == 9
    assert sorted(public(repository.mirror)) == sorted(
        [
            "CKSUMS",
            f"meta/{SERIES}.json",
            f"meta/{FREE}-amd64.json",
            name("2022-02-04-140532", FREE),
            *(name(version) for version in (V1, V2, V3, V4)),
            *(
                f"rdiffs/{AMXA}-{source}--{target}-amd64.rdiff"
                for target in (V2, V3, V4)
                for source in (V1, V2, V3, V4)
                if source != target
            ),
        ]
    )
    assert images(repository) == [name(version) for version in (V1, V2, V3, V4)]
    found = repository.meta()
    assert [diff["version"] for diff in found[3]["diffs"]] == [
        "20210413192449",
        "20210413193910",
        "20220117120001",
    ]
    assert found[0]["diffs"] == []
    assert found[0]["puavo-conf"] == {"puavo.demo.version": {"default": name(V1)}}
    assert found[0]["urls"] == [f"https://images.example/{name(V1)}"]
    assert list(json.loads((repository.mirror / "meta" / f"{SERIES}.json").read_text())) == [SERIES]


def test_a_second_run_changes_no_byte_and_reads_no_image(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.seed()
    repository.prepare()
    before = snapshot(repository.root)
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **more: Any) -> Any:
        assert self.suffix not in {".img", ".rdiff"}
        return opened(self, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        report = repository.prepare()
    assert report.ok
    assert (report.images_read, report.rdiffs_made) == (0, 0)
    assert snapshot(repository.root) == before


def test_a_new_image_costs_only_its_own_work(repository: Repository) -> None:
    for version in (V1, V2, V3):
        repository.add(name(version))
    repository.prepare()
    before = public(repository.mirror)
    repository.add(name(V4))
    report = repository.prepare()
    # of the three targets now, V2 and V3 were targets before: they get one rdiff more each
    assert (report.images_read, report.rdiffs_made) == (1, 5)
    assert repository.check() == 9
    after = public(repository.mirror)
    kept = [path for path in before if path.endswith(".rdiff") and path in after]
    assert all(before[path] == after[path] for path in kept)


def test_a_removed_image_leaves_nothing_behind(repository: Repository) -> None:
    repository.seed()
    repository.prepare()
    (repository.images / name(V2)).unlink()
    (repository.images / name("2022-02-04-140532", FREE)).unlink()
    report = repository.prepare(max_delete=0.4)
    assert report.ok
    assert images(repository) == [name(V1), name(V3), name(V4)]
    left = snapshot(repository.mirror)
    assert not [path for path in left if V2 in path or FREE in path]
    assert repository.check() == 6


def test_one_bad_image_does_not_stop_the_rest(repository: Repository) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    (repository.images / name(V3)).write_bytes(b"not an image")
    report = repository.prepare()
    assert [failure.name for failure in report.failures] == [name(V3)]
    assert images(repository) == [name(V1), name(V2)]
    assert repository.check() == 2
    state = Mirror(repository.mirror).state
    assert state.failures.names() == [name(V3)]
    repository.add(name(V3))
    assert repository.prepare().ok
    assert state.failures.names() == []
    assert repository.check() == 6


def test_clients_keep_an_image_and_its_rdiffs_until_its_replacement_is_whole(
    repository: Repository,
) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    repository.prepare()
    before = public(repository.mirror)
    content = (repository.images / name(V2)).read_bytes()
    (repository.images / name(V2)).unlink()
    (repository.images / name(V2)).write_bytes(content[:5000])
    assert not repository.prepare().ok
    assert public(repository.mirror) == before
    (repository.images / name(V2)).write_bytes(content)
    report = repository.prepare()
    assert report.ok
    assert report.rdiffs_made == 0
    assert repository.check() == 2


def test_an_image_that_was_changed_in_place_is_withdrawn_at_once(repository: Repository) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    repository.prepare()
    with (repository.images / name(V2)).open("ab") as stream:
        stream.write(b"x")
    with Mirror(repository.mirror).locked("a test"):
        assert describe.clean(repository.settings()) == ()
    assert images(repository) == [name(V1)]
    repository.check()


def test_a_replaced_image_is_described_anew(repository: Repository) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    repository.prepare()
    (repository.images / name(V2)).unlink()
    repository.add(name(V2), size=61_000)
    report = repository.prepare()
    assert report.ok
    assert (report.images_read, report.rdiffs_made) == (1, 2)
    assert repository.check() == 2


def test_no_image_is_an_empty_mirror_and_a_warning(repository: Repository) -> None:
    report = repository.prepare()
    assert report.ok
    assert "holds no image" in report.notes[0]
    assert public(repository.mirror) == {"CKSUMS": b""}


def test_a_manual_series_is_described_as_it_is_written(repository: Repository) -> None:
    manual = "ltsp-x-trusty-2016-01-21-120716-i386.img"
    for image in (name(V1), name(V2), name(V3), manual):
        repository.add(image)
    series = f"{SERIES}-devel"
    value = {series: {"images": [name(V3), manual], "extra_rdiffs": {manual: [name(V1)]}}}
    repository.write_config("buster", value)
    report = repository.prepare(no_config=True)
    assert report.ok
    found = repository.meta(series)
    assert [image["filename"] for image in found] == [name(V3), manual]
    assert [diff["version"] for diff in found[1]["diffs"]] == ["20220117120001", "20210413192449"]
    assert repository.read_config("buster") == value
    assert any("2 images in no configured series" in note for note in report.notes)


def test_what_came_meanwhile_is_the_next_run_s(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.add(name(V1))
    read = fingerprint._read

    def slowly(*arguments: Any) -> Any:
        repository.add(name(V2))
        return read(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(fingerprint, "_read", slowly)
        assert repository.prepare().ok
    assert images(repository) == [name(V1)]
    assert repository.prepare().ok
    assert images(repository) == [name(V1), name(V2)]


def test_records_that_name_an_inode_still_count(repository: Repository) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    repository.prepare()
    state = Mirror(repository.mirror).state
    for folder in (state.images.folder, state.rdiffs.folder):
        for path in folder.iterdir():
            values = jsonfile.loads_sealed(path.read_bytes())
            values["identity"].append(4711)
            path.write_bytes(jsonfile.dumps_sealed(values))
    report = repository.prepare()
    assert report.ok
    assert (report.images_read, report.rdiffs_made) == (0, 0)


def test_a_copy_with_its_times_is_known_on_another_machine(repository: Repository) -> None:
    """Inodes and devices are others there; size and time are not."""
    for version in (V1, V2):
        repository.add(name(version))
    repository.prepare()
    copy = Repository(repository.root / "copy")
    for folder in ("images", "mirror", "puavo-os"):
        shutil.copytree(repository.root / folder, copy.root / folder, dirs_exist_ok=True)
    report = copy.prepare()
    assert report.ok
    assert (report.images_read, report.rdiffs_made) == (0, 0)
    assert public(copy.mirror) == public(repository.mirror)


def test_foreign_files_in_the_mirror_stay(repository: Repository) -> None:
    repository.add(name(V1))
    repository.mirror.mkdir()
    foreign = [name("2020-01-01-000000"), "index.html", ".well-known"]
    for file in foreign:
        (repository.mirror / file).write_text("theirs")
    repository.prepare()
    assert set(foreign) <= set(os.listdir(repository.mirror))


def test_the_old_system_s_mirror_is_adopted(repository: Repository) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    repository.prepare()
    wanted = public(repository.mirror)
    # what the old system leaves: no records of ours, its own folders, and a link to a gone image
    gone = name("2020-01-01-000000")
    (repository.mirror / gone).write_bytes(b"gone")
    for folder in (".checksums", ".signatures"):
        (repository.mirror / folder).mkdir()
    (repository.mirror / ".checksums" / f"{gone}.cksum").write_text(f"1 4 {gone}\n")
    (repository.mirror / ".signatures" / f"{gone}.rdiff_signature").write_bytes(b"x" * 2000)
    times = {path: path.stat().st_mtime_ns for path in (repository.mirror / "rdiffs").iterdir()}
    for path in sorted((repository.mirror / ".puavo-repository").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    report = repository.prepare()
    assert report.ok
    assert public(repository.mirror) == wanted
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert report.removed == (gone,)
    assert (report.rdiffs_made, report.rdiffs_adopted) == (0, 2)
