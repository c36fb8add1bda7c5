"""The files behind the addresses that served metadata leads clients to."""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from puavo_repository.audit.https import CONNECTIONS, Answer, Https
from puavo_repository.audit.report import Counts, Finding, error, warning
from puavo_repository.audit.steps import is_local, side_by_side
from puavo_repository.errors import ConnectionLostError
from puavo_repository.formats.metadata import DescribedFile, entries
from puavo_repository.mirror.description import Description
from puavo_repository.mirror.digests import digest_file
from puavo_repository.progress import Watcher, no_progress

logger = logging.getLogger(__name__)

_MOST = 20_000  # addresses that are asked for; no repository has as many files
_PATIENCE = 3  # addresses without an answer after which no more are asked
_RANGE = 4 << 10  # bytes of a range
_RANGES = 3  # of each file
_MOST_FILES = 200  # whose ranges are compared
_ELSEWHERE = "Prepare with PUAVO_REPOSITORY_REPOSITORY set to where it is served, and publish"
_PLAIN = re.compile(r"/[A-Za-z0-9._+~%/-]*")


def refusal(path: str, answer: Answer, status: int = 200, what: str = "") -> Finding | None:
    """Return what is wrong with an answer: another status, or encoded though nobody asked."""
    if answer.status != status:
        remedy = "See the web server's log and its root; publish if the file is missing there"
        return error(path, "is not served", f"status {status}", f"{answer}{what}", remedy)
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding != "identity":
        remedy = "Have the web server send files as they are: no compression in this tree"
        return error(path, "is not served as it is", "no Content-Encoding", encoding, remedy)
    return None


@dataclass
class ServedFiles:
    """Asks for every address of every file, and compares some ranges with the local files."""

    root: Path
    https: Https
    watcher: Watcher
    counts: list[Counts]
    lost: int = 0
    ranges_ignored: bool = False

    def check(self, served: Description, local: Description) -> list[Finding]:
        """Ask for every address of every file, and compare some ranges."""
        findings, urls = _addresses(served, self.https.urlbase)
        self.watcher.begin("clients", 0, len(urls))
        heads = side_by_side(partial(self._asked, self._head), urls.items(), CONNECTIONS)
        findings += [finding for finding in heads if finding]
        good = {f.path: u for (u, f), bad in zip(urls.items(), heads, strict=True) if not bad}
        if self.lost < _PATIENCE:
            files = (served.files[path] for path in good)
            ours = [(good[f.path], f) for f in files if f.size and is_local(self.root, f, local)]
            if len(ours) > _MOST_FILES:
                ours = random.SystemRandom().sample(ours, _MOST_FILES)
            compared = side_by_side(partial(self._asked, self._compare), ours, CONNECTIONS)
            findings += [finding for finding in compared if finding]
        else:
            findings.append(error("", "answers too little: no more addresses were asked"))
        if self.ranges_ignored:
            problem = "the server ignores ranges: a download that broke off starts again"
            findings.append(warning("", problem, remedy="Serve the tree as static files"))
        return findings

    def _asked(
        self,
        step: Callable[[str, DescribedFile], Finding | None],
        item: tuple[str, DescribedFile],
    ) -> Finding | None:
        """Do a step for an address, unless too many had no answer."""
        url, file = item
        if self.lost >= _PATIENCE:
            return None
        try:
            return step(url, file)
        except ConnectionLostError as lost:
            self.lost += 1
            return error(file.path, lost.problem, found=url, remedy=lost.remedy)

    def _head(self, url: str, file: DescribedFile) -> Finding | None:
        answer = self.https.head(url)
        self.counts.append(Counts(urls=1))
        self.watcher.finish("clients")
        if refused := refusal(file.path, answer, what=f" for {url}"):
            return refused
        length = answer.headers.get("content-length", "none")
        if length == str(file.size):
            return None
        remedy = "See the web server's root and what stands before it, such as a cache; publish"
        problem, found = "is served with another length", f"{length} for {url}"
        return error(file.path, problem, str(file.size), found, remedy)

    def _compare(self, url: str, file: DescribedFile) -> Finding | None:
        """Compare a few ranges with the local file."""
        length = min(_RANGE, file.size)
        for _ in range(_RANGES):
            if self.ranges_ignored or self.lost >= _PATIENCE:
                return None
            offset = random.SystemRandom().randrange(file.size - length + 1)
            answer = self.https.get(url, length, offset)
            if answer.status == 200:
                self.ranges_ignored = True
                return None
            if answer.status != 206:
                return refusal(file.path, answer, 206, f" for a range of {url}")
            self.counts.append(Counts(ranges=1))
            if self._differs(answer, file, offset, length):
                problem = "is served with other bytes than the local file has from byte"
                found = f"{len(answer.body)} bytes of {url}"
                remedy = "Audit the remote that is served here, with a share of 1"
                return error(file.path, f"{problem} {offset} on", "", found, remedy)
        return None

    def _differs(self, answer: Answer, file: DescribedFile, offset: int, length: int) -> bool:
        """Say whether what is served is wrong, and not the local file itself, or gone by now."""
        path = self.root / file.path
        try:
            with path.open("rb", buffering=0) as stream:
                same = answer.body == os.pread(stream.fileno(), length, offset)
            if same and not answer.more:
                return False
            return digest_file(path, no_progress).sha256 == file.sha256
        except OSError as error:
            logger.warning("%s cannot be compared: %s", path, error)
            return False


def _addresses(served: Description, urlbase: str) -> tuple[list[Finding], dict[str, DescribedFile]]:
    """Return what leads elsewhere, and the file behind each address below the repository's.

    The addresses are those in ``urls``, and those that laptops compute.
    """
    findings, urls = [], {}
    for name, document in served.parsed.items():
        elsewhere: list[str] = []
        for path, entry in entries(document):
            given = entry.get("urls")
            given = given if isinstance(given, list) else []
            named = [url for url in given if isinstance(url, str)]
            elsewhere += [url for url in named if not _is_below(url, urlbase)]
            for url in (f"{urlbase}/{path}", *named):
                if _is_below(url, urlbase):
                    urls[url] = served.files[path]
        if elsewhere:
            problem = f"names {len(elsewhere)} addresses elsewhere"
            findings.append(error(name, problem, f"{urlbase}/…", elsewhere[0], _ELSEWHERE))
    return findings, dict(islice(urls.items(), _MOST))


def _is_below(url: str, urlbase: str) -> bool:
    rest = url.removeprefix(urlbase)
    return url.startswith(urlbase) and bool(_PLAIN.fullmatch(rest)) and ".." not in rest
