"""The whole audit: what it says of a sound repository, how it rotates, what it keeps."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.audit import report, steps
from puavo_repository.audit.audit import audit
from puavo_repository.audit.report import (
    CHECKED,
    AuditReport,
    Checked,
    Counts,
    Finding,
    Severity,
    last,
)
from puavo_repository.audit.steps import due
from puavo_repository.errors import PublishError, printable
from puavo_repository.formats.metadata import DescribedFile
from puavo_repository.publish import survey
from puavo_repository.remote.target import Target
from support.audits import NEW, OLD, Audited, flip


def test_a_sound_repository_has_no_finding_and_an_update_was_made(audited: Audited) -> None:
    with audited.served():
        report = audit(audited.settings(audit_share=1), [audited.target])
    assert [str(finding) for finding in report.findings] == []
    assert report.ok
    size = sum(path.stat().st_size for path in audited.mirror.rglob("*.[ir][md]*f*"))
    done = report.counts
    assert (done.local_files, done.rdiffs, done.remote_files, done.remote_read) == (10, 6, 10, 10)
    assert done.local_bytes == done.remote_bytes > size > 0
    assert done.urls == 12
    assert done.ranges == 10
    (line,) = report.notes
    assert line.startswith(f"canary: {OLD} became {NEW} by an rdiff of ")
    assert report.lines()[-1] == "everything is as it should be"


def test_the_report_is_kept_and_the_next_audit_has_the_next_turn(audited: Audited) -> None:
    settings = audited.settings(audit_https=False)
    assert last(audited.mirror).turn == 0
    first = audit(settings, [])
    assert (audited.mirror / ".puavo-repository" / "audit.json").is_file()
    kept = last(audited.mirror)
    assert kept.to_dict() == first.to_dict()
    assert (first.turn, audit(settings, []).turn) == (1, 2)
    assert last(settings.mirror_dir).turns == {"local": 2}
    (audited.mirror / ".puavo-repository" / "audit.json").write_text("{}")
    assert last(settings.mirror_dir).turns == {}


def test_each_place_has_its_own_turns(
    audited: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever audits two mirrors by turns, or one that is down at times, gets round each."""
    monkeypatch.setattr(steps, "FEW", 0)
    settings = audited.settings(audit_https=False, audit_share=0.5)
    other = Target(path=str(tmp_path / "away"))
    read = 0
    for target in [audited.target, other, audited.target, other]:
        read += audit(settings, [target]).counts.remote_read
    assert read == 10
    assert last(settings.mirror_dir).turns == {"local": 4, audited.target.url: 2}


def test_an_audit_of_one_mirror_does_not_clear_the_damage_of_another(
    audited: Audited, tmp_path: Path
) -> None:
    settings, other = audited.settings(audit_https=False, audit_share=1), tmp_path / "other"
    shutil.copytree(audited.remote, other)
    flip(other / NEW)
    both = [audited.target, Target(path=str(other))]

    def found(*targets: Target, **options: Any) -> list[tuple[str, str]]:
        audit(settings.model_copy(update=options), targets)
        return [(one.where, one.file) for one in last(audited.mirror).findings]

    damage = [(both[1].url, NEW)]
    assert found(*both) == damage
    for _ in range(2):
        assert found(both[0]) == damage, "until it is looked at again"
        assert not last(audited.mirror).ok
    assert audit(settings, [both[0]]).ok, "this audit found nothing"
    assert found(*both) == damage
    other.rename(tmp_path / "away")
    assert found(*both) == [(both[1].url, ""), *damage], "nor where it cannot be looked at"
    report.records(audited.mirror).put(worded_otherwise(last(audited.mirror)))
    assert found(*both) == [(both[1].url, ""), *damage], "of reasons the last one"
    assert found(both[0], remote=(both[0].url,)) == [], "one that is not published to any more"
    (tmp_path / "away").rename(other)
    assert found(*both) == damage
    shutil.copy2(audited.remote / NEW, other / NEW)
    assert found(both[1]) == []


def worded_otherwise(kept: AuditReport) -> AuditReport:
    """Return a report in which other reasons kept a place from being looked at."""
    reasons = [one for one in kept.checks if not all(finding.file for finding in one.findings)]
    (check,) = reasons
    other = replace(check, findings=tuple(replace(one, problem="why") for one in check.findings))
    return replace(kept, checks=tuple(other if one is check else one for one in kept.checks))


def test_what_clients_were_misled_by_stays_known_without_a_look_at_it(audited: Audited) -> None:
    (audited.remote / NEW).unlink()
    with audited.served():
        audit(audited.settings(), [])
    known = [(one.where, one.file) for one in last(audited.mirror).findings]
    assert set(known) == {(audited.url, NEW)}
    audit(audited.settings(audit_https=False), [])
    assert [(one.where, one.file) for one in last(audited.mirror).findings] == known
    audit(audited.settings(), [])  # nothing answers
    found = [(one.where, one.file) for one in last(audited.mirror).findings]
    assert sorted(found) == sorted([(audited.url, ""), *known])


def test_what_is_wrong_is_looked_at_again_whosever_turn_it_is(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "FEW", 0)
    monkeypatch.setattr(survey, "WHOLE", 1)  # else samples see it
    monkeypatch.setattr(survey, "EDGE", 1)
    monkeypatch.setattr(survey, "SAMPLE", 1)
    flip(audited.remote / NEW)
    everything = audited.settings(audit_https=False, audit_share=1)
    assert [one.file for one in audit(everything, [audited.target]).findings] == [NEW]
    nothing = audited.settings(audit_https=False, audit_share=0)
    for _ in range(2):
        assert [one.file for one in audit(nothing, [audited.target]).findings] == [NEW]


def test_any_few_audits_in_a_row_cover_everything() -> None:
    names = [f"rdiffs/x-{number}.rdiff" for number in range(500)]
    files = [DescribedFile(steps.FEW, "", "", "", name) for name in names]
    for share, rounds in ((0.1, 10), (0.3, 4), (0.5, 2), (1, 1)):
        for begin in (0, 7, 123):
            seen = [p for turn in range(begin, begin + rounds) for p in due(files, turn, (), share)]
            assert sorted(seen) == sorted(names), "each just once"
        assert len(due(files, 3, (), share)) < 500 * 1.5 / rounds
    assert not any(due(files, turn, (), 0) for turn in range(20))


def test_one_check_that_cannot_be_made_does_not_stop_the_others(audited: Audited) -> None:
    (audited.remote / "CKSUMS").unlink()
    gone = Target(path=str(audited.remote / "nowhere"))
    report = audit(audited.settings(), [gone, audited.target])
    found = {check.where: [one.problem for one in check.findings] for check in report.checks}
    assert found["local"] == []
    assert "there is no such folder" in found[gone.url][0]
    assert found[audited.target.url] == ["is missing"]
    assert "could not be checked" in found[audited.url][0]
    assert not report.ok
    assert report.lines()[-1] == "errors: 3, warnings: 0"


def test_a_mirror_that_is_not_there_is_one_finding_and_is_not_made(audited: Audited) -> None:
    nowhere = audited.repository.root / "nowhere"
    report = audit(audited.settings(mirror_dir=nowhere, audit_https=False), [audited.target])
    assert ["there is no mirror" in one.problem for one in report.findings] == [True]
    assert not nowhere.exists()


def test_a_folder_that_is_no_mirror_does_not_become_one(audited: Audited) -> None:
    settings = audited.settings(mirror_dir=audited.mirror.parent / "empty", audit_https=False)
    settings.mirror_dir.mkdir()
    assert not audit(settings, []).ok
    assert not list(settings.mirror_dir.iterdir())


def test_findings_and_reports_travel_as_plain_values() -> None:
    finding = Finding.of("local", PublishError("x", "is wrong", expected="a", found="b"), "file")
    checked = Checked("local", Counts(1, 2), (finding,), (finding,), ("note",))
    report = AuditReport("audit", 1.5, 2.0, 3, (checked, checked))
    assert AuditReport.from_dict("audit", json.loads(json.dumps(report.to_dict()))) == report
    values = json.dumps(CHECKED.dump_python(checked, mode="json"))
    assert CHECKED.validate_python(json.loads(values)) == checked
    assert report.counts == Counts(2, 4)
    assert str(finding) == "local: file: could not be checked: x: is wrong (expected a, found b)"
    for where, file in (("x", ""), ("local", "x")):
        once = Finding.of(where, PublishError("x", "is wrong"), file)
        assert str(once).endswith("x: could not be checked: is wrong"), "its subject is told once"


def test_what_somebody_else_wrote_can_be_shown_anywhere() -> None:
    finding = Finding(Severity.ERROR, "local", "a\x1b[31m\n\ud800\udcff", "x" * 10_000)
    text = str(finding)
    assert text.encode()
    assert text.isprintable()
    assert len(text) < 400


def test_a_text_of_any_length_is_cut_before_it_is_worked_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = []

    def measured(text: str) -> str:
        lengths.append(len(text))
        return printable(text)

    monkeypatch.setattr(report, "printable", measured)
    finding = Finding(Severity.ERROR, "local", "x", "p", found="\x00" * 5000)
    assert finding.found == ("\\x00" * 75) + "…"
    assert replace(finding, where="y").found == finding.found
    assert max(lengths) < 400
