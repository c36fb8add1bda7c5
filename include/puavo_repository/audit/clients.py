"""What clients see at the repository's address: metadata, files, certificate, one whole update.

Somebody may publish meanwhile: where something is wrong and the metadata that is served has
changed since, all of it is looked at again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from puavo_repository.audit.canary import canary
from puavo_repository.audit.https import Https
from puavo_repository.audit.report import Checked, Counts, Finding, error, warning
from puavo_repository.audit.served import ServedFiles, refusal
from puavo_repository.audit.steps import DAY, attempted, broken_rules
from puavo_repository.errors import CertificateError, ConnectionLostError
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.records import FOLDER
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.remote import journal
from puavo_repository.settings import Settings

_VALID = 14  # days that a certificate must still be valid
_LARGEST = 64 << 20  # bytes of a document
_LOOKS = 3  # times that the same is looked at while it is published anew
_PUBLISH = "Publish; if that is done, see"
_AGAIN = f"{_PUBLISH} what the web server serves instead"


def clients(settings: Settings, turn: int, watcher: Watcher = NO_WATCHER) -> Checked:
    """Audit what clients see at ``settings.repository``; ``turn`` counts the audits."""

    def check() -> Checked:
        with contextlib.closing(Https(settings.repository, settings.ca_file)) as https:
            return _Clients(settings.mirror_dir, https, watcher).check(turn)

    return attempted(settings.repository, check)


@dataclass
class _Clients:
    """One audit of what clients see."""

    root: Path  # of the local mirror
    https: Https
    watcher: Watcher
    counts: list[Counts] = field(default_factory=list)  # from several threads

    def check(self, turn: int) -> Checked:
        first, notes = list(self._certificate()), []
        try:
            found, line = self._look_until_settled(turn)
            findings, notes = [*first, *self._hidden(), *found], [line]
        except CertificateError as why:
            refused = error("", why.problem, "", why.found, why.remedy)
            other = warning("", "what clients see could not be checked any further")
            findings = [refused, other, *first]
        counts = sum(self.counts, Counts())
        return Checked(self.https.urlbase, counts, tuple(findings), notes=tuple(notes))

    def _certificate(self) -> Iterator[Finding]:
        if self.https.urlbase.startswith("http://"):
            problem = "is not https: there is no certificate to check"
            yield warning("", problem, remedy="Serve it by https")
            return
        ends = self.https.certificate_ends()
        left = (ends - time.time()) / DAY
        if 0 < left < _VALID:  # one that has ended is told by the first request
            found = f"{datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M} UTC, {left:.2f} days left"
            remedy = "Renew it, and see why that is not done by itself"
            problem, expected = "the certificate ends soon", f"at least {_VALID} days"
            yield error("", problem, expected, found, remedy)

    def _look_until_settled(self, turn: int) -> tuple[list[Finding], str]:
        local = take(self.root, "auditing")
        served, findings = self._documents(local)
        for _ in range(_LOOKS):
            files = ServedFiles(self.root, self.https, self.watcher, self.counts)
            line, failed = canary(self.root, self.https, served, local, turn)
            found = [*findings, *files.check(served, local), *([failed] if failed else [])]
            if not found:
                break
            before, local = served, take(self.root, "auditing")
            with contextlib.suppress(ConnectionLostError):
                served, findings = self._documents(local)
            if served.documents == before.documents:
                break
        return found, line

    def _documents(self, local: Description) -> tuple[Description, list[Finding]]:
        """Fetch the metadata of every series that the local mirror has."""
        contents: dict[str, bytes] = {}
        findings: list[Finding] = []
        for path, ours in local.documents.items():
            answer = self.https.get(f"{self.https.urlbase}/{path}", _LARGEST)
            self.counts.append(Counts(urls=1))
            if answer.more:
                findings.append(error(path, "is larger than any metadata", remedy=_AGAIN))
            elif wrong := refusal(path, answer):
                findings.append(wrong)
            else:
                contents[path] = answer.body
                if answer.body != ours and path in local.parsed:
                    findings += _other(path, answer.body, local)
        served = Description.of(contents)
        findings += [
            error(path, "is no metadata that clients can read", "", problem, _AGAIN)
            for path, problem in served.damaged.items()
        ]
        return served, [*findings, *broken_rules(served, _AGAIN)]

    def _hidden(self) -> Iterator[Finding]:
        for path in (journal.PATH, f"{FOLDER}/metadata.lock"):
            served = False
            with contextlib.suppress(ConnectionLostError):
                served = self.https.head(f"{self.https.urlbase}/{path}").status == 200
            if served:
                problem = "is served: records of the publisher are nobody else's business"
                remedy = "Have the web server deny hidden names, as deploy/nginx/mirror does"
                yield warning(path, problem, "status 403 or 404", "status 200", remedy)


def _other(path: str, content: bytes, local: Description) -> Iterator[Finding]:
    """Yield how a document differs from the one that the local mirror has."""
    served = Description.of({path: content})
    for name, file in served.files.items():
        ours = local.files.get(name)
        if ours is not None and ours != file:
            yield error(
                path,
                f"describes {name} otherwise than the local mirror does",
                ours.digests.get("sha512", f"{ours.size} bytes"),
                file.digests.get("sha512", f"{file.size} bytes"),
                f"{_PUBLISH} who else writes there",
            )
    if path in served.parsed:
        where, expected, seen = difference(local.parsed[path], served.parsed[path])
        problem = f"is not what the local mirror describes: {where or 'its bytes'} differs first"
        remedy = f"{_PUBLISH} what the web server keeps or serves instead"
        yield warning(path, problem, expected, seen, remedy)


def difference(ours: Any, theirs: Any, where: str = "") -> tuple[str, str, str]:
    """Return where two documents differ first, what is there in ours, and what in theirs.

    Both are walked as far as ours goes; the names are those of jq.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours | theirs:
            if key not in theirs:
                return f"{where}.{key}", "present", ""
            if key not in ours:
                return f"{where}.{key}", "", "present"
            if ours[key] != theirs[key]:
                return difference(ours[key], theirs[key], f"{where}.{key}")
    if isinstance(ours, list) and isinstance(theirs, list):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            if one != other:
                return difference(one, other, f"{where}[{index}]")
        return f"{where} (how many)", str(len(ours)), str(len(theirs))
    return where, _brief(ours), _brief(theirs)


def _brief(value: Any) -> str:
    """Return a value of somebody else's in a few words; it may be large, and nested deeply."""
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    return f"a list of {len(value)}" if isinstance(value, list) else str(value)[:100]
