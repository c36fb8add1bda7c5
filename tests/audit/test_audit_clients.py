"""What an audit finds as a client: real nginx, real certificates, and what is served there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.audit.clients import clients
from puavo_repository.audit.report import Checked
from puavo_repository.publish import survey
from support.audits import (
    DOCUMENT,
    NEW,
    OLD,
    OLDEST,
    RDIFF,
    SERIES,
    Audited,
    Meanwhile,
    flip,
    only,
    said,
)
from support.repository import FREE, V2, V4, name


def audit(audited: Audited, **options: Any) -> Checked:
    return clients(audited.settings(**options))


def test_what_is_served_rightly_has_no_finding(audited: Audited) -> None:
    with audited.served():
        found = audit(audited)
    assert said(found) == []
    assert found.where == audited.url
    assert (found.counts.urls, found.counts.ranges) == (12, 10)
    (line,) = found.notes
    assert line.startswith(f"canary: {OLD} became {NEW}")
    assert not list((audited.mirror / ".puavo-repository").glob("tmp*"))


def test_without_an_rdiff_for_it_there_is_no_update_and_no_finding(audited: Audited) -> None:
    assert audited.repository.prepare(repository=audited.url, targets=0).ok
    audited.publish()
    with audited.served():
        found = audit(audited)
    assert said(found) == []
    assert "no series has an rdiff to its newest image" in found.notes[0]


@pytest.mark.parametrize(
    ("options", "trusted", "problem"),
    [
        ({"days": -1}, True, "certificate has expired"),
        ({"host": "other.example"}, True, "Hostname mismatch, certificate is not valid for"),
        ({}, False, "self-signed certificate"),
    ],
)
def test_a_certificate_that_keeps_clients_away_is_named(
    audited: Audited, options: dict[str, Any], trusted: bool, problem: str
) -> None:
    with audited.served(**options):
        found = audit(audited) if trusted else audit(audited, ca_file="")
    refused = only(found)
    assert (refused.severity.value, refused.file) == ("error", "")
    assert refused.problem == "could not be checked: its certificate is refused"
    assert refused.found.startswith(problem)
    assert not found.whole


def test_a_certificate_that_ends_soon_is_named_and_the_rest_is_checked(audited: Audited) -> None:
    with audited.served(days=5):
        found = audit(audited)
    soon = only(found)
    assert (soon.severity.value, soon.problem) == ("error", "the certificate ends soon")
    assert time.strftime("%Y-%m-%d", time.gmtime(time.time() + 5 * 86400)) in soon.found
    assert "5.00 days left" in soon.found
    assert found.counts.urls == 12


def test_a_ca_file_that_is_none_is_named(audited: Audited) -> None:
    (audited.repository.root / "nonsense").write_text("x")
    found = audit(audited, ca_file=str(audited.repository.root / "nonsense"))
    assert "certificates in PEM form" in str(only(found))


@pytest.mark.parametrize(
    ("file", "harm", "problems"),
    [
        (NEW, Path.unlink, {"is not served"}),
        (RDIFF, Path.unlink, {"is not served", "the update"}),
        (NEW, lambda path: path.write_bytes(b"x"), {"is served with another length"}),
        (NEW, lambda path: path.write_bytes(bytes(path.stat().st_size)), {"is served with other"}),
        (RDIFF, flip, {"the update"}),
        (DOCUMENT, Path.unlink, {"is not served"}),
        (DOCUMENT, lambda path: flip(path, 0), {"is no metadata that clients can read"}),
        (DOCUMENT, lambda path: path.write_text("[" * 100_000), {"is no metadata"}),
    ],
)
def test_what_is_served_wrongly_is_found(
    audited: Audited, file: str, harm: Callable[[Path], object], problems: set[str]
) -> None:
    harm(audited.remote / file)
    with audited.served():
        found = audit(audited)
    assert {one.file for one in found.findings} == {file}
    assert {one.severity.value for one in found.findings} == {"error"}
    # A flipped bit of a small file may be hit by the ranges as well.
    told = {
        one.problem for one in found.findings if "other bytes" not in one.problem or file == NEW
    }
    assert all(any(text.startswith(p) for text in told) for p in problems)
    assert len(told) == len(problems)


def test_an_update_that_gives_another_image_is_found(audited: Audited) -> None:
    """The canary's own case: every file is as described, and the description is wrong."""
    for root in (audited.mirror, audited.remote):
        path = root / DOCUMENT
        document = json.loads(path.read_bytes())
        document[SERIES]["images"][-1]["sha512"] = "0" * 128
        path.write_text(json.dumps(document))
    with audited.served():
        finding = only(audit(audited))
    assert finding.file == RDIFF
    assert "what its rdiff gives is not the image" in finding.problem


def test_an_update_that_failed_is_made_again_whosever_turn_it_is(audited: Audited) -> None:
    audited.repository.add(name(V2, FREE))
    assert audited.repository.prepare(repository=audited.url).ok
    audited.publish()
    for root in (audited.mirror, audited.remote):
        path = root / DOCUMENT
        document = json.loads(path.read_bytes())
        document[SERIES]["images"][-1]["sha512"] = "0" * 128
        path.write_text(json.dumps(document))
    with audited.served():
        found = []
        for times in range(2):
            audited.was_checked(audited.url, times)
            found.append(audit(audited))
        assert sorted(len(one.findings) for one in found) == [0, 1], "each has its turn"
        for times in range(2):
            audited.was_checked(audited.url, times, RDIFF)
            assert "what its rdiff gives is not the image" in only(audit(audited)).problem


def test_a_file_that_was_served_wrongly_is_compared_whole(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant, size in {"WHOLE": 1, "EDGE": 1, "SAMPLE": 1, "BLOCK": 1000}.items():
        monkeypatch.setattr(survey, constant, size)
    flip(audited.remote / OLDEST)
    with audited.served():
        assert said(audit(audited)) == [], "three bytes of it"
        audited.was_checked(audited.url, 0, OLDEST)
        assert only(audit(audited)).file == OLDEST
        audited.was_checked(audited.url, 0, NEW)
        assert said(audit(audited)) == []


def test_an_old_image_that_is_wrong_here_is_not_blamed_on_the_server(audited: Audited) -> None:
    flip(audited.mirror / OLD)
    with audited.served():
        found = audit(audited)
    assert said(found) == []
    assert f"{OLD} is wrong in the local mirror" in found.notes[0]


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 5)])
def test_no_update_starts_from_an_image_that_is_not_here(
    audited: Audited, harm: Callable[[Path], object]
) -> None:
    harm(audited.mirror / OLD)
    with audited.served():
        found = audit(audited)
    assert said(found) == []
    assert "no series has an rdiff to its newest image" in found.notes[0]


def test_an_update_starts_from_an_image_of_which_clients_need_no_sha512(audited: Audited) -> None:
    for root in (audited.mirror, audited.remote):
        path = root / DOCUMENT
        document = json.loads(path.read_bytes())
        del document[SERIES]["images"][-2]["sha512"]
        path.write_text(json.dumps(document))
    (audited.remote / RDIFF).unlink()
    with audited.served():
        found = audit(audited)
    assert any(f"{OLD} has no usable sha512" in one.problem for one in found.findings)
    assert any("its rdiff is not served" in one.problem for one in found.findings)
    assert found.notes == (f"canary: the update from {OLD} to {NEW} FAILED",)


def test_older_metadata_is_a_warning(audited: Audited) -> None:
    audited.repository.add(name(V4))
    assert audited.repository.prepare(repository=audited.url).ok
    with audited.served():
        finding = only(audit(audited))
    assert (finding.severity.value, finding.file) == ("warning", DOCUMENT)
    assert finding.problem == "is not what the local mirror describes"


def test_metadata_that_gives_a_file_other_digests_is_an_error(audited: Audited) -> None:
    path = audited.remote / DOCUMENT
    document = json.loads(path.read_bytes())
    document[SERIES]["images"][0]["sha512"] = "0" * 128
    path.write_text(json.dumps(document))
    with audited.served():
        found = audit(audited)
    (finding,) = [one for one in found.findings if one.severity.value == "error"]
    assert finding.file == DOCUMENT
    assert finding.problem == f"describes {OLDEST} otherwise than the local mirror does"
    assert finding.found == "0" * 128


def test_records_that_are_served_are_a_warning(audited: Audited) -> None:
    with audited.served(more="autoindex off;"):
        finding = only(audit(audited))
    assert (finding.severity.value, finding.file) == ("warning", ".puavo-publish/journal.json")


def hostile(document: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    document[SERIES]["images"][0][key] = value
    return document


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("filename", "../../etc/passwd", "is no metadata that clients can read"),
        ("filename", "\x1b[2J\ud800", "is no metadata that clients can read"),
        ("size", 10 << 30, "is served with another length"),
        ("size", 10**400, "is served with another length"),
        ("diffs", None, "is no metadata that clients can read"),
        ("urls", ["https://elsewhere.example/x.img"], "names 1 addresses elsewhere"),
        ("urls", ["file:///etc/passwd", 5], "names 1 addresses elsewhere"),
        ("version", ["x"], "breaks what clients rely on"),
        ("id", {"a": {}}, "breaks what clients rely on"),
    ],
)
def test_metadata_that_means_harm_is_named_and_does_none(
    audited: Audited, key: str, value: Any, problem: str
) -> None:
    path = audited.remote / DOCUMENT
    path.write_text(json.dumps(hostile(json.loads(path.read_bytes()), key, value)))
    with audited.served():
        found = audit(audited)
    assert any(one.problem.startswith(problem) for one in found.findings)
    assert any(one.severity.value == "error" for one in found.findings)
    assert all(str(one).isprintable() for one in found.findings)


def test_an_rdiff_without_end_is_not_fetched(audited: Audited) -> None:
    path = audited.remote / DOCUMENT
    document = json.loads(path.read_bytes())
    for diff in document[SERIES]["images"][-1]["diffs"]:
        diff["size"] = 10 << 30
    path.write_text(json.dumps(document))
    with audited.served():
        found = audit(audited)
    assert any("larger than any that is of use" in one.problem for one in found.findings)


def test_somebody_who_publishes_meanwhile_is_no_finding(audited: Audited) -> None:
    repository = audited.repository
    (repository.images / OLD).unlink()
    repository.add(OLD, size=61_000)
    repository.add(name(V4))

    def night() -> None:
        assert repository.prepare(repository=audited.url).ok
        audited.publish()

    with audited.served():
        assert said(clients(audited.settings(), Meanwhile(night))) == []
