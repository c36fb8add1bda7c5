"""Lines of logs as they come: nginx's, Apache's, rsyncd's, and whatever else is in a file."""

from __future__ import annotations

import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from puavo_repository.fleet.requests import BOT, HTTPS, RSYNC, Reader, Request, blocks

RDIFF = "puavo-os-amxa-buster-2021-04-13-192449--2022-01-17-120001-amd64.rdiff"
IMAGE = "puavo-os-amxa-buster-2022-01-17-120001-amd64.img"


def line(
    path: str = f"/rdiffs/{RDIFF}",
    *,
    address: str = "192.0.2.7",
    at: str = "30/Nov/2026:05:48:49 +0000",
    method: str = "GET",
    status: int = 200,
    sent: str = "1234",
    end: str = ' "-" "Wget/1.21.3"',
) -> bytes:
    return f'{address} - - [{at}] "{method} {path} HTTP/1.1" {status} {sent}{end}\n'.encode()


def read(text: bytes) -> list[Request]:
    reader = Reader()
    return [one for block in blocks(io.BytesIO(text)) for one in reader.requests(block)]


ONE = Request("2026-11-30", b"192.0.2.7", RDIFF, 200, 1234, HTTPS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (line(), ONE),
        (line(end=""), ONE),  # the common format
        (b"images.example.org:443 " + line(), ONE),  # Apache's vhost_combined
        (line(end=' "-" "Wget/1.21.3" "-" rt=0.003 10.0.0.1:80'), ONE),
        (line(end=r' "https://x/\"y\" z" "a \"quoted\" [agent] .img "'), ONE),
        (line(address="2001:db8::7"), ONE._replace(address=b"2001:db8::7")),
        (line(at="30/Nov/2026:00:30:00 +0200"), ONE._replace(day="2026-11-29")),
        (line(at="30/Nov/2026:23:45:00 -0530"), ONE._replace(day="2026-12-01")),
        (line(f"/mirror/rdiffs/{RDIFF}?x=1"), ONE),
        (line(f"https://images.example.org/rdiffs/{RDIFF}"), ONE),
        (line("/%72diffs/" + RDIFF.replace("-", "%2D")), ONE),
        (line(f"/{IMAGE}", status=206), ONE._replace(name=IMAGE, status=206)),
        (line("/meta/puavo-os-amxa-buster-amd64.json", status=304, sent="-"),
         ONE._replace(name="puavo-os-amxa-buster-amd64.json", status=304, sent=0)),
        (line(end=' "-" "Mozilla/5.0 (compatible; Googlebot/2.1)"'), ONE._replace(via=BOT)),
        (line(end=' "-" "puavo-repository-audit"'), ONE._replace(via=BOT)),
    ],
)  # fmt: skip
def test_a_line_is_read(text: bytes, expected: Request) -> None:
    assert read(line("/index.html") + text + line("/favicon.ico")) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        line(method="HEAD"),
        line(f"/{RDIFF}"),  # not where rdiffs lie
        line("/rdiffs/other.rdiff"),
        line("/logo.img"),
        line("/meta/../../etc/x.json"),
        line("/api/x.json"),
        line(at="31/Feb/2026:05:48:49 +0000"),
        line(at="30/Nov/2026:05:48:49 +9999"),
        line(f"/search?q=/rdiffs/{RDIFF}"),
        b'{"request": "GET /rdiffs/%b HTTP/1.1", "status": 200}\n' % RDIFF.encode(),
        line()[:-1],  # not all written yet
        line()[:60] + b"\n",
        b"\0" * 5000 + b"\n",
        b"GET /rdiffs/" + RDIFF.encode() + b" HTTP/1.1\n",
    ],
)
def test_what_is_no_download_of_ours_is_left_alone(text: bytes) -> None:
    assert read(text) == []
    assert read(line() + text + line())[:1] == [ONE]


def test_rsyncd_tells_the_file_in_one_line_and_its_bytes_in_another() -> None:
    begin = "2026/11/30 05:48:50"
    text = (
        f"{begin} [77] rsync on images/{IMAGE} from host (192.0.2.7)\n"
        f"{begin} [77] building file list\n"
        f"{begin} [77] send host.example [192.0.2.7] images () {IMAGE} 4170000000\n"
        f"{begin} [78] send UNKNOWN [2001:db8::1] images () images/{IMAGE} 4170000000\n"
        f"{begin} [77] sent 91,000,123 bytes  received 4500 bytes  total size 4170000000\n"
        f"{begin} [79] sent 5 bytes  received 4500 bytes  total size 4170000000\n"
        f"2026/99/30 05:48:50 [80] send host.example [192.0.2.7] images () {IMAGE} 4170000000\n"
    )
    whole = Request("2026-11-30", b"192.0.2.7", IMAGE, 200, 0, RSYNC)
    assert read(text.encode()) == [
        whole,
        whole._replace(address=b"2001:db8::1"),
        whole._replace(status=206, sent=91_000_123),
    ]


def test_a_line_without_end_fills_no_memory() -> None:
    class Endless(io.RawIOBase):
        left = 64

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return b"x" * size if self.left >= 0 else b""

    reader = Reader()
    assert max(map(len, blocks(Endless()))) < 16 << 20  # type: ignore[arg-type]
    assert reader.read == 0


PARTS = st.sampled_from(
    [b"\n", b'"', b"\\", b" ", b"[", b"]", b"/", b"%", b".img ", b".rdiff ", b"/meta/x.json ",
     b"GET ", line(), line(f"/{IMAGE}")[:-1], b" bytes  received ", b"2026/11/30 05:48:49 [7] ",
     b"sent 99", b"send h [::1] m () ", IMAGE.encode(), b"\xff", b"\0",
     b"30/Nov/2026:05:48:49 +0000]"]
)  # fmt: skip


@given(st.lists(PARTS | st.binary(max_size=8), max_size=40).map(b"".join))
@example(b'a b c [30/Nov/2026:05:48:49 +0000] "GET /%FF/%00.img HTTP/1.1" 200 9\n')
def test_whatever_is_in_a_log_the_lines_after_it_are_read(noise: bytes) -> None:
    found = read(noise + b"\n" + line())
    assert found[-1] == ONE
    assert found[:-1] == read(noise + b"\n")  # however it is cut into blocks: see blocks
    for request in found:
        assert len(request.day) == 10
        assert request.sent >= 0
        assert "/" not in request.name
