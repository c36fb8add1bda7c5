"""What people at a terminal, or in a task's log, read of a plan and of a report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from puavo_repository.errors import printable
from puavo_repository.formats.names import image_name
from puavo_repository.prepare.plan import DiffState, Plan
from puavo_repository.prepare.report import Report
from puavo_repository.progress import count, format_bytes

if TYPE_CHECKING:  # it loads the SSH library, which is slow
    from puavo_repository.publish.plan import PublishReport

PROGRAM = "puavo-update-repository"
_WIDE = 160  # columns


def say(text: str) -> None:
    """Tell a person who runs the command what is not part of its result."""
    sys.stderr.write(f"{PROGRAM}: {printable(text)}\n")


def print_lines(lines: Iterable[str]) -> None:
    """Print the result for a person."""
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)


def print_json(values: dict[str, Any]) -> None:
    """Print the result for a program."""
    sys.stdout.write(json.dumps(values, indent=2) + "\n")


def render(done: Plan | Report) -> None:
    """Print what a run did, or would do."""
    if isinstance(done, Plan):
        print_lines(_plan_lines(done))
        return
    if done.series:
        _table(
            ("Series", "Images", "Newest", "Size", "Rdiffs", "Update", "Saves"),
            (_series_row(one) for one in done.series),
        )
    if done.rdiffs and (done.rdiffs_made or done.rdiffs_adopted or done.images_read):
        print_lines([""])
        _table(
            ("Rdiff", "Size", "Share"),
            ((r["name"], format_bytes(r["size"]), f"{r['share']:.2%}") for r in done.rdiffs),
        )
        print_lines([""])
    print_lines(f"note: {note}" for note in done.notes)
    print_lines(f"removed: {path}" for path in done.removed)
    print_lines([_summary(done)])


def _series_row(one: dict[str, Any]) -> Iterable[str]:
    return (
        one["name"],
        str(one["images"]),
        image_name(one["newest"]).version[:10],
        format_bytes(one["newest_size"]),
        str(one["rdiffs"]),
        format_bytes(one["update"]) if one["update"] is not None else "whole",
        f"{one['saving']:.1%}",
    )


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table of one name and figures; only the name may need a second line."""
    name, *figures = titles
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(name, overflow="fold")
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # A pipe or a log has no width: what would be cut off there is lost.
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE).print(table)


def _summary(found: Report) -> str:
    images = sum(line["images"] for line in found.series)
    total = sum(line["size"] for line in found.rdiffs)
    adopted = f" and {found.rdiffs_adopted} adopted" if found.rdiffs_adopted else ""
    failed = f", {len(found.failures)} FAILED" if found.failures else ""
    return (
        f"{found.mirror}: {count(images, 'image')} in {len(found.series)} series, "
        f"{count(len(found.rdiffs), 'rdiff')} ({format_bytes(total)}), "
        f"{count(found.images_read, 'image')} read ({format_bytes(found.bytes_read)}), "
        f"{count(found.rdiffs_made, 'rdiff')} made{adopted}, {found.seconds:.1f} s{failed}"
    )


def _plan_lines(plan: Plan) -> list[str]:
    """Return what a run would do; the last line sums up."""
    missing = plan.pairs(DiffState.MISSING, DiffState.WAITING)
    images = sum(len(images) for images in plan.series.values())
    sums = (
        f"{count(images, 'image')} in {len(plan.series)} series; {len(plan.fingerprints)} to read, "
        f"{count(len(missing), 'rdiff')} to make, {len(plan.pairs(DiffState.PRESENT))} there; "
        f"space: at most {format_bytes(plan.space_needed)} needed, "
        f"{format_bytes(plan.space_free)} free"
    )
    reads = [f"would read {name}" for name in plan.fingerprints]
    makes = [f"would make rdiffs/{pair.rdiff}" for pair in missing]
    return [*reads, *makes, *(f"would remove {path}" for path in plan.stale), sums]


def render_published(reports: Iterable[PublishReport]) -> None:
    """Print what publishing did, or would do; what failed is told on stderr."""
    for report in reports:
        if report.dry_run and report.plan:
            print_lines([f"would publish to {report.target}:"])
            print_lines(f"  {line}" for line in report.plan)
        else:
            print_lines(report.lines()[:1])
