"""What an audit finds as a client: real nginx, real certificates, and servers that misbehave."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from puavo_repository import retry
from puavo_repository.audit import https as audit_https
from puavo_repository.audit.clients import clients
from puavo_repository.audit.report import Checked
from puavo_repository.settings import Settings
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
from support.repository import V4, name

Check = Callable[[Callable[["Handler"], bool]], Checked]
HTTP = ("warning", "", "is not https: there is no certificate to check")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)


def audit(audited: Audited, turn: int = 0, **options: Any) -> Checked:
    return clients(audited.settings(**options), turn)


def test_what_is_served_rightly_has_no_finding(audited: Audited) -> None:
    with audited.served():
        found = audit(audited)
    assert said(found) == []
    assert found.where == audited.url
    assert (found.counts.urls, found.counts.ranges) == (12, 30)
    (line,) = found.notes
    assert line.startswith(f"canary: {OLD} became {NEW}")
    assert not list((audited.mirror / ".puavo-repository").glob("tmp*"))


def test_without_an_rdiff_for_it_there_is_no_update_and_no_finding(audited: Audited) -> None:
    assert audited.repository.prepare(repository=audited.url, targets=0).ok
    audited.publish()
    with audited.served():
        found = audit(audited)
    assert said(found) == []
    assert found.notes == (
        "canary: no series has an rdiff to its newest image from the one before",
    )


@pytest.mark.parametrize(
    ("options", "trusted", "problem"),
    [
        ({"days": 5}, True, "the certificate ends soon"),
        ({"days": -1}, True, "the certificate has expired"),
        ({"host": "other.example"}, True, "the certificate is another host's"),
        ({}, False, "the certificate is not trusted"),
    ],
)
def test_a_certificate_that_keeps_clients_away_is_named(
    audited: Audited, options: dict[str, Any], trusted: bool, problem: str
) -> None:
    with audited.served(**options):
        found = audit(audited) if trusted else audit(audited, ca_file="")
    first, *more = found.findings
    assert (first.severity.value, first.file, first.problem) == ("error", "", problem)
    if problem.endswith("soon"):
        assert more == []
        assert time.strftime("%Y-%m-%d", time.gmtime(time.time() + 5 * 86400)) in first.found
        assert "5.00 days left" in first.found
        assert found.counts.urls == 12, "the rest is checked all the same"
    else:
        (rest,) = more
        assert (rest.severity.value, "could not be checked" in rest.problem) == ("warning", True)


def test_one_that_is_not_trusted_may_end_soon_as_well(audited: Audited) -> None:
    with audited.served(days=5):
        found = audit(audited, ca_file="")
    assert [one.problem for one in found.findings if one.severity.value == "error"] == [
        "the certificate is not trusted",
        "the certificate ends soon",
    ]


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


def test_a_connection_that_breaks_during_the_update_is_made_again(local_http: Check) -> None:
    broken: list[str] = []

    def behave(handler: Handler) -> bool:
        breaks = handler.command == "GET" and handler.path == f"/{RDIFF}" and not broken
        if breaks:
            broken.append(handler.path)
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b"half of it")
            handler.close_connection = True
        return breaks

    found = local_http(behave)
    assert broken
    assert found.notes[0].startswith(f"canary: {OLD} became {NEW}")


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


def test_an_old_image_that_is_wrong_here_is_not_blamed_on_the_server(audited: Audited) -> None:
    flip(audited.mirror / OLD)
    with audited.served():
        found = audit(audited)
    assert said(found) == []
    assert f"{OLD} is wrong in the local mirror" in found.notes[0]


def test_older_metadata_is_a_warning_that_names_the_first_difference(audited: Audited) -> None:
    audited.repository.add(name(V4))
    assert audited.repository.prepare(repository=audited.url).ok
    with audited.served():
        finding = only(audit(audited))
    assert (finding.severity.value, finding.file) == ("warning", DOCUMENT)
    assert f".{SERIES}.images[0].diffs" in finding.problem


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
        assert said(clients(audited.settings(), 0, Meanwhile(night))) == []


@dataclass
class Unruly:
    """A plain http server that serves a folder and does one thing wrong."""

    root: Path
    behave: Callable[[Handler], bool] = lambda _handler: False
    sent: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Unruly:
        unruly = self

        class Bound(Handler):
            server_of = unruly

        self._server = ThreadingHTTPServer(("localhost", 0), Bound)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Handler(SimpleHTTPRequestHandler):
    """Knows nothing of ranges: every answer is the whole file."""

    server_of: Unruly
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=str(self.server_of.root))

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.server_of.asked.append(self.path)
        if self.path.startswith("/."):
            self.send_error(403)
        elif not self.server_of.behave(self):
            with contextlib.suppress(OSError):
                super().do_GET()

    def do_HEAD(self) -> None:
        self.server_of.asked.append(self.path)
        if self.path.startswith("/."):
            self.send_error(403)
        elif not self.server_of.behave(self):
            super().do_HEAD()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while block := source.read(1 << 16):
            outputfile.write(block)
            self.server_of.sent += len(block)


@pytest.fixture
def local_http(audited: Audited) -> Iterator[Callable[[Callable[[Handler], bool]], Checked]]:
    """Return how to audit a server that behaves in some way."""
    with Unruly(audited.remote) as server:
        prepared = audited.repository.prepare(repository=server.url)
        assert prepared.ok
        audited.publish()

        def check(behave: Callable[[Handler], bool]) -> Checked:
            server.behave = behave
            return clients(audited.settings(repository=server.url, ca_file=""), 0)

        yield check


def image(handler: Handler) -> bool:
    return handler.path == f"/{NEW}"


def test_a_server_that_ignores_ranges_is_told_once_and_not_fetched_from(
    audited: Audited,
) -> None:
    audited.repository.add(name(V4), size=30_000_000)
    with Unruly(audited.remote) as server:
        assert audited.repository.prepare(repository=server.url, targets=0).ok
        audited.publish()
        found = clients(audited.settings(repository=server.url, ca_file=""), 0)
        assert said(found) == [
            HTTP,
            ("warning", "", "the server ignores ranges: a download that broke off starts again"),
        ]
        assert server.sent < 15_000_000, "cut off, not fetched whole"


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusal_is_named(local_http: Check, status: int) -> None:
    def behave(handler: Handler) -> bool:
        if image(handler):
            handler.send_error(status)
        return image(handler)

    found = [one for one in local_http(behave).findings if one.file == NEW]
    assert [(one.severity.value, one.problem) for one in found] == [("error", "is not served")]
    assert f"status {status}" in found[0].found


def test_a_server_that_compresses_although_nobody_asked_is_named(local_http: Check) -> None:
    def behave(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    found = local_http(behave)
    assert ("error", DOCUMENT, "is not served as it is") in said(found)
    assert "gzip" in {one.found for one in found.findings}


def test_a_server_that_refuses_everything_is_told_by_its_metadata(local_http: Check) -> None:
    def behave(handler: Handler) -> bool:
        handler.send_error(500)
        return True

    found = local_http(behave)
    assert {one.problem for one in found.findings} == {HTTP[2], "is not served"}
    assert len(found.findings) == 3


@pytest.mark.parametrize("where", ["http://127.0.0.9:1/x", "https://elsewhere.example/x"])
def test_a_redirect_elsewhere_is_named_and_not_followed(local_http: Check, where: str) -> None:
    def behave(handler: Handler) -> bool:
        if image(handler):
            handler.send_response(302)
            handler.send_header("Location", where)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        return image(handler)

    found = [one for one in local_http(behave).findings if one.file == NEW]
    assert [one.problem for one in found] == ["is not served"]
    assert f"a redirect to {where}" in found[0].found


def test_a_redirect_on_the_same_host_is_followed_but_not_for_ever(local_http: Check) -> None:
    def behave(handler: Handler) -> bool:
        if handler.path in (f"/{NEW}", "/loop"):
            handler.send_response(301)
            handler.send_header("Location", "/other" if image(handler) else "/loop")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return True
        if handler.path == "/other":
            handler.path = f"/{NEW}"
        elif handler.path == f"/{OLDEST}":
            handler.path = "/loop"
            return behave(handler)
        return False

    found = [one for one in local_http(behave).findings if one.file]
    assert [(one.file, one.problem) for one in found] == [(OLDEST, "is not served")]


def test_a_server_that_falls_silent_is_given_up(
    local_http: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_https, "TIMEOUT", 0.5)
    monkeypatch.setattr(retry, "ATTEMPTS", 2)

    def behave(handler: Handler) -> bool:
        silent = not handler.path.startswith("/meta/")
        if silent:
            ended.wait(30)
        return silent

    ended = threading.Event()
    begun = time.monotonic()
    found = local_http(behave)
    ended.set()
    assert time.monotonic() - begun < 30
    problems = {one.problem for one in found.findings}
    assert "did not answer in time" in problems
    assert "answers too little: no more addresses were asked" in problems
    assert len(found.findings) < 10, "not one for each address"


def test_a_server_that_drips_is_given_up(
    local_http: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_https, "TIMEOUT", 0.3)
    monkeypatch.setattr(audit_https, "SLOWEST", 1 << 30)
    monkeypatch.setattr(retry, "ATTEMPTS", 1)

    def behave(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1000 if handler.command == "GET" else 0):
                handler.wfile.write(b" ")
                time.sleep(0.05)
        return True

    begun = time.monotonic()
    found = local_http(behave)
    assert time.monotonic() - begun < 20
    assert "did not answer in time" in found.findings[-1].problem


def test_a_server_that_is_not_there_is_one_finding(audited: Audited) -> None:
    settings: Settings = audited.settings(repository="http://localhost:1", ca_file="")
    finding = only(clients(settings, 0))
    assert "could not be checked" in finding.problem
