"""What a run leaves for people to read, on its tab "Plan and report".

It is short, whatever the run did: Airflow's database is no place for lists of thousands of files.
All of them are in the logs, in the mirror's records and in its metadata.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context

from puavo_repository.prepare.plan import DiffState, Plan
from puavo_repository.progress import count, format_bytes
from puavo_repository.web.model import DRY_RUN
from puavo_repository.web.words import percent, seconds, version, when

if TYPE_CHECKING:  # the scheduler loads each DAG again and again
    from puavo_repository.audit.report import AuditReport
    from puavo_repository.prepare.report import Report
    from puavo_repository.publish.report import PublishReport
    from puavo_repository.rollback.history import Step
    from puavo_repository.rollback.rollback import RolledBack

logger = logging.getLogger("puavo_repository.summary")
Did = Mapping[str, Any]
KEY = "summary"
GLANCE = ""  # the title of the lines that come first, and large
NO_MIRROR = "No mirror is configured: set PUAVO_REPOSITORY_REMOTE, or name some in the form"
_LINES = 25
OF_TWO = _LINES // 2  # lines of each list, where the lists of two tasks are shown as one
_LONGEST = 300  # characters


def keep(did: str, sections: Mapping[str, Sequence[str]]) -> None:
    """Keep what this run did.

    Args:
        did: In a few words.
        sections: Lines for people, by their title.
    """
    kept = [[title, short(lines)] for title, lines in sections.items() if lines]
    get_current_context()["ti"].xcom_push(KEY, {"did": did, "sections": kept})


def short(lines: Iterable[str], most: int = _LINES) -> list[str]:
    """Return the first lines, each not too long, and how many more there are.

    What is short already stays as it is: the number of more lines, too.
    """
    every = [line[:_LONGEST] for line in lines]
    if len(every) <= most + 1:
        return every
    return [*every[:most], f"and {len(every) - most} more"]


def planned(plan: Plan) -> None:
    """Keep what a run of prepare would do."""
    rdiffs = [pair.rdiff for pair in plan.pairs(DiffState.MISSING, DiffState.WAITING)]
    glance = [
        f"{len(plan.fingerprints)} to read",
        f"{count(len(rdiffs), 'rdiff')} to make",
        f"At most {format_bytes(plan.space_needed)} of {format_bytes(plan.space_free)} free",
    ]
    if not (plan.has_work or plan.stale or plan.failures):
        glance = ["Nothing to do: everything is up to date"]
    sections = {
        GLANCE: glance,
        "Problems": [failure.message for failure in plan.failures],
        "Images to read": plan.fingerprints,
        "Rdiffs to make": rdiffs,
        "Files to remove": plan.stale,
    }
    keep(DRY_RUN, sections)


def prepared(report: Report) -> None:
    """Keep what a run of prepare did."""
    images = f"{count(report.images_read, 'image')} read"
    rdiffs = f"{count(report.rdiffs_made, 'rdiff')} made"
    sections = {
        GLANCE: [images, rdiffs, f"{seconds(report.seconds)} in all"],
        "Problems": [failure.message for failure in report.failures],
        "Notes": report.notes,
        "Files that were removed": report.removed,
        "On offer": [_series(one) for one in report.series],
    }
    keep(f"{images}, {rdiffs}", sections)


def _series(one: Mapping[str, Any]) -> str:
    update = "the whole image" if one["update"] is None else format_bytes(one["update"])
    return (
        f"{one['name']}: {count(one['images'], 'image')}, newest {one['newest']}, "
        f"{count(one['rdiffs'], 'rdiff')}; update: {update}, "
        f"a client saves {percent(one['saving'])}"
    )


def step(done: PublishReport) -> Did:
    """Return what one step did to a mirror, for the report on all of them."""
    amounts = {
        "sent": done.uploaded,
        "assembled there from others": done.assembled,
        "removed": done.pruned,
    }
    return {
        "sent": len(done.uploaded) + len(done.assembled),
        "lines": [
            *(
                f"{count(len(files), 'file')} {what} ({format_bytes(sum(files.values()))})"
                for what, files in amounts.items()
                if files
            ),
            *([f"{count(len(done.switched), 'metadata file')} changed"] if done.switched else []),
            *([f"{count(len(done.waiting), 'file')} to be removed later"] if done.waiting else []),
        ],
        "failed": dict([*done.failed.items(), *done.waits().items()][:_LINES]),
    }


def published(reports: Sequence[PublishReport], steps: Sequence[Sequence[Did]]) -> None:
    """Keep what a run of publish did.

    Args:
        reports: What it left on each mirror.
        steps: What its steps did to each: what ``step`` returned, or nothing.
    """
    sections = {one.target: _mirror(one, done) for one, done in zip(reports, steps, strict=True)}
    sent = sum(one.get("sent", 0) for done in steps for one in done)
    did = f"{count(sent, 'file')} to {count(len(reports), 'mirror')}"
    logger.info("\n".join(f"{target}: {line}" for target in sections for line in sections[target]))
    dry = any(one.dry_run for one in reports)
    keep(DRY_RUN if dry else did, sections or {GLANCE: [NO_MIRROR]})


def _mirror(one: PublishReport, steps: Sequence[Did]) -> list[str]:
    return [
        f"generation {one.generation}" if one.files is not None else "nothing could be published",
        *(line for step in steps for line in step.get("lines", ())),
        *(f"{subject}: {why}" for subject, why in one.failed.items()),
        *(f"{'it would' if one.dry_run else 'still to do'}: {line}" for line in one.plan[:-1]),
        *one.plan[-1:],
    ]


def audited(report: AuditReport) -> None:
    """Keep what an audit found."""
    found = count(len(report.findings), "finding")
    sections = {
        GLANCE: [found, f"{len(report.repaired)} repaired", f"{seconds(report.seconds)} in all"],
        "Findings": [f"{one.severity.value}: {one}" for one in report.findings],
        "Repaired": [str(one) for one in report.repaired],
        "Looked at": [*report.looked_at(), *report.notes],
    }
    keep(found, sections)


def of_rollback(done: Mapping[str, list[str] | None], *, dry_run: bool) -> None:
    """Keep what a run of rollback did.

    Args:
        done: What it did to each mirror, None where it could not roll back.
        dry_run: Whether it only showed what can be rolled back to.
    """
    good = sum(lines is not None for lines in done.values())
    sections = {mirror: lines or ["did not roll back"] for mirror, lines in done.items()}
    keep(DRY_RUN if dry_run else f"{count(good, 'mirror')} rolled back", sections)


def rolled_back(done: RolledBack) -> list[str]:
    """Return what a rollback of one mirror did."""
    return short(
        [
            f"generation {done.generation}: clients see the metadata of {done.restored} again",
            f"{count(len(done.rejected), 'file')} not offered until a run of publish allows it",
            *(f"put back: {name}" for name in done.documents),
            *(f"no longer offered: {name}" for name in done.rejected),
        ]
    )


def generations(steps: Sequence[Step]) -> list[str]:
    """Return what one mirror can be rolled back to, the generation that clients see first."""
    return short(_generation(one, now=one is steps[0]) for one in steps)


def _generation(one: Step, *, now: bool) -> str:
    at = f" of {when(datetime.fromtimestamp(one.at, UTC))}" if one.at else ""
    newest = ", ".join(f"{series} {version(number)}" for series, number in one.newest.items())
    state = "clients see it" if now else f"{one.missing} are gone" if one.missing else "all there"
    return f"generation {one.number}{at}: {state}; newest images: {newest}"
