"""What an audit found, for people and for programs, and where the last one's report is kept."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from puavo_repository.errors import RepositoryError, printable
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import Records
from puavo_repository.progress import count, format_bytes

LOCAL = "local"
_LONGEST = 300  # characters of a text that somebody else wrote


class Severity(enum.Enum):
    """What a finding means."""

    ERROR = "error"  # clients are, or soon will be, led to something wrong or cut off
    WARNING = "warning"  # someone should look


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be; its texts fit a terminal, a page and JSON."""

    severity: Severity
    where: str  # ``local``, a remote's URL without password, or the URL base
    file: str  # its path in the mirror; empty where it is about the whole place
    problem: str  # in a few words
    expected: str = ""
    found: str = ""
    remedy: str = ""  # the way out, as a sentence
    repairable: bool = False  # by the audit itself, safely

    def __post_init__(self) -> None:
        for one in ("where", "file", "problem", "expected", "found", "remedy"):
            # Somebody else may have written it, and any length of it.
            text = printable(getattr(self, one)[: _LONGEST + 1])
            cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
            object.__setattr__(self, one, cut)

    @classmethod
    def of(cls, where: str, error: RepositoryError, file: str = "") -> Finding:
        """Return what an error means that kept something from being checked."""
        about = "" if error.subject in {where, file} else f"{error.subject}: "
        problem = f"could not be checked: {about}{error.problem}"
        return cls(Severity.ERROR, where, file, problem, error.expected, error.found, error.remedy)

    def __str__(self) -> str:
        subject = f"{self.where}: {self.file}" if self.file else self.where
        error = RepositoryError(
            subject, self.problem, expected=self.expected, found=self.found, remedy=self.remedy
        )
        return str(error)


# A check's findings; ``Checked.named`` says where they are.
error = partial(Finding, Severity.ERROR, "")
warning = partial(Finding, Severity.WARNING, "")


@dataclass(frozen=True)
class Counts:
    """What was looked at."""

    local_files: int = 0  # read in full
    local_bytes: int = 0  # of these
    rdiffs: int = 0  # local ones that were applied again
    remote_files: int = 0  # looked for on remotes
    remote_read: int = 0  # those of them that were read in full
    remote_bytes: int = 0  # of these
    ranges: int = 0  # compared, on remotes and by https
    urls: int = 0  # addresses that clients use which were asked for

    def __add__(self, other: Counts) -> Counts:
        names = (one.name for one in fields(self))
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class Checked:
    """What one check of an audit found."""

    where: str  # as in ``Finding``
    counts: Counts = field(default_factory=Counts)
    findings: tuple[Finding, ...] = ()
    repaired: tuple[Finding, ...] = ()  # what was not as it should be, and is now
    notes: tuple[str, ...] = ()  # for the operator, such as how the canary update went

    def named(self, where: str) -> Checked:
        """Return the same of a place that is known by this name."""
        findings = tuple(replace(one, where=where) for one in self.findings)
        repaired = tuple(replace(one, where=where) for one in self.repaired)
        return replace(self, where=where, findings=findings, repaired=repaired)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        found: dict[str, Any] = _CHECKED.dump_python(self, mode="json")
        return found

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Checked:
        """Read what ``to_dict`` returned."""
        return _CHECKED.validate_python(values)


_CHECKED = TypeAdapter(Checked)


@dataclass(frozen=True)
class AuditReport:
    """What a whole audit found."""

    begun: float  # seconds since the epoch
    seconds: float
    turn: int  # counts the audits
    checks: tuple[Checked, ...]  # the local tree, each remote, clients
    turns: Mapping[str, int] = field(default_factory=dict)  # how often each place was checked
    name = "audit"  # of its record beside the mirror

    @property
    def counts(self) -> Counts:
        """What was looked at in all."""
        return sum((check.counts for check in self.checks), Counts())

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is not as it should be, errors first."""
        every = [finding for check in self.checks for finding in check.findings]
        return tuple(sorted(every, key=lambda finding: finding.severity is not Severity.ERROR))

    @property
    def repaired(self) -> tuple[Finding, ...]:
        """What was not as it should be, and is now."""
        return tuple(finding for check in self.checks for finding in check.repaired)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the operator should know."""
        return tuple(note for check in self.checks for note in check.notes)

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def ok(self) -> bool:
        """Whether clients are led to nothing wrong: there is no error."""
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "begun": self.begun,
            "seconds": round(self.seconds, 3),
            "turn": self.turn,
            "turns": dict(self.turns),
            "ok": self.ok,
            "counts": asdict(self.counts),
            "checks": [check.to_dict() for check in self.checks],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AuditReport:
        """Read what ``to_dict`` returned."""
        return _REPORT.validate_python(values)

    def looked_at(self) -> list[str]:
        """Return what was looked at, as lines for people."""
        done = self.counts
        local, remote = format_bytes(done.local_bytes), format_bytes(done.remote_bytes)
        parts = {
            f"{count(done.local_files, 'local file')} read ({local})": done.local_files,
            f"{count(done.rdiffs, 'rdiff')} applied again": done.rdiffs,
            f"{count(done.remote_files, 'file')} looked for on the mirrors": done.remote_files,
            f"{done.remote_read} of them read whole ({remote})": done.remote_read,
            f"{done.urls} addresses asked as clients do": done.urls,
            f"{count(done.ranges, 'range')} compared": done.ranges,
        }
        return [text for text, number in parts.items() if number]

    def lines(self, *, findings: bool = True) -> list[str]:
        """Return the report as lines for people, with or without the findings."""
        at = datetime.fromtimestamp(self.begun, UTC)
        total = f"errors: {self.errors}, warnings: {len(self.findings) - self.errors}"
        return [
            f"audit {self.turn} of {at:%Y-%m-%d %H:%M} UTC, {self.seconds:.0f} s",
            *self.looked_at(),
            *self.notes,
            *(f"repaired: {finding}" for finding in self.repaired),
            *(f"{finding.severity.value}: {finding}" for finding in self.findings if findings),
            total if self.findings else "everything is as it should be",
        ]


_REPORT = TypeAdapter(AuditReport)


def last(mirror: Path) -> AuditReport | None:
    """Return the last audit's report; None where there is none, or none that can be read."""
    try:
        return records(mirror).get(AuditReport.name)
    except RepositoryError:
        return None  # keeping the next one will say why


def records(mirror: Path) -> Records[AuditReport]:
    """Return where the report is kept: in ``.puavo-repository/audit.json`` beside the mirror."""
    folder = Mirror(mirror).state.folder
    return Records(folder, lambda _name, values: AuditReport.from_dict(values))
