"""What an audit found, for people and for programs, and where the last one's report is kept."""

import enum
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from operator import add
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from puavo_repository.errors import RepositoryError, printable
from puavo_repository.mirror.store import FOLDER, Record, Records
from puavo_repository.progress import count, format_bytes
from puavo_repository.remote.target import canonical

LOCAL = "local"
NAME = "audit"  # of the report's record
_LONGEST = 300  # characters of a text that somebody else wrote


class Severity(enum.StrEnum):
    """What a finding means."""

    ERROR = "error"  # clients are, or soon will be, led to something wrong or cut off
    WARNING = "warning"  # someone should look


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be; its texts fit a terminal, a page and JSON."""

    severity: Severity
    where: str  # the place, as in the ``Checked`` that it is part of
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
    def of(cls, where: str, error: RepositoryError, file: str = "") -> Self:
        """Return what an error means that kept something from being checked."""
        about = "" if error.subject in {where, file} else f"{error.subject}: "
        problem = f"could not be checked: {about}{error.problem}"
        return cls(Severity.ERROR, where, file, problem, error.expected, error.found, error.remedy)

    def __str__(self) -> str:
        subject = f"{self.where}: {self.file}" if self.file else self.where
        parts = {"expected": self.expected, "found": self.found, "remedy": self.remedy}
        return str(RepositoryError(subject, self.problem, **parts))


# What a check finds; where that is, its ``Checked`` says.
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

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True)
class Checked:
    """What one check of an audit found."""

    where: str  # ``local``, a remote's URL without password, or the URL base
    counts: Counts = field(default_factory=Counts)
    findings: tuple[Finding, ...] = ()
    repaired: tuple[Finding, ...] = ()  # what was not as it should be, and is now
    notes: tuple[str, ...] = ()  # for the operator, such as how the canary update went
    whole: bool = True  # whether it was made to its end

    def __post_init__(self) -> None:
        for name in ("findings", "repaired"):
            here = tuple(replace(one, where=self.where) for one in getattr(self, name))
            object.__setattr__(self, name, here)


CHECKED = TypeAdapter(Checked)


@dataclass(frozen=True)
class AuditReport(Record):
    """What a whole audit found."""

    begun: float = 0.0  # seconds since the epoch
    seconds: float = 0.0
    turn: int = 0  # counts the audits
    # The local tree, each remote, clients. In the one that is kept: also what is still known of
    # places that it did not look at.
    checks: tuple[Checked, ...] = ()
    turns: Mapping[str, int] = field(default_factory=dict)  # how often each place was checked
    at: Mapping[str, float] = field(default_factory=dict)  # when each of them last was

    @property
    def counts(self) -> Counts:
        """What was looked at in all."""
        return sum((check.counts for check in self.checks), Counts())

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is not as it should be, errors first."""
        every = [finding for check in self.checks for finding in check.findings]
        return tuple(sorted(every, key=lambda finding: finding.severity))

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors: clients are, or soon will be, led to something wrong."""
        return tuple(one for one in self.findings if one.severity is Severity.ERROR)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    @property
    def repaired(self) -> tuple[Finding, ...]:
        """What was not as it should be, and is now."""
        return tuple(finding for check in self.checks for finding in check.repaired)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the operator should know."""
        return tuple(note for check in self.checks for note in check.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        more = {"seconds": round(self.seconds, 3), "ok": self.ok, "counts": asdict(self.counts)}
        return {**super().to_dict(), **more}

    @property
    def looked_at(self) -> list[str]:
        """What was looked at, as lines for people."""
        done = self.counts
        local, remote = format_bytes(done.local_bytes), format_bytes(done.remote_bytes)
        parts = {
            f"{count(done.local_files, 'local file')} read ({local})": done.local_files,
            f"{count(done.rdiffs, 'rdiff')} applied again": done.rdiffs,
            f"{count(done.remote_files, 'file')} looked for on the mirrors": done.remote_files,
            f"{count(done.remote_read, 'file')} read whole there ({remote})": done.remote_read,
            f"{done.urls} addresses asked as clients do": done.urls,
            f"{count(done.ranges, 'range')} compared": done.ranges,
        }
        return [text for text, number in parts.items() if number]

    def lines(self, *, findings: bool = True) -> list[str]:
        """Return the report as lines for people, with or without the findings."""
        at, errors = datetime.fromtimestamp(self.begun, UTC), len(self.errors)
        total = f"errors: {errors}, warnings: {len(self.findings) - errors}"
        return [
            f"audit {self.turn} of {at:%Y-%m-%d %H:%M} UTC, {self.seconds:.0f} s",
            *self.looked_at,
            *self.notes,
            *(f"repaired: {finding}" for finding in self.repaired),
            *(f"{finding.severity}: {finding}" for finding in self.findings if findings),
            total if self.findings else "everything is as it should be",
        ]


def records(mirror: Path) -> Records[AuditReport]:
    """Return where the report is kept: in ``.puavo-repository/audit.json`` beside the mirror."""
    return Records(mirror / FOLDER, AuditReport.from_dict)


def last(mirror: Path) -> AuditReport:
    """Return the last audit's report; an empty one where there is none that can be read."""
    with suppress(RepositoryError):  # keeping the next one will say why
        return records(mirror).get(NAME) or AuditReport(NAME)
    return AuditReport(NAME)


def turn(mirror: Path, where: str) -> tuple[int, frozenset[str]]:
    """Return how often a place was checked, and its files that are known to be wrong.

    The number says what the next check reads in full; those files are looked at again.
    """
    before = last(mirror)
    here = (one for one in before.findings if canonical(one.where) == canonical(where))
    return before.turns.get(where, 0), frozenset(one.file for one in here)
