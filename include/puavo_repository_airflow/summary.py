"""What a run leaves for people to read, on its tab "Plan and report".

It is short, whatever the run did: Airflow's database is no place for lists of thousands of files.
All of them are in the logs, in the mirror's records and in its metadata.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context

from puavo_repository.prepare.plan import DiffState, Plan
from puavo_repository.progress import count, format_bytes
from puavo_repository.web.model import DRY_RUN, SUMMARY
from puavo_repository.web.offered import Generation, Generations
from puavo_repository.web.words import seconds

if TYPE_CHECKING:  # the scheduler loads each DAG again and again
    from puavo_repository.audit.report import AuditReport
    from puavo_repository.fleet.usage import Usage
    from puavo_repository.prepare.report import Report
    from puavo_repository.publish.publisher import PublishReport
    from puavo_repository.rollback.rollback import Step

logger = logging.getLogger("puavo_repository.summary")
GLANCE = ""  # the title of the lines that come first, and large
NO_MIRROR = "No mirror is configured: set PUAVO_REPOSITORY_REMOTE, or name some in the form"
_LINES = 25
OF_TWO = _LINES // 2  # lines of each list, where the lists of two tasks are shown as one
_LONGEST = 300  # characters
_GENERATIONS, _SERIES = 20, 50  # of a mirror, and of a generation


def keep(did: str, sections: Mapping[str, Sequence[str]]) -> None:
    """Keep what this run did, in a few words, and sections of lines for people, by their title."""
    kept = [[title, short(lines)] for title, lines in sections.items() if lines]
    get_current_context()["ti"].xcom_push(SUMMARY, {"did": did, "sections": kept})


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
        # Metadata and configuration are not looked at before they are written.
        glance = ["Nothing to read, to make or to remove", "A run writes metadata that differs"]
    sections = {
        GLANCE: glance,
        "Problems": [failure.message for failure in plan.failures],
        "Images to read": plan.fingerprints,
        "Rdiffs to make": rdiffs,
        "Files to remove": plan.stale,
    }
    keep(DRY_RUN, sections)


def prepared(report: "Report") -> None:
    """Keep what a run of prepare did."""
    images = f"{count(report.images_read, 'image')} read"
    rdiffs = f"{count(report.rdiffs_made, 'rdiff')} made"
    sections = {
        GLANCE: [images, rdiffs, f"{seconds(report.seconds)} in all"],
        "Problems": [failure.message for failure in report.failures],
        "Notes": report.notes,
        "Files that were removed": report.removed,
        "On offer": report.series_lines(),
    }
    keep(f"{images}, {rdiffs}", sections)


def step(done: "PublishReport") -> dict[str, Any]:
    """Return what one step did to a mirror, for the report on all of them."""
    files = {
        "sent": done.uploaded,
        "assembled there from others": done.assembled,
        "removed": done.pruned,
    }
    lines = [
        f"{count(len(sizes), 'file')} {what} ({format_bytes(sum(sizes.values()))})"
        for what, sizes in files.items()
        if sizes
    ]
    if done.switched:
        lines.append(f"{count(len(done.switched), 'metadata file')} changed")
    if done.waiting:
        lines.append(f"{count(len(done.waiting), 'file')} to be removed later")
    failed = dict([*done.failed.items(), *done.waits().items()][:_LINES])
    return {"sent": len(done.uploaded) + len(done.assembled), "lines": lines, "failed": failed}


def published(
    reports: "Sequence[PublishReport]", steps: Sequence[Sequence[dict[str, Any]]]
) -> None:
    """Keep what a run of publish left on each mirror, and what ``step`` said of its steps there."""
    sections, both = {}, list(zip(reports, steps, strict=True))
    for one, done in both:
        stands = f"generation {one.generation}" if one.seen else "how it stands is not known"
        would = "it would" if one.dry_run else "still to do"
        sections[one.target] = [
            stands,
            *(line for step in done for line in step.get("lines", ())),
            *(f"{subject}: {why}" for subject, why in one.failed.items()),
            *(f"{would}: {line}" for line in one.plan[:-1]),
            *one.plan[-1:],
        ]
    logger.info("\n".join(f"{target}: {line}" for target in sections for line in sections[target]))
    sent = sum(step.get("sent", 0) for done in steps for step in done)
    reached = sum(one.seen or any(step.get("lines") for step in done) for one, done in both)
    did = f"{count(sent, 'file')} to {count(reached, 'mirror')}"
    dry = any(one.dry_run for one in reports)
    keep(DRY_RUN if dry else did, sections or {GLANCE: [NO_MIRROR]})


def audited(report: "AuditReport") -> None:
    """Keep what an audit found."""
    found = count(len(report.findings), "finding")
    sections = {
        GLANCE: [found, f"{len(report.repaired)} repaired", f"{seconds(report.seconds)} in all"],
        "Findings": [f"{one.severity.value}: {one}" for one in report.findings],
        "Repaired": [str(one) for one in report.repaired],
        "Looked at": [*report.looked_at, *report.notes],
    }
    keep(found, sections)


def generations(mirror: str, steps: "Sequence[Step]") -> dict[str, Any]:
    """Return to what a mirror can be rolled back, as the page reads it; of many the last ones."""
    kept = [
        Generation(
            number=step.number,
            at=datetime.fromtimestamp(step.at, UTC) if step.at else None,
            current=step is steps[0],
            problem=_problem(step),
            differences=[*step.changes[:_SERIES]],
        )
        for step in steps[:_GENERATIONS]
    ]
    more = len(steps[_GENERATIONS:])
    return Generations(mirror=mirror, generations=kept, more=more).model_dump(mode="json")


def _problem(step: "Step") -> str:
    """Return why a generation cannot be rolled back to; empty where it can."""
    if step.lost:
        return "its metadata is lost"
    return f"{count(step.missing, 'file')} of it missing" if step.missing else ""


def used(found: "Usage", read: Sequence[str]) -> None:
    """Keep what clients fetch."""
    last = found.total()
    fetched = format_bytes(last.rdiffs + last.images + last.rsync)
    glance = [f"{fetched} in 30 days", f"{format_bytes(last.saved)} saved"]
    keep(f"clients fetched {fetched} in 30 days", {GLANCE: glance, "Read": read})
