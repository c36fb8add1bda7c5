"""What an audit finds on a remote, by a folder and by SFTP, also while somebody publishes there."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.audit import steps
from puavo_repository.audit.local import local
from puavo_repository.audit.remote import remote
from puavo_repository.audit.report import Checked
from puavo_repository.errors import StorageRefusedError
from puavo_repository.publish import survey, switch, upload
from puavo_repository.publish.publisher import Publisher
from puavo_repository.remote import journal
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Range
from puavo_repository.rollback import rollback
from support.audits import (
    DOCUMENT,
    KEEP,
    NEW,
    OLD,
    OLDEST,
    RDIFF,
    Audited,
    Meanwhile,
    flip,
    only,
    said,
)
from support.instead import have_time
from support.repository import V4, name
from support.servers import Proxy, Sshd


def audit(audited: Audited, target: Target | None = None, share: float = 1) -> Checked:
    return remote(audited.settings(audit_share=share), target or audited.target)


def test_without_journal_and_metadata_nothing_is_called_a_stranger(audited: Audited) -> None:
    """Whoever believed that would remove the images that clients have, where no mirror is left."""
    shutil.rmtree(audited.mirror)
    (audited.remote / journal.PATH).unlink()
    flip(audited.remote / DOCUMENT, 0)
    found = {(one.file, one.problem) for one in audit(audited).findings}
    assert (DOCUMENT, "is damaged") in found
    assert not [file for file, problem in found if "not part of the mirror" in problem]


def test_a_sound_remote_has_no_finding_and_is_not_changed(audited: Audited, target: Target) -> None:
    def shape() -> dict[Path, tuple[int, int, int]]:
        found = {path: path.stat() for path in audited.remote.rglob("*")}
        return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in found.items()}

    before = shape()
    found = audit(audited, target)
    assert said(found) == []
    assert found.where == target.url
    assert (found.counts.remote_files, found.counts.remote_read) == (10, 10)
    found = audit(audited, target, share=0)
    assert said(found) == []
    assert (found.counts.remote_read, found.counts.ranges) == (0, 10)
    assert shape() == before


@pytest.mark.parametrize("path", [OLDEST, RDIFF])
def test_a_bit_that_flipped_on_the_remote_is_found_by_reading_in_full(
    audited: Audited, target: Target, path: str
) -> None:
    flip(audited.remote / path)
    (audited.mirror / path).unlink()  # nothing to compare with: its own metadata is enough
    finding = only(audit(audited, target))
    assert (finding.severity.value, finding.where, finding.file) == ("error", target.url, path)
    assert "its sha256 differs" in finding.problem
    assert finding.repairable


def test_each_file_is_read_in_full_in_its_turn(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "FEW", 0)
    flip(audited.remote / NEW)
    (audited.mirror / NEW).unlink()
    found = []
    for times in range(4):
        audited.was_checked(audited.target.name, times)
        found.append(audit(audited, share=0.25))
    assert sum(len(one.findings) for one in found) == 1
    assert sum(one.counts.remote_read for one in found) == 10 + 1, "the wrong one twice"


def test_a_small_mirror_is_read_in_full_each_time(audited: Audited) -> None:
    flip(audited.remote / NEW)
    for times in range(3):
        audited.was_checked(audited.target.name, times)
        assert only(audit(audited, share=0.01)).file == NEW


def test_a_file_that_somebody_wrote_is_read_whoever_s_turn_it_is(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puavo_repository.audit.remote.samples", lambda _size: [])
    flip(audited.remote / NEW)
    assert said(audit(audited, share=0)) == []
    os.utime(audited.remote / NEW, (1, 1))
    assert only(audit(audited, share=0)).file == NEW


def test_samples_find_what_they_hit(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(audited.remote / NEW, at=5_000)
    monkeypatch.setattr(survey, "WHOLE", 0)
    hits: list[Range] = [Range(0, 4_000)]
    monkeypatch.setattr("puavo_repository.audit.remote.samples", lambda _size: hits)
    assert said(audit(audited, share=0)) == []
    hits[0] = Range(4_000, 2_000)
    finding = only(audit(audited, share=0))
    assert (finding.file, finding.expected == finding.found) == (NEW, False)


def test_a_local_file_that_is_wrong_is_not_blamed_on_the_remote(audited: Audited) -> None:
    flip(audited.mirror / NEW)
    assert said(audit(audited, share=0)) == []
    assert only(local(audited.settings())).file == NEW


def to_link(path: Path) -> None:
    path.rename(path.with_name(f".{path.name}.0123456789abcdef.part"))
    path.symlink_to(".x")


@pytest.mark.parametrize(
    ("file", "harm", "severity", "problem"),
    [
        (NEW, Path.unlink, "error", "is missing"),
        (RDIFF, Path.unlink, "error", "is missing"),
        (OLD, lambda path: os.truncate(path, 5), "error", "has the wrong size"),
        (OLD, to_link, "error", "is a link, no plain file"),
        ("CKSUMS", Path.unlink, "error", "is missing"),
        ("CKSUMS", lambda path: flip(path, 0), "error", "does not say"),
        (DOCUMENT, lambda path: flip(path, 0), "error", "is damaged"),
        (DOCUMENT, lambda path: path.write_bytes(path.read_bytes() + b" "), "error", "was changed"),
        (DOCUMENT, Path.unlink, "error", "is missing"),
        (DOCUMENT, lambda path: path.write_text("[" * 100_000), "error", "is damaged"),
        (journal.PATH, Path.unlink, "warning", "the journal cannot be read"),
        (journal.PATH, flip, "warning", "the journal cannot be read"),
        ("index.html", Path.touch, "warning", "is a file that is not part"),
        ("rdiffs/x", Path.mkdir, "warning", "is a folder that is not part"),
        ("rdiffs/y", lambda path: path.symlink_to("/"), "warning", "is a link that is not part"),
    ],
)
def test_what_is_wrong_is_found_and_named(
    audited: Audited,
    target: Target,
    file: str,
    harm: Callable[[Path], object],
    severity: str,
    problem: str,
) -> None:
    harm(audited.remote / file)
    finding = only(audit(audited, target, share=0))
    assert (finding.severity.value, finding.file) == (severity, file)
    assert problem in finding.problem


def test_old_part_files_are_told_from_new_ones(audited: Audited) -> None:
    old, new = audited.remote / ".a.img.0000.part", audited.remote / "rdiffs" / ".b.0000.part"
    for part in (old, new):
        part.touch()
    os.utime(old, (1, 1))
    finding = only(audit(audited))
    assert finding.file == old.name
    assert "nobody continued" in finding.problem


def test_what_waits_for_the_end_of_its_grace_is_no_stray(audited: Audited) -> None:
    (audited.repository.images / OLDEST).unlink()
    assert audited.repository.prepare(repository=audited.url).ok
    audited.publish()
    assert (audited.remote / OLDEST).exists()
    assert said(audit(audited)) == []


def test_a_remote_that_lags_behind_is_a_warning(audited: Audited) -> None:
    audited.repository.add(name(V4))
    assert audited.repository.prepare(repository=audited.url).ok
    finding = only(audit(audited))
    assert (finding.severity.value, finding.file) == ("warning", DOCUMENT)
    assert "not published yet" in finding.problem


def test_a_remote_where_nothing_is_published_cuts_clients_off(
    audited: Audited, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    found = audit(audited, Target(path=str(tmp_path / "empty")))
    assert ("error", "meta", "there is no metadata: clients find nothing here") in said(found)


def test_a_remote_can_be_audited_without_the_local_mirror(audited: Audited) -> None:
    shutil.rmtree(audited.mirror)
    flip(audited.remote / NEW)
    finding = only(audit(audited))
    assert (finding.file, finding.repairable) == (NEW, False)


def test_a_publishing_run_that_died_is_named(audited: Audited) -> None:
    path = audited.remote / journal.PATH
    record = journal.Journal.parse(path.read_bytes())
    record.verified = False
    path.write_bytes(record.render())
    assert "did not come to its end" in only(audit(audited)).problem


def test_a_lock_that_a_dead_publisher_left_hides_nothing(audited: Audited) -> None:
    lock = audited.remote / publisher_lock.PATH
    lock.write_text("{}")
    (audited.remote / "CKSUMS").unlink()
    busy = audit(audited)
    assert said(busy) == []
    assert "somebody publishes" in busy.notes[0]
    os.utime(lock, (1, 1))
    assert only(audit(audited)).file == "CKSUMS"


@pytest.mark.parametrize("hours", [-3, 3])
def test_only_the_servers_clock_says_whether_somebody_publishes(
    audited: Audited, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    (audited.remote / publisher_lock.PATH).write_text("{}")
    (audited.remote / "CKSUMS").unlink()
    have_time(monkeypatch, lambda: time.time() + hours * 3600)
    busy = audit(audited)
    assert said(busy) == []
    assert "somebody publishes" in busy.notes[0]
    folder = (audited.remote / publisher_lock.PATH).parent
    assert not [path for path in folder.iterdir() if path.name.startswith(".now")]


def test_a_rollback_is_a_warning_that_says_so(audited: Audited) -> None:
    audited.repository.add(name(V4))
    assert audited.repository.prepare(repository=audited.url).ok
    audited.publish()
    with Publisher(audited.mirror, audited.target, KEEP) as publisher:
        rollback.roll_back(publisher, None)
    finding = only(audit(audited))
    assert (finding.severity.value, finding.file) == ("warning", DOCUMENT)
    assert "a rollback" in finding.found


@pytest.mark.parametrize("harm", [Path.unlink, flip])
def test_a_way_back_that_is_cut_off_is_a_warning(
    audited: Audited, target: Target, harm: Callable[[Path], object]
) -> None:
    audited.repository.add(name(V4))
    assert audited.repository.prepare(repository=audited.url).ok
    audited.publish()
    harm(audited.remote / journal.GENERATIONS / "2.json")
    finding = only(audit(audited, target))
    assert finding.severity.value == "warning"
    assert finding.file == f"{journal.GENERATIONS}/2.json"
    assert "no rollback leads beyond it" in finding.problem


@pytest.mark.timeout(60)
def test_a_journal_that_claims_any_number_of_generations_holds_nobody_up(audited: Audited) -> None:
    path = audited.remote / journal.PATH
    known = journal.Journal.parse(path.read_bytes())
    known.generation = 1 << 60
    path.write_bytes(known.render())
    assert only(audit(audited)).file == f"{journal.GENERATIONS}/{1 << 60}.json"


def test_a_folder_that_is_a_link_is_not_entered(audited: Audited, target: Target) -> None:
    (audited.remote / "meta").rename(audited.remote / "elsewhere")
    (audited.remote / "meta").symlink_to("elsewhere")
    assert "a link where a folder should be" in only(audit(audited, target)).problem


def test_somebody_who_publishes_meanwhile_is_no_finding(audited: Audited, target: Target) -> None:
    repository = audited.repository
    (repository.images / OLD).unlink()
    repository.add(OLD, size=61_000)  # another image under a name that clients know
    repository.add(name(V4))
    (repository.images / OLDEST).unlink()
    assert repository.prepare(repository=audited.url).ok
    watcher = Meanwhile(audited.publish)
    assert said(remote(audited.settings(audit_share=1), target, watcher)) == []


def test_the_middle_of_a_publishing_run_is_no_finding(audited: Audited) -> None:
    audited.repository.add(name(V4))
    assert audited.repository.prepare(repository=audited.url).ok
    with Publisher(audited.mirror, audited.target, KEEP) as publisher:
        upload.upload(publisher)
        assert publisher.report.failed == {}
        with Publisher(audited.mirror, audited.target).hold():
            found = audit(audited)
        assert [one.problem for one in found.findings if one.severity.value == "error"] == []
        before = (audited.remote / journal.PATH).read_bytes()
        switch.switch(publisher)
        after = (audited.remote / journal.PATH).read_bytes()
        old = json.loads(before)["files"][DOCUMENT]
        assert json.loads(after)["files"][DOCUMENT] != old
        (audited.remote / journal.PATH).write_bytes(before)  # the journal is written last
        assert said(audit(audited)) == []


def test_a_connection_that_breaks_is_made_again(audited: Audited, sshd: Sshd) -> None:
    with Proxy(sshd.port) as proxy:
        target = sshd.target(audited.remote, proxy.port)
        proxy.cut_after = 6_000
        assert said(audit(audited, target)) == []
        assert proxy.connections > 2


def test_a_server_that_cannot_be_reached_is_one_finding(audited: Audited, sshd: Sshd) -> None:
    with Proxy(sshd.port) as proxy:
        target = sshd.target(audited.remote, proxy.port)
    finding = only(audit(audited, target))
    assert finding.where == target.url
    assert "could not be checked" in finding.problem


def test_a_file_that_may_not_be_read_does_not_stop_the_others(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = FolderTree.open

    def refuse(tree: FolderTree, path: str, *how: Any) -> object:
        if path == NEW:
            raise StorageRefusedError(path, "the server denies permission")
        return read(tree, path, *how)

    monkeypatch.setattr(FolderTree, "open", refuse)
    flip(audited.remote / OLD)
    assert {one.file for one in audit(audited).findings} == {NEW, OLD}
