"""What an audit finds in the local tree; a night that prepares meanwhile is not among it."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from puavo_repository.audit import steps
from puavo_repository.audit.local import local
from puavo_repository.audit.report import LOCAL
from puavo_repository.formats.metadata import Document
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.mirror import Mirror
from support.audits import (
    DOCUMENT,
    NEW,
    OLD,
    OLDEST,
    OTHER,
    RDIFF,
    SERIES,
    Audited,
    Meanwhile,
    flip,
    only,
    said,
)
from support.repository import AMXA, FREE, V1, V4, name


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert re.search(old, text)
    path.write_text(re.sub(old, new, text, count=1))


def describe(mirror: Path, series: str, change: Callable[[Document], None]) -> None:
    """Have the mirror's own program write something else."""
    documents = Mirror(mirror).documents()
    change(documents[f"{series}.json"])
    Mirror(mirror).describe(documents.items())


def test_a_sound_mirror_is_read_once_and_has_no_finding(audited: Audited) -> None:
    (audited.mirror / ".checksums").mkdir()
    (audited.mirror / ".signatures").mkdir()
    (audited.mirror / "rdiffs" / ".new.rdiff.part").touch()
    found = local(audited.settings(audit_share=1))
    assert said(found) == []
    assert (found.counts.local_files, found.counts.rdiffs) == (10, 6)


@pytest.mark.parametrize("path", [NEW, OLDEST, RDIFF])
def test_a_flipped_bit_is_found_and_named(audited: Audited, path: str) -> None:
    flip(audited.mirror / path)
    finding = only(local(audited.settings(audit_share=1)))
    assert (finding.severity.value, finding.where, finding.file) == ("error", "local", path)
    assert "is not the file that the metadata describes" in finding.problem
    assert finding.expected != finding.found
    assert finding.repairable == path.startswith("rdiffs/")
    if not finding.repairable:
        described = audited.repository.meta(f"{AMXA}-amd64")
        assert any(str(image["sha512"]) in finding.remedy for image in described)


STRAY = "not part of the mirror"


def to_link(path: Path) -> None:
    path.rename(path.with_name(".x"))
    path.symlink_to(".x")


@pytest.mark.parametrize(
    ("file", "harm", "severity", "problem"),
    [
        (NEW, Path.unlink, "error", "is missing"),
        (RDIFF, Path.unlink, "error", "is missing"),
        (OLD, lambda path: os.truncate(path, 5), "error", "its size differs"),
        (OLD, to_link, "error", "no plain file"),
        ("CKSUMS", Path.unlink, "error", "does not say"),
        ("CKSUMS", lambda path: flip(path, 0), "error", "does not say"),
        (DOCUMENT, lambda path: flip(path, 0), "error", "is damaged"),
        (DOCUMENT, lambda path: rewrite(path, '"filename": "', '"filename": "../'), "error", "../"),
        (DOCUMENT, lambda path: path.write_text("[" * 100_000), "error", "nested"),
        ("index.html", Path.touch, "warning", STRAY),
        ("rdiffs/x", Path.mkdir, "warning", STRAY),
        ("meta/x.bak", Path.touch, "warning", STRAY),
    ],
)
def test_what_is_wrong_is_found_and_named(
    audited: Audited, file: str, harm: Callable[[Path], object], severity: str, problem: str
) -> None:
    harm(audited.mirror / file)
    found = local(audited.settings(audit_share=1))
    mine = [one for one in found.findings if one.file == file]
    assert [(one.severity.value, problem in one.problem) for one in mine] == [(severity, True)]
    assert [one.file for one in found.findings if one.file != file] in ([], [".x"])


def test_an_old_part_file_is_a_stray(audited: Audited) -> None:
    part = audited.mirror / ".left.img.part"
    part.touch()
    os.utime(part, (1, 1))
    assert [one.file for one in local(audited.settings()).findings] == [part.name]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("version", "20010101000000", "its version is not"),
        ("urls", [], "has no urls"),
        ("sha256", "", "has no usable sha256"),
        ("id", "x", "its id is not"),
        ("puavo-conf", None, "has no puavo-conf"),
        ("filename", "x.img", "is no image's name"),
    ],
)
def test_metadata_that_breaks_what_clients_rely_on_is_found(
    audited: Audited, key: str, value: object, problem: str
) -> None:
    def change(document: Document) -> None:
        images = document[f"{FREE}-amd64"]["images"]
        assert isinstance(images, list)
        images[0][key] = value

    describe(audited.mirror, f"{FREE}-amd64", change)
    found = local(audited.settings())
    problems = [one.problem for one in found.findings if one.file == f"meta/{FREE}-amd64.json"]
    assert len(problems) == 1
    assert problem in problems[0]


def test_one_more_key_beside_images_breaks_every_client(audited: Audited) -> None:
    describe(audited.mirror, SERIES, lambda document: document[SERIES].update(note=[]))
    assert "has keys beside images" in only(local(audited.settings())).problem


def test_an_rdiff_that_is_described_rightly_but_gives_another_image_is_found(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(audited.mirror / OTHER, audited.mirror / RDIFF)
    digests = digest_file(audited.mirror / RDIFF, lambda _done: None).to_dict()

    def change(document: Document) -> None:
        images = document[SERIES]["images"]
        assert isinstance(images, list)
        for image in images:
            for diff in image["diffs"]:
                if f"rdiffs/{diff['filename']}" == RDIFF:
                    diff.update(digests)

    monkeypatch.setattr(steps, "FEW", 0)
    describe(audited.mirror, SERIES, change)
    assert said(local(audited.settings(audit_share=0))) == []
    found = []
    for times in range(2):
        audited.was_checked(LOCAL, times)
        found.append(local(audited.settings(audit_share=0.5)))
    finding = only(next(one for one in found if one.findings))
    assert (finding.file, finding.repairable) == (RDIFF, True)
    assert sum(one.counts.rdiffs for one in found) == 5, "each rdiff had its turn"
    audited.was_checked(LOCAL, 0, RDIFF)
    assert only(local(audited.settings(audit_share=0))).file == RDIFF


def test_an_rdiff_whose_extra_source_is_gone_is_a_warning(audited: Audited) -> None:
    repository = audited.repository
    extra = f"ltsp-x-buster-{V1}-amd64.img"
    repository.add(extra)
    config = {SERIES: {"images": [OLD, NEW], "extra_rdiffs": {NEW: [extra]}}}
    repository.write_config("buster", config)
    assert repository.prepare(repository=audited.url, no_config=True, max_delete=1).ok
    settings = audited.settings(audit_share=1)
    assert said(local(settings)) == []
    (repository.images / extra).unlink()
    finding = only(local(settings))
    assert finding.severity.value == "warning"
    assert extra in finding.problem


def test_a_file_of_two_series_is_read_once(audited: Audited) -> None:
    config = {SERIES: [OLDEST, OLD, NEW], "devel-amd64": [OLD, NEW]}
    audited.repository.write_config("buster", config)
    assert audited.repository.prepare(repository=audited.url, no_config=True).ok
    found = local(audited.settings())
    assert said(found) == []
    assert found.counts.local_files == 9


def test_a_night_that_prepares_meanwhile_is_no_finding(audited: Audited) -> None:
    repository = audited.repository

    def night() -> None:
        shutil.copy(repository.images / OLD, repository.images / "kept")
        (repository.images / OLDEST).unlink()
        (repository.images / OLD).unlink()
        repository.add(OLD, size=61_000)  # another image under the same name
        (repository.images / "kept").unlink()
        repository.add(name(V4))
        assert repository.prepare(repository=audited.url).ok

    assert said(local(audited.settings(audit_share=1), Meanwhile(night))) == []
    assert not (audited.mirror / OLDEST).exists()


def test_a_night_in_the_middle_of_its_work_is_neither_held_up_nor_waited_for(
    audited: Audited,
) -> None:
    mirror = Mirror(audited.mirror)
    with mirror.locked("the nightly run"):
        begun = time.monotonic()
        audited.repository.add(name(V4))
        shutil.copy(audited.repository.images / name(V4), audited.mirror / name(V4))
        record = mirror.state.images.get(NEW)
        assert record is not None
        mirror.state.images.put(replace(record, name=name(V4)))
        mirror.remove_from_metadata({RDIFF})
        found = local(audited.settings(audit_share=1))
    assert said(found) == []
    assert time.monotonic() - begun < 5


def test_a_file_that_is_withdrawn_while_it_is_read_is_no_finding(audited: Audited) -> None:
    def happens() -> None:
        Mirror(audited.mirror).remove_from_metadata({RDIFF})
        (audited.mirror / RDIFF).write_bytes(b"anew")

    assert said(local(audited.settings(audit_share=1), Meanwhile(happens))) == []


def test_a_wrong_address_that_breaks_no_rule_is_found(audited: Audited) -> None:
    rewrite(audited.mirror / DOCUMENT, "https://", "https:/x")
    (found,) = local(audited.settings()).findings
    assert (found.file, found.problem) == (DOCUMENT, "is not as it was written")


@pytest.mark.parametrize("key", ["size", "cksum", "sha256", "sha512"])
def test_every_digest_counts(audited: Audited, key: str) -> None:
    def change(document: Document) -> None:
        image = document[SERIES]["images"][-1]
        last = "1" if str(image[key])[-1] == "0" else "0"
        image[key] = image["size"] + 1 if key == "size" else image[key][:-1] + last
        assert image["filename"] == NEW

    describe(audited.mirror, SERIES, change)
    found = [one for one in local(audited.settings()).findings if one.file == NEW]
    assert [one.problem for one in found] == [
        f"is not the file that the metadata describes: its {key} differs"
    ]


@pytest.mark.parametrize("path", ["CKSUMS", DOCUMENT])
def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(audited: Audited, path: str) -> None:
    good = (audited.mirror / path).read_bytes()
    (audited.mirror / path).unlink()
    os.mkfifo(audited.mirror / path)
    assert path in {one.file for one in local(audited.settings()).findings}
    assert audited.repository.prepare(repository=audited.url).ok
    assert (audited.mirror / path).read_bytes() == good
    assert said(local(audited.settings())) == []
