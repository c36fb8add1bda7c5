"""Finds what clients fetched in the text of a log: a web server's, or rsyncd's. Pure.

A web server's line is in the common or combined format, of nginx or Apache, with anything in front
of it or behind. rsyncd's is the default of ``transfer logging``; the bytes are in another line of
the same process. Most lines of a log are of others: whole blocks are searched for names like ours,
and only lines with one are looked at. What a line says of the client is an address that is never
kept: see ``downloads``.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote

from puavo_repository.formats.names import ImageName, is_plain_name, is_rdiff_name

BLOCK = 4 << 20  # bytes
LONGEST_LINE = 1 << 20  # bytes; what is longer is no line of a log
RSYNC = "rsync"
HTTPS = "https"
BOT = "bot"  # whatever fetches all that there is, and no update of its own

# A suffix of ours, and what may stand behind it; the compiled search reads a gigabyte a second.
_OURS = re.compile(rb"\.(?:rdiff|img|json)[ ?#]")
_RSYNC_SENT = b" bytes  received "
_EITHER = re.compile(_OURS.pattern + b"|" + _RSYNC_SENT)  # slower
_WEB = re.compile(
    rb"\[(?P<minute>\d\d/\w{3}/\d{4}:\d\d:\d\d):\d\d (?P<zone>[+-]\d{4})\] "
    rb'"(?P<method>[A-Z]+) (?P<path>[^\s"]+)(?: [^\s"]*)?" (?P<status>\d{3}) (?P<sent>\d+|-)'
    rb'(?: "[^"\\]*(?:\\.[^"\\]*)*" "(?P<agent>[^"\\]*(?:\\.[^"\\]*)*))?'
)
_RSYNCD = re.compile(rb"(?P<day>\d{4}/\d\d/\d\d) \d\d:\d\d:\d\d \[(?P<process>\d+)\] (?P<text>.*)")
_RSYNC_FILE = re.compile(rb"send \S+ \[(?P<address>[^\]]*)\] .*?(?P<name>[^\s/]+) \d+\s*")
_RSYNC_BYTES = re.compile(rb"sent (?P<sent>[\d,.]+) bytes  received ")
_BOT = re.compile(
    rb"bot\b|crawl|spider|slurp|archiver|scan|monitor|prefetch|puavo-repository-audit",
    re.IGNORECASE,
)


class Request(NamedTuple):
    """One answer that a client got."""

    day: str  # YYYY-MM-DD in UTC; of rsyncd, as its server has it
    address: bytes  # the client's; leaves no trace
    name: str  # of the image, rdiff or metadata file, without folder
    status: int  # HTTP's; of rsync 200 for a file and 206 for its bytes, which come after it
    sent: int  # bytes of the body
    via: str


def blocks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield a log as blocks of whole lines; a line that has no end yet waits for another time."""
    rest = b""
    while block := stream.read(BLOCK):
        head, newline, tail = block.rpartition(b"\n")
        if newline:
            yield b"%b%b\n" % (rest, head)
            rest = tail
        else:
            rest += block
        if len(rest) > LONGEST_LINE:
            yield rest  # ends no line, and is none of ours
            rest = b""


class Reader:
    """Reads the blocks of one log, and counts what it could not read."""

    def __init__(self) -> None:
        self.read = 0  # lines with a name like ours that could be read
        self.broken = 0  # those that could not
        self._sending: dict[bytes, Request] = {}  # the last file of each process of rsyncd

    def requests(self, block: bytes) -> Iterator[Request]:
        """Yield what clients were answered in a block of whole lines."""
        at = 0
        for start in self._places(block):
            if start < at:
                continue
            begin = block.rfind(b"\n", at, start) + 1 or at
            end = block.find(b"\n", start)
            at = len(block) if end < 0 else end + 1
            yield from self._line(block[begin : at - (end >= 0)])

    def _places(self, block: bytes) -> Iterator[int]:
        if _RSYNC_SENT not in block:
            return (found.start() for found in _OURS.finditer(block))
        return (found.start() for found in _EITHER.finditer(block))

    def _line(self, line: bytes) -> Iterator[Request]:
        before = line.find(b" [")
        who = line[: max(before, 0)].split()[-3:]  # address, identity and user
        if len(who) == 3 and (web := _WEB.match(line, before + 1)):
            self.read += 1
            minute, zone, method, path, status, sent, agent = web.groups()
            day, name = _day(minute, zone), _name(path)
            if method == b"GET" and day and name:
                via = BOT if agent and _is_bot(agent) else HTTPS
                count = 0 if sent == b"-" else int(sent[:18])
                yield Request(day, who[0], name, int(status), count, via)
        elif rsync := _RSYNCD.match(line):
            self.read += 1
            yield from self._rsync(rsync)
        else:
            self.broken += 1

    def _rsync(self, line: re.Match[bytes]) -> Iterator[Request]:
        process = line["process"]
        if found := _RSYNC_FILE.fullmatch(line["text"]):
            name = found["name"].decode("utf-8", "replace")
            day = _day(line["day"] + b":00:00", b"+0000", "%Y/%m/%d:%H:%M %z")
            if day and ImageName.parse(name) and is_plain_name(name):
                request = Request(day, found["address"], name, 200, 0, RSYNC)
                self._sending[process] = request
                yield request
        elif (found := _RSYNC_BYTES.match(line["text"])) and process in self._sending:
            request = self._sending.pop(process)
            sent = int(re.sub(rb"\D", b"", found["sent"])[:18])
            yield request._replace(status=206, sent=sent)


@lru_cache(4096)
def _is_bot(agent: bytes) -> bool:
    return _BOT.search(agent) is not None


@lru_cache(1 << 14)
def _name(path: bytes) -> str:
    """Return the name of one of our files in a request's path; empty where it is none."""
    parts = unquote(re.split(rb"[?#]", path, maxsplit=1)[0].decode("utf-8", "replace")).split("/")
    folder, name = (["", *parts])[-2:]
    if not is_plain_name(name):
        return ""
    if folder == "rdiffs":
        return name if is_rdiff_name(name) else ""
    if folder == "meta":
        return name if name.endswith(".json") else ""
    return name if ImageName.parse(name) else ""


@lru_cache(4096)
def _day(minute: bytes, zone: bytes, form: str = "%d/%b/%Y:%H:%M %z") -> str:
    """Return the day of a moment in UTC; empty where there is no such moment."""
    try:
        at = datetime.strptime(f"{minute.decode()} {zone.decode()}", form)
        return at.astimezone(UTC).date().isoformat()
    except (ValueError, OverflowError):
        return ""
