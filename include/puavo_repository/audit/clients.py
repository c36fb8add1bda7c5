"""What clients see at the repository's address: metadata, files, certificate, one whole update.

Somebody may publish meanwhile: where something is wrong and the metadata that is served has
changed since, all of it is looked at again.
"""

import contextlib
import logging
import os
import random
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from puavo_repository.audit import steps
from puavo_repository.audit.https import CONNECTIONS, Answer, Https, canary
from puavo_repository.audit.report import Checked, Counts, Finding, error, turn, warning
from puavo_repository.errors import ConnectionLostError
from puavo_repository.formats.metadata import DescribedFile, entries
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.store import FOLDER
from puavo_repository.progress import NO_WATCHER, Watcher, no_progress
from puavo_repository.publish.survey import every_range, samples
from puavo_repository.remote import journal
from puavo_repository.settings import Settings

logger = logging.getLogger(__name__)

_VALID = 14  # days that a certificate must still be valid
_LARGEST = 64 << 20  # bytes of a document
_LOOKS = 3  # times that the same is looked at while it is published anew
_MOST = 20_000  # addresses that are asked for; no repository has as many files
_PATIENCE = 3  # addresses without an answer after which no more are asked
_RANGES = 3  # of each file
_MOST_FILES = 200  # whose ranges are compared
_PUBLISH = "Publish; if that is done, see"
_AGAIN = f"{_PUBLISH} what the web server keeps or serves instead"
_ELSEWHERE = "Prepare with PUAVO_REPOSITORY_REPOSITORY set to where it is served, and publish"
_PLAIN = re.compile(r"/[A-Za-z0-9._+~%/-]*")


def clients(settings: Settings, watcher: Watcher = NO_WATCHER) -> Checked:
    """Audit what clients see at ``settings.repository``.

    The files that something was wrong with are compared whole and updated with.
    """

    def check() -> Checked:
        with Https(settings.repository, settings.ca_file) as https:
            return _Clients(settings, https, watcher).check()

    return steps.attempted(settings.repository, check)


@dataclass
class _Clients:
    """One audit of what clients see."""

    settings: Settings
    https: Https
    watcher: Watcher
    counts: list[Counts] = field(default_factory=list)  # from several threads
    lost: int = 0  # addresses without an answer, in one look
    ranges_ignored: bool = False

    def __post_init__(self) -> None:
        self.turn, self.again = turn(self.settings.mirror_dir, self.settings.repository)

    def check(self) -> Checked:
        certificate = list(self._certificate())
        found, notes = self._look_until_settled()
        findings = (*certificate, *self._hidden(), *found)
        counts, whole = sum(self.counts, Counts()), self.lost < _PATIENCE
        return Checked(self.https.urlbase, counts, findings, (), tuple(notes), whole)

    def _certificate(self) -> Iterator[Finding]:
        if self.https.urlbase.startswith("http://"):
            problem = "is not https: there is no certificate to check"
            yield warning("", problem, remedy="Serve it by https")
            return
        ends = self.https.certificate_ends()
        left = (ends - time.time()) / steps.DAY
        if 0 < left < _VALID:  # one that has ended is told by the first request
            found = f"{datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M} UTC, {left:.2f} days left"
            remedy = "Renew it, and see why that is not done by itself"
            problem, expected = "the certificate ends soon", f"at least {_VALID} days"
            yield error("", problem, expected, found, remedy)

    def _hidden(self) -> Iterator[Finding]:
        for path in (journal.PATH, f"{FOLDER}/metadata.lock"):
            with contextlib.suppress(ConnectionLostError):
                if self.https.ask(f"{self.https.urlbase}/{path}").status == 200:
                    problem = "is served: records of the publisher are nobody else's business"
                    remedy = "Have the web server deny hidden names, as deploy/nginx/mirror does"
                    yield warning(path, problem, "status 403 or 404", "status 200", remedy)

    def _look_until_settled(self) -> tuple[list[Finding], list[str]]:
        local = take(self.settings.mirror_dir, "auditing")
        served, findings = self._documents(local)
        for _ in range(_LOOKS):
            lines, failed = canary(self.https, served, local, self.turn, self.again)
            found = [*findings, *self._files(served, local), *failed]
            if not found:
                break
            before, local = served, take(self.settings.mirror_dir, "auditing")
            with contextlib.suppress(ConnectionLostError):
                served, findings = self._documents(local)
            if served.documents == before.documents:
                break
        return found, lines

    def _documents(self, local: Description) -> tuple[Description, list[Finding]]:
        """Fetch the metadata of every series that the local mirror has."""
        contents, findings = {}, []
        for path in local.documents:
            answer = self.https.ask(f"{self.https.urlbase}/{path}", _LARGEST)
            self.counts.append(Counts(urls=1))
            if answer.more:
                findings.append(error(path, "is larger than any metadata", remedy=_AGAIN))
            elif wrong := _refusal(path, answer):
                findings.append(wrong)
            else:
                contents[path] = answer.body
        served = Description.of(contents)
        for path, named in served.named.items():
            if contents[path] != local.documents[path] and path in local.named:
                findings += _differences(path, named, local)
        for path, why in served.damaged.items():
            findings.append(error(path, "is no metadata that clients can read", "", why, _AGAIN))
        broken = steps.broken_rules(served)
        return served, findings + [error(path, why, remedy=_AGAIN) for path, why in broken]

    def _files(self, served: Description, local: Description) -> list[Finding]:
        """Ask for every address of every file, and compare some ranges with the local files."""
        self.lost, self.ranges_ignored, base = 0, False, self.https.urlbase
        findings = []
        urls: dict[str, DescribedFile] = {}  # those in metadata, and those that laptops compute
        for name, document in served.parsed.items():
            elsewhere: list[str] = []
            for path, entry in entries(document):
                given = entry.get("urls")
                named = [u for u in given if isinstance(u, str)] if isinstance(given, list) else []
                elsewhere += [url for url in named if not _is_below(url, base)]
                every = (f"{base}/{path}", *named)
                urls |= {url: served.files[path] for url in every if _is_below(url, base)}
            if elsewhere:
                problem = f"names {len(elsewhere)} addresses elsewhere"
                findings.append(error(name, problem, f"{base}/…", elsewhere[0], _ELSEWHERE))
        urls = dict(islice(urls.items(), _MOST))
        self.watcher.begin("clients", 0, len(urls))
        ours = [f for f in served.files.values() if f.size and steps.is_local(f, local)]
        some = random.SystemRandom().sample(ours, min(len(ours), _MOST_FILES))
        some += [file for file in ours if file.path in self.again]
        compared = {f"{base}/{file.path}" for file in some}

        def check(url: str) -> Finding | None:
            if self.lost >= _PATIENCE:
                return None
            file = urls[url]
            try:
                found = self._head(url, file)
                return self._compare(url, file) if url in compared and not found else found
            except ConnectionLostError as lost:
                self.lost += 1
                return error(file.path, lost.problem, found=url, remedy=lost.remedy)

        findings += [found for found in steps.side_by_side(check, urls, CONNECTIONS) if found]
        if self.lost >= _PATIENCE:
            findings.append(error("", "answers too little: no more addresses were asked"))
        if self.ranges_ignored:
            problem = "the server ignores ranges: a download that broke off starts again"
            findings.append(warning("", problem, remedy="Serve the tree as static files"))
        return findings

    def _head(self, url: str, file: DescribedFile) -> Finding | None:
        answer = self.https.ask(url)
        self.counts.append(Counts(urls=1))
        self.watcher.finish("clients")
        if refused := _refusal(file.path, answer, what=f" for {url}"):
            return refused
        length = answer.headers.get("content-length", "none")
        if length == str(file.size):
            return None
        remedy = "See the web server's root and what stands before it, such as a cache; publish"
        problem, found = "is served with another length", f"{length} for {url}"
        return error(file.path, problem, str(file.size), found, remedy)

    def _compare(self, url: str, file: DescribedFile) -> Finding | None:
        """Compare a few ranges with the local file; all of one that something was wrong with."""
        path, ranges = self.settings.mirror_dir / file.path, samples(file.size)
        ranges = random.SystemRandom().sample(ranges, min(_RANGES, len(ranges)))
        for offset, length in every_range(file.size) if file.path in self.again else ranges:
            if self.ranges_ignored:
                return None
            answer = self.https.ask(url, length, offset=offset)
            if answer.status == 200:
                self.ranges_ignored = True
                return None
            if answer.status != 206:
                return _refusal(file.path, answer, 206, f" for a range of {url}")
            self.counts.append(Counts(ranges=1))
            try:
                with path.open("rb", buffering=0) as stream:
                    same = answer.body == os.pread(stream.fileno(), length, offset)
                if same and not answer.more:
                    continue
                # It may be the local file that is wrong, or gone by now.
                wrong = digest_file(path, no_progress).sha256 == file.sha256
            except OSError as why:
                logger.warning("%s cannot be compared: %s", path, why)
                continue
            if wrong:
                problem = (
                    f"is served with other bytes than the local file has from byte {offset} on"
                )
                remedy = "Audit the remote that is served here, with a share of 1"
                return error(file.path, problem, "", f"{len(answer.body)} bytes of {url}", remedy)
        return None


def _refusal(path: str, answer: Answer, status: int = 200, what: str = "") -> Finding | None:
    """Return what is wrong with an answer: another status, or encoded though nobody asked."""
    if answer.status != status:
        remedy = "See the web server's log and its root; publish if the file is missing there"
        return error(path, "is not served", f"status {status}", f"{answer}{what}", remedy)
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding != "identity":
        remedy = "Have the web server send files as they are: no compression in this tree"
        return error(path, "is not served as it is", "no Content-Encoding", encoding, remedy)
    return None


def _is_below(url: str, urlbase: str) -> bool:
    rest = url.removeprefix(urlbase)
    return url.startswith(urlbase) and bool(_PLAIN.fullmatch(rest)) and ".." not in rest


def _differences(
    path: str, named: Iterable[DescribedFile], local: Description
) -> Iterator[Finding]:
    """Yield how a document, which names these files, differs from the one of the local mirror."""
    for file in named:
        ours = local.files.get(file.path)
        if ours is not None and ours != file:
            problem = f"describes {file.path} otherwise than the local mirror does"
            expected, found = (f.sha512 or f"{f.size} bytes" for f in (ours, file))
            yield error(path, problem, expected, found, f"{_PUBLISH} who else writes there")
    yield warning(path, "is not what the local mirror describes", remedy=_AGAIN)
