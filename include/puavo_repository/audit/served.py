"""The files behind the addresses that served metadata leads clients to."""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from puavo_repository.audit.https import CONNECTIONS, Answer, Https
from puavo_repository.audit.report import Counts, Finding, error, warning
from puavo_repository.audit.steps import Tally, side_by_side
from puavo_repository.errors import ConnectionLostError
from puavo_repository.formats.metadata import DescribedFile, Document
from puavo_repository.mirror.description import Description
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.files import Identity
from puavo_repository.progress import Watcher

logger = logging.getLogger(__name__)

_MOST = 20_000  # addresses that are asked for; no repository has as many files
_PATIENCE = 3  # addresses without an answer after which no more are asked
_RANGE = 4 << 10  # bytes of a range
_RANGES = 3  # of each file
_MOST_RANGES = 600
_ELSEWHERE = "Prepare with PUAVO_REPOSITORY_REPOSITORY set to where it is served, and publish"
_PLAIN = re.compile(r"/[A-Za-z0-9._+~%/-]*")


class ServedFiles:
    """Asks for every address of every file, and compares some ranges.

    Args:
        root: The local mirror.
        https: The server.
        watcher: Told of the addresses that are asked.
        tally: Told of the same, for the report.
    """

    def __init__(self, root: Path, https: Https, watcher: Watcher, tally: Tally) -> None:
        self._root = root
        self._https = https
        self._where = https.urlbase
        self._watcher = watcher
        self._tally = tally
        self._lost = 0
        self._ranges_ignored = False

    def check(self, served: Description, local: Description) -> list[Finding]:
        """Ask for every address of every file, and compare some ranges."""
        base = f"{self._where}/…"
        findings = [
            error(self._where, path, f"names {count} addresses elsewhere", base, url, _ELSEWHERE)
            for path, count, url in outside(served, self._where)
        ]
        urls = served_urls(served, self._where)
        self._watcher.begin("clients", 0, len(urls))
        heads = side_by_side(lambda item: self._head(*item), urls.items(), CONNECTIONS)
        findings += [finding for finding in heads if finding]
        good = {f.path: u for (u, f), bad in zip(urls.items(), heads, strict=True) if not bad}
        if self._lost < _PATIENCE:
            ours = [path for path in good if self._is_ours(served.files[path], local)]
            most = _MOST_RANGES // _RANGES
            chosen = random.SystemRandom().sample(ours, most) if len(ours) > most else ours
            compared = side_by_side(
                lambda path: self._compare(good[path], served.files[path]), chosen, CONNECTIONS
            )
            findings += [finding for finding in compared if finding]
        else:
            findings.append(
                error(self._where, "", "answers too little: no more addresses were asked")
            )
        if self._ranges_ignored:
            findings.append(
                warning(
                    self._where,
                    "",
                    "the server ignores ranges: a download that broke off starts again",
                    remedy="Serve the tree as static files",
                )
            )
        return findings

    def _head(self, url: str, file: DescribedFile) -> Finding | None:
        if self._lost >= _PATIENCE:
            return None
        try:
            answer = self._https.head(url)
        except ConnectionLostError as lost:
            self._lost += 1
            return _lost(self._where, file, url, lost)
        self._tally.add(Counts(urls=1))
        self._watcher.finish("clients")
        if answer.status != 200 or answer.leads:
            return not_served(self._where, file.path, "200", f"{answer} for {url}")
        encoding = answer.headers.get("content-encoding", "identity")
        if encoding != "identity":
            return encoded(self._where, file.path, encoding)
        length = answer.headers.get("content-length", "none")
        if length != str(file.size):
            return error(
                self._where,
                file.path,
                "is served with another length",
                str(file.size),
                f"{length} for {url}",
                "See the web server's root and what stands before it, such as a cache; publish",
            )
        return None

    def _is_ours(self, file: DescribedFile, local: Description) -> bool:
        ours, identity = local.files.get(file.path), Identity.at(self._root / file.path)
        same = ours is not None and ours.digests.get("sha256") == file.digests.get("sha256")
        return same and identity is not None and identity.size == file.size > 0

    def _compare(self, url: str, file: DescribedFile) -> Finding | None:
        """Compare a few ranges with the local file."""
        chance, length = random.SystemRandom(), min(_RANGE, file.size)
        for _ in range(_RANGES):
            if self._ranges_ignored or self._lost >= _PATIENCE:
                return None
            offset = chance.randrange(file.size - length + 1)
            try:
                answer = self._https.range(url, offset, length)
            except ConnectionLostError as lost:
                self._lost += 1
                return _lost(self._where, file, url, lost)
            if answer.status == 200:
                self._ranges_ignored = True
                return None
            if answer.status != 206 or answer.leads:
                return not_served(self._where, file.path, "206", f"{answer} for a range of {url}")
            self._tally.add(Counts(ranges=1))
            if self._differs(answer, file, offset, length):
                return error(
                    self._where,
                    file.path,
                    f"is served with other bytes than the local file has from byte {offset} on",
                    found=f"{len(answer.body)} bytes of {url}",
                    remedy="Audit the remote that is served here, with a share of 1",
                )
        return None

    def _differs(self, answer: Answer, file: DescribedFile, offset: int, length: int) -> bool:
        """Say whether what is served is wrong, and not the local file itself, or gone by now."""
        path = self._root / file.path
        try:
            with path.open("rb", buffering=0) as stream:
                same = answer.body == os.pread(stream.fileno(), length, offset)
            if same and not answer.more:
                return False
            found = digest_file(path, lambda _done: None)
        except OSError as error:
            logger.warning("%s cannot be compared: %s", path, error)
            return False
        return found.sha256 == file.digests.get("sha256")


def not_served(where: str, path: str, status: str, found: str) -> Finding:
    """Return the finding of a file that the server does not give."""
    remedy = "See the web server's log and its root; publish if the file is missing there"
    return error(where, path, "is not served", f"status {status}", found, remedy)


def encoded(where: str, path: str, encoding: str) -> Finding:
    """Return the finding of a file that the server encodes though nobody asked for it."""
    remedy = "Have the web server send files as they are: no compression in this tree"
    return error(where, path, "is not served as it is", "no Content-Encoding", encoding, remedy)


def _lost(where: str, file: DescribedFile, url: str, lost: ConnectionLostError) -> Finding:
    return error(where, file.path, lost.problem, found=url, remedy=lost.remedy)


def served_urls(served: Description, urlbase: str) -> dict[str, DescribedFile]:
    """Return the file behind each address: those in ``urls``, and those that laptops compute.

    Args:
        served: The metadata.
        urlbase: The repository's address; others are left out, see ``outside``.
    """
    every = (
        (url, served.files[path])
        for document in served.parsed.values()
        for path, entry in _entries(document)
        for url in (f"{urlbase}/{path}", *_urls(entry))
        if _is_below(url, urlbase)
    )
    return dict(islice(every, _MOST))


def outside(served: Description, urlbase: str) -> Iterator[tuple[str, int, str]]:
    """Yield (document, count, first one) of addresses that are not below the repository's."""
    for name, document in served.parsed.items():
        urls = [url for _, entry in _entries(document) for url in _urls(entry)]
        others = [url for url in urls if not _is_below(url, urlbase)]
        if others:
            yield name, len(others), others[0]


def _entries(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    for content in document.values():
        for image in content["images"]:
            yield image["filename"], image
            for diff in image.get("diffs", []):
                yield f"rdiffs/{diff['filename']}", diff


def _urls(entry: dict[str, Any]) -> list[str]:
    urls = entry.get("urls")
    return [url for url in urls if isinstance(url, str)] if isinstance(urls, list) else []


def _is_below(url: str, urlbase: str) -> bool:
    rest = url.removeprefix(urlbase)
    return url.startswith(urlbase) and bool(_PLAIN.fullmatch(rest)) and ".." not in rest
