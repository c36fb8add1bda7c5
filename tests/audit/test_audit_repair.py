"""What an audit repairs when it is asked to, and that it touches nothing when it is not."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from puavo_repository.audit.audit import audit, repair_local, repair_remote
from puavo_repository.audit.local import local
from puavo_repository.audit.remote import remote
from puavo_repository.audit.report import AuditReport
from puavo_repository.errors import StorageRefusedError, TransientError
from puavo_repository.formats.metadata import Digests, entries
from puavo_repository.mirror import published
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.locks import locked
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.progress import Progress
from puavo_repository.remote import journal
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.lock import PublisherLock
from puavo_repository.remote.pool import open_tree
from puavo_repository.remote.target import Target
from support.audits import DOCUMENT, KEEP, NEW, OLD, RDIFF, Audited, flip, said
from support.mirrors import publish, tree_of, walk
from support.repository import V4, name, snapshot
from support.servers import Sshd, elsewhere


def run(audited: Audited, *targets: Target, repair: bool = True) -> AuditReport:
    settings = audited.settings(audit_share=1, audit_https=False)
    return audit(settings, targets, repair=repair)


def problems(report: AuditReport) -> list[str]:
    return [str(finding) for finding in report.findings]


@pytest.mark.alike(4)
@pytest.mark.parametrize(
    ("file", "harm"),
    [
        (NEW, flip),
        (OLD, Path.unlink),
        (OLD, lambda path: os.truncate(path, 5)),
        (RDIFF, flip),
        (RDIFF, Path.unlink),
        (DOCUMENT, lambda path: flip(path, 0)),
        (DOCUMENT, Path.unlink),
        ("CKSUMS", lambda path: flip(path, 0)),
        ("CKSUMS", Path.unlink),
    ],
)
def test_what_is_wrong_on_a_remote_is_sent_again(
    audited: Audited, target: Target, file: str, harm: Callable[[Path], object]
) -> None:
    harm(audited.remote / file)
    report = run(audited, target)
    assert problems(report) == []
    assert [one.file for one in report.repaired] == [file]
    (line,) = (line for line in report.lines() if line.startswith("repaired: "))
    assert line.startswith(f"repaired: {target.url}: {file}: ")
    assert "Let the audit repair it" not in line
    assert tree_of(audited.remote) == tree_of(audited.mirror)
    assert walk(audited.remote) == []
    again = run(audited, target)
    assert (problems(again), again.repaired) == ([], ())


def test_a_mirror_of_a_connection_is_known_by_its_id_alone(audited: Audited) -> None:
    flip(audited.remote / NEW)
    report = run(audited, Target(path=str(audited.remote), connection="www"))
    assert report.ok
    assert [check.where for check in report.checks] == ["local", "www"]
    assert {one.where for one in report.repaired} == {"www"}
    assert [one.address for one in published.remotes(audited.mirror)] == ["www"]


def test_a_file_is_withdrawn_before_it_is_replaced(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(audited.remote / NEW)
    seen = []

    def pause(_seconds: float) -> None:
        seen.append(NEW in (audited.remote / DOCUMENT).read_text())

    monkeypatch.setattr("puavo_repository.publish.switch.sleep", pause)
    assert run(audited, audited.target).repaired
    assert seen == [False]


def test_an_image_is_not_made_from_what_lies_there_and_may_be_wrong_too(
    audited: Audited, sshd: Sshd
) -> None:
    target = sshd.target(audited.remote)
    (audited.remote / NEW).unlink()
    flip(audited.remote / OLD, at=20_000)
    report = run(audited, target)
    assert problems(report) == []
    assert {one.file for one in report.repaired} == {NEW, OLD}
    assert tree_of(audited.remote) == tree_of(audited.mirror)


def test_what_is_wrong_here_as_well_is_not_sent(audited: Audited) -> None:
    flip(audited.remote / NEW)
    flip(audited.mirror / NEW, at=100)
    before = tree_of(audited.remote)
    report = run(audited, audited.target)
    assert report.repaired == ()
    assert {(one.where, one.file) for one in report.findings} == {
        ("local", NEW),
        (audited.target.url, NEW),
    }
    assert any("the local one is not right either" in note for note in report.notes)
    assert tree_of(audited.remote) == before


@pytest.mark.parametrize("harm", [flip, Path.exists], ids=["wrong", "right until then"])
def test_what_is_described_anew_while_it_is_read_is_not_sent(
    audited: Audited, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], object]
) -> None:
    (audited.remote / NEW).unlink()
    settings, target = audited.settings(), audited.target
    found = remote(settings, target)
    harm(audited.mirror / NEW)
    mirror, read = Mirror(audited.mirror), digest_file

    def described_anew(path: Path, progress: Progress) -> Digests:
        documents = mirror.documents()
        for entry in (e for one in documents.values() for p, e in entries(one) if p == NEW):
            entry["sha256"] = secrets.token_hex(32)
        mirror.describe(documents.items())
        return read(path, progress)

    monkeypatch.setattr("puavo_repository.audit.local.digest_file", described_anew)
    repaired = repair_remote(settings, target, found)
    assert [note for note in repaired.notes if "the local one is not right either" in note]
    assert repaired.repaired == ()


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_wrong_local_rdiff_is_withdrawn_and_made_anew(
    audited: Audited, harm: Callable[[Path], object]
) -> None:
    good = (audited.mirror / RDIFF).read_bytes()
    harm(audited.mirror / RDIFF)
    report = run(audited)
    assert problems(report) == []
    assert [one.file for one in report.repaired] == [RDIFF]
    assert f"{RDIFF}: removed; the next run makes it anew" in report.notes
    assert not (audited.mirror / RDIFF).exists()
    assert audited.repository.check() == 5
    assert audited.repository.prepare(repository=audited.url).ok
    assert (audited.mirror / RDIFF).read_bytes() == good
    assert audited.repository.check() == 6
    assert problems(run(audited)) == []


def test_a_night_at_work_is_not_disturbed_by_a_repair(audited: Audited) -> None:
    flip(audited.mirror / RDIFF)
    mirror = Mirror(audited.mirror)
    with locked(mirror.state.lock, "the nightly run", shared=True):
        report = run(audited)
    assert report.repaired == ()
    assert [one.file for one in report.findings] == [RDIFF]
    assert any("not repaired" in note and "the nightly run" in note for note in report.notes)


def test_somebody_who_publishes_is_not_disturbed_by_a_repair(audited: Audited) -> None:
    flip(audited.remote / NEW)
    other = PublisherLock(open_tree(audited.target), elsewhere("other"))
    other.acquire()
    report = run(audited, audited.target)
    assert [one.file for one in report.findings] == [NEW]
    assert any("somebody else is publishing" in note for note in report.notes)
    other.release()
    assert problems(run(audited, audited.target)) == []


def test_images_here_and_strays_are_never_touched(audited: Audited) -> None:
    flip(audited.mirror / NEW)
    for root in (audited.mirror, audited.remote):
        (root / "stray").write_text("theirs")
    before = snapshot(audited.mirror), snapshot(audited.remote)
    report = run(audited, audited.target)
    assert {one.file for one in report.findings} == {NEW, "stray"}
    audit_record = ".puavo-repository/audit.json"
    after = snapshot(audited.mirror), snapshot(audited.remote)
    assert after[0].pop(audit_record)
    assert after == before


def test_nothing_is_repaired_where_nobody_asked_for_it(audited: Audited) -> None:
    flip(audited.remote / NEW)
    flip(audited.remote / DOCUMENT, 0)
    flip(audited.mirror / RDIFF)
    before = snapshot(audited.mirror), snapshot(audited.remote)
    report = run(audited, audited.target, repair=False)
    assert {one.file for one in report.findings} >= {DOCUMENT, RDIFF}
    assert report.repaired == ()
    after = snapshot(audited.mirror), snapshot(audited.remote)
    after[0].pop(".puavo-repository/audit.json")
    assert after == before


def test_a_remote_is_repaired_by_what_is_right_here_although_something_else_is_not(
    audited: Audited,
) -> None:
    flip(audited.mirror / OLD)
    (audited.remote / NEW).unlink()
    report = run(audited, audited.target)
    assert [one.file for one in report.repaired] == [NEW]
    assert [(one.where, one.file) for one in report.findings] == [("local", OLD)]
    assert said(report.checks[1]) == []
    assert (audited.remote / NEW).read_bytes() == (audited.mirror / NEW).read_bytes()


def test_what_a_night_made_anew_before_the_repair_stays(audited: Audited) -> None:
    good = (audited.mirror / RDIFF).read_bytes()
    flip(audited.mirror / RDIFF)
    settings = audited.settings(audit_share=1)
    found = local(settings)
    os.utime(audited.mirror / RDIFF)  # only by its time a night sees it
    assert audited.repository.prepare(repository=audited.url).ok
    repaired = repair_local(settings, found, "a test")
    assert repaired.notes == ()
    assert (audited.mirror / RDIFF).read_bytes() == good
    assert audited.repository.check() == 6


def test_an_rdiff_that_cannot_be_looked_at_again_stays(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (audited.mirror / RDIFF).read_bytes()
    flip(audited.mirror / RDIFF)
    settings = audited.settings(audit_share=1)
    found = local(settings)
    (audited.mirror / RDIFF).write_bytes(good)

    def killed(*_given: object, **_more: object) -> None:
        raise TransientError(audited.mirror / RDIFF, "the process was killed")

    monkeypatch.setattr("puavo_repository.delta.contained.call", killed)
    repaired = repair_local(settings, found, "a test")
    assert (audited.mirror / RDIFF).read_bytes() == good
    assert audited.repository.check() == 6
    assert [one.file for one in repaired.findings] == [RDIFF], "nobody knows that it is right"
    assert any("could not be applied" in note for note in repaired.notes)


def test_a_repair_that_failed_is_no_repair(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(audited.remote / NEW)
    rename = FolderTree.rename

    def refused(self: FolderTree, path: str, new: str) -> None:
        if new == NEW:
            raise StorageRefusedError(f"{self.name}/{new}", "the server denies permission")
        rename(self, path, new)

    monkeypatch.setattr(FolderTree, "rename", refused)
    report = run(audited, audited.target)
    assert not report.ok
    assert report.repaired == ()
    assert [one.file for one in report.findings] == [NEW]
    monkeypatch.undo()
    assert publish(audited.mirror, audited.target, KEEP).ok
    assert problems(run(audited, audited.target)) == []
    assert walk(audited.remote) == []


def test_a_repair_publishes_nothing_that_waits(audited: Audited, target: Target) -> None:
    published = {**tree_of(audited.remote)}
    audited.repository.add(name(V4))
    assert audited.repository.prepare(repository=audited.url).ok
    flip(audited.remote / OLD)
    report = run(audited, target)
    assert [one.file for one in report.repaired] == [OLD]
    assert [(one.severity.value, one.file) for one in report.findings] == [("warning", DOCUMENT)]
    assert tree_of(audited.remote) == published
    flip(audited.remote / DOCUMENT, 0)
    report = run(audited, target)
    assert report.repaired == (), "the one that is here waits to be published"
    (finding,) = [one for one in report.findings if one.file == DOCUMENT]
    assert finding.remedy.endswith("then publish again")
    audited.publish()
    assert (audited.remote / DOCUMENT).read_bytes() == (audited.mirror / DOCUMENT).read_bytes()
    assert walk(audited.remote) == []


def test_one_that_cannot_be_repaired_does_not_hold_back_another(audited: Audited) -> None:
    flip(audited.remote / NEW)
    (audited.remote / OLD).unlink()
    (audited.mirror / OLD).unlink()
    report = run(audited, audited.target)
    assert [one.file for one in report.repaired] == [NEW]
    there = [one for one in report.findings if one.where == audited.target.url]
    assert [one.file for one in there] == [OLD]
    assert not journal.load(open_tree(audited.target)).verified, "not all of it is right"
    assert (audited.remote / NEW).read_bytes() == (audited.mirror / NEW).read_bytes()


@pytest.mark.parametrize("file", [NEW, RDIFF, DOCUMENT, "CKSUMS"])
def test_a_folder_in_the_place_of_a_file_is_moved_away_by_hand(
    audited: Audited, target: Target, file: str
) -> None:
    (audited.remote / file).unlink()
    (audited.remote / file).mkdir()
    before = snapshot(audited.remote)
    report = run(audited, target)
    assert report.repaired == ()
    (finding,) = report.findings
    assert (finding.file, finding.problem) == (file, "is a folder, no plain file")
    assert finding.remedy == "Move it away there, then publish"
    assert snapshot(audited.remote) == before


def test_a_folder_in_the_place_of_a_local_rdiff_stays_described(audited: Audited) -> None:
    (audited.mirror / RDIFF).unlink()
    (audited.mirror / RDIFF).mkdir()
    before = (audited.mirror / DOCUMENT).read_bytes()
    (finding,) = run(audited).findings
    assert (finding.file, finding.found) == (RDIFF, "a folder")
    assert finding.remedy == "Move it away, and prepare again"
    assert (audited.mirror / DOCUMENT).read_bytes() == before
    (audited.mirror / RDIFF).rmdir()
    assert audited.repository.prepare(repository=audited.url).ok
    assert problems(run(audited)) == []


def test_findings_are_not_lost_where_the_report_cannot_be_kept(audited: Audited) -> None:
    flip(audited.remote / NEW)
    record = audited.mirror / ".puavo-repository" / "audit.json"
    record.unlink(missing_ok=True)
    record.mkdir()
    report = run(audited, audited.target, repair=False)
    assert {one.file for one in report.findings} == {NEW, ""}
    assert any("audit.json" in problem for problem in problems(report))
