"""What an audit found, for people and for programs, and where the last one's report is kept."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from puavo_repository.errors import RepositoryError, printable
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import Records
from puavo_repository.progress import count, format_bytes

LOCAL = "local"
_LONGEST = 300  # characters of a text that somebody else wrote
_RECORD = "audit"


class Severity(enum.Enum):
    """What a finding means."""

    ERROR = "error"  # clients are, or soon will be, led to something wrong or cut off
    WARNING = "warning"  # someone should look


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        severity: What it means.
        where: ``local``, a remote's URL without password, or the URL base.
        file: The file, by its path in the mirror; empty where it is about the whole place.
        problem: What is wrong, in a few words.
        expected: What should be there.
        found: What is there.
        remedy: The way out, as a sentence.
        repairable: Whether the audit itself can repair it safely.
    """

    severity: Severity
    where: str
    file: str
    problem: str
    expected: str = ""
    found: str = ""
    remedy: str = ""
    repairable: bool = False

    def __post_init__(self) -> None:
        for one in ("where", "file", "problem", "expected", "found", "remedy"):
            object.__setattr__(self, one, shown(getattr(self, one)))

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


def error(
    where: str,
    file: str,
    problem: str,
    expected: str = "",
    found: str = "",
    remedy: str = "",
    *,
    repairable: bool = False,
) -> Finding:
    """Return a finding that leads clients to something wrong, or cuts them off."""
    return Finding(Severity.ERROR, where, file, problem, expected, found, remedy, repairable)


def warning(
    where: str, file: str, problem: str, expected: str = "", found: str = "", remedy: str = ""
) -> Finding:
    """Return a finding that someone should look at."""
    return Finding(Severity.WARNING, where, file, problem, expected, found, remedy)


def shown(text: object) -> str:
    """Return a text that somebody else may have written, fit for a terminal, a page and JSON."""
    whole = str(text)
    cut = whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]}…"
    return printable(cut)


@dataclass(frozen=True)
class Counts:
    """What was looked at.

    Attributes:
        local_files: Local files that were read in full.
        local_bytes: Their bytes.
        rdiffs: Local rdiffs that were applied again.
        remote_files: Files that were looked for on remotes.
        remote_read: Those of them that were read in full.
        remote_bytes: Their bytes.
        ranges: Ranges that were compared, on remotes and by https.
        urls: Addresses that clients use which were asked for.
    """

    local_files: int = 0
    local_bytes: int = 0
    rdiffs: int = 0
    remote_files: int = 0
    remote_read: int = 0
    remote_bytes: int = 0
    ranges: int = 0
    urls: int = 0

    def __add__(self, other: Counts) -> Counts:
        names = (one.name for one in fields(self))
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class Checked:
    """What one check of an audit found.

    Attributes:
        where: As in ``Finding``.
        counts: What was looked at.
        findings: What is not as it should be.
        repaired: What was, and is right again.
        notes: What the operator should know, such as how the canary update went.
    """

    where: str
    counts: Counts = field(default_factory=Counts)
    findings: tuple[Finding, ...] = ()
    repaired: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    def named(self, where: str) -> Checked:
        """Return the same of a place that is known by this name."""

        def named(found: tuple[Finding, ...]) -> tuple[Finding, ...]:
            return tuple(replace(one, where=where) for one in found)

        findings, repaired = named(self.findings), named(self.repaired)
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
    """What a whole audit found.

    Attributes:
        begun: When it began, in seconds since the epoch.
        seconds: How long it took.
        turn: Counts the audits.
        checks: What each check found: the local tree, each remote, clients.
        turns: How often each place was checked until now: says which files' turn is next there.
    """

    begun: float
    seconds: float
    turn: int
    checks: tuple[Checked, ...]
    turns: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its record beside the mirror."""
        return _RECORD

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
    def ok(self) -> bool:
        """Whether clients are led to nothing wrong: there is no error."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)

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
        checks = tuple(Checked.from_dict(one) for one in values["checks"])
        turns = dict(values.get("turns", {}))
        return cls(values["begun"], values["seconds"], values["turn"], checks, turns)

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
        return [
            f"audit {self.turn} of {at:%Y-%m-%d %H:%M} UTC, {self.seconds:.0f} s",
            *self.looked_at(),
            *self.notes,
            *(f"repaired: {finding}" for finding in self.repaired),
            *(f"{finding.severity.value}: {finding}" for finding in self.findings if findings),
            "everything is as it should be" if not self.findings else self._sum(),
        ]

    def _sum(self) -> str:
        errors = sum(finding.severity is Severity.ERROR for finding in self.findings)
        return f"errors: {errors}, warnings: {len(self.findings) - errors}"


def remember(mirror: Path, report: AuditReport) -> None:
    """Keep a report beside the mirror, as ``.puavo-repository/audit.json``."""
    records(mirror).put(report)


def last(mirror: Path) -> AuditReport | None:
    """Return the last audit's report; None where there is none, or none that can be read."""
    try:
        return records(mirror).get(_RECORD)
    except RepositoryError:
        return None  # keeping the next one will say why


def records(mirror: Path) -> Records[AuditReport]:
    """Return where the report is kept."""
    folder = Mirror(mirror).state.folder
    return Records(folder, lambda _name, values: AuditReport.from_dict(values))
