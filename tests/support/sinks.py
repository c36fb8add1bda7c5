"""Servers that take messages: a webhook's, and a mail server."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Webhook:
    """Takes POSTs, or refuses them."""

    def __init__(self, status: int = 200) -> None:
        self.got: list[tuple[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((self.path, json.loads(body)))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hooks/secret-token"
        self.connection = json.dumps({"conn_type": "generic", "password": self.url})

    def texts(self) -> list[str]:
        return [sent["text"] for _, sent in self.got]


class Mail:
    """Takes e-mails by SMTP, or refuses their receivers."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.got: list[tuple[list[str], str, str]] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

            def handle(self) -> None:
                self.say("220 sink")
                receivers: list[str] = []
                while line := self.rfile.readline().decode().strip():
                    word = line.split()[0].upper()
                    if word == "RCPT" and refuses:
                        self.say("550 nobody here")
                    elif word == "RCPT":
                        receivers.append(line.partition("<")[2].rstrip(">"))
                        self.say("250 ok")
                    elif word == "DATA":
                        self.say("354 go on")
                        outer.take(receivers, self.body())
                        self.say("250 taken")
                    else:
                        self.say("221 bye" if word == "QUIT" else "250 ok")

            def body(self) -> bytes:
                lines = iter(self.rfile.readline, b".\r\n")
                return b"".join(lines)

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        extra = {"from_email": "puavo@school.example", "disable_ssl": True, "disable_tls": True}
        self.connection = json.dumps(
            {
                "conn_type": "smtp",
                "host": "127.0.0.1",
                "port": self.server.server_address[1],
                "extra": json.dumps(extra),
            }
        )

    def take(self, receivers: list[str], data: bytes) -> None:
        mail = message_from_bytes(data, policy=policy.default)
        body = mail.get_body(("html", "plain"))
        assert body is not None
        self.got.append((receivers, str(mail["subject"]), str(body.get_content())))


@contextmanager
def serving(*sinks: Webhook | Mail) -> Iterator[None]:
    """Run them."""
    for sink in sinks:
        threading.Thread(target=sink.server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        for sink in sinks:
            sink.server.shutdown()
            sink.server.server_close()


def wait_for(condition: Callable[[], Any], patience: float = 60) -> None:
    """Wait until this is true."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)
