"""Puavo as far as it tells which images its devices have."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.fleet import built

ID, NEW_ID = (built(number).removesuffix(".img") for number in (0, 1))
DEVICES: list[dict[str, Any]] = [
    *[{"current_image": ID, "preferred_image": NEW_ID}] * 5,
    {"current_image": ID},  # nothing is preferred: it stays
    {"current_image": ID, "preferred_image": None},
    {"preferred_image": ID},  # never started
    {"current_image": ID, "object_classes": ["top", "puavoNetbootDevice"]},
    {"current_image": "../../etc", "preferred_image": ID},
]


class PuavoRest(ThreadingHTTPServer):
    """Answers ``GET /v3/devices`` as rest/resources/devices.rb of puavo-web: a list of objects
    with the attributes that were asked for, for those who log in.
    """

    body: bytes = json.dumps([{"object_classes": ["puavoLocalbootDevice"], **d} for d in DEVICES])\
        .encode()  # fmt: skip
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answers(BaseHTTPRequestHandler):
    server: PuavoRest

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        login = base64.b64encode(b"service:secret").decode()
        status = self.server.status
        if self.headers["Authorization"] != f"Basic {login}":
            status = 401
        elif url.path != "/v3/devices" or "hostname" in parse_qs(url.query)["attributes"][0]:
            status = 404
        self.send_response(status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass
