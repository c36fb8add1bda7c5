"""What an audit finds as a client of servers that misbehave; and that it ends."""

from __future__ import annotations

import contextlib
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
from puavo_repository.audit import clients as audit_clients
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
    Audited,
    only,
    said,
)
from support.repository import V4, name

Check = Callable[[Callable[["Handler"], bool]], Checked]
HTTP = ("warning", "", "is not https: there is no certificate to check")


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
            return clients(audited.settings(repository=server.url, ca_file=""))

        yield check


def image(handler: Handler) -> bool:
    return handler.path == f"/{NEW}"


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


def test_a_server_that_ignores_ranges_is_told_once_and_not_fetched_from(
    audited: Audited,
) -> None:
    audited.repository.add(name(V4), size=30_000_000)
    with Unruly(audited.remote) as server:
        assert audited.repository.prepare(repository=server.url, targets=0).ok
        audited.publish()
        found = clients(audited.settings(repository=server.url, ca_file=""))
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


@pytest.mark.parametrize("base", ["https://WWW.Example.org:443/m", "http://www.example.org/m"])
def test_a_host_has_many_spellings(base: str) -> None:
    with audit_https.Https(base, "") as https:
        for spelling in ("https://www.example.org/x", "https://www.EXAMPLE.org:443/x"):
            assert https._is_here(spelling)
        assert not https._is_here("https://www.example.org.test/x")
        assert not https._is_here("ftp://www.example.org/x")


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
    monkeypatch.setattr(audit_https, "TIMEOUT", 1.0)
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


def test_a_document_without_end_is_cut_off(
    local_http: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_clients, "_LARGEST", 1000)
    monkeypatch.setattr(retry, "ATTEMPTS", 1)

    def behave(handler: Handler) -> bool:
        if not handler.path.startswith("/meta/"):
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        handler.close_connection = True
        with contextlib.suppress(OSError):
            for _ in range(400):
                handler.wfile.write(bytes(1 << 16))
        return True

    found = local_http(behave)
    assert "is larger than any metadata" in {one.problem for one in found.findings}


def test_a_server_that_is_not_there_is_one_finding(audited: Audited) -> None:
    settings: Settings = audited.settings(repository="http://localhost:1", ca_file="")
    finding = only(clients(settings))
    assert "could not be checked" in finding.problem
