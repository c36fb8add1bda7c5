"""What people at a terminal, or in a task's log, read of a plan and of a report."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from puavo_repository.errors import printable
from puavo_repository.formats.names import image_name
from puavo_repository.prepare.plan import DiffState, Plan
from puavo_repository.prepare.report import Report
from puavo_repository.progress import count, format_bytes

PROGRAM = "puavo-update-repository"
_WIDE = 160  # columns


def say(text: str) -> None:
    """Tell a person who runs the command what is not part of its result."""
    sys.stderr.write(f"{PROGRAM}: {printable(text)}\n")


def print_json(values: dict[str, Any]) -> None:
    """Print the result for a program."""
    sys.stdout.write(json.dumps(values, indent=2) + "\n")


def render(found: Report) -> None:
    """Print a report for a person."""
    console = _console()
    table = _table("Series", "Images", "Newest", "Size", "Rdiffs", "Update", "Saves")
    for line in found.series:
        table.add_row(
            line["name"],
            str(line["images"]),
            image_name(line["newest"]).version[:10],
            format_bytes(line["newest_size"]),
            str(line["rdiffs"]),
            format_bytes(line["update"]) if line["update"] is not None else "whole",
            f"{line['saving']:.1%}",
        )
    if found.series:
        console.print(table)
    if found.rdiffs_made or found.rdiffs_adopted or found.images_read:
        _render_rdiffs(found, console)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for path in found.removed:
        console.print(f"removed: {path}", markup=False, soft_wrap=True)
    console.print(_summary(found), markup=False, soft_wrap=True)


def _render_rdiffs(found: Report, console: Console) -> None:
    table = _table("Rdiff", "Size", "Share")
    for line in found.rdiffs:
        table.add_row(line["name"], format_bytes(line["size"]), f"{line['share']:.2%}")
    if found.rdiffs:
        console.print()
        console.print(table)
        console.print()


def _table(name: str, *figures: str) -> Table:
    """Return a table of one name and figures; only the name may need a second line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(name, overflow="fold")
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table


def _summary(found: Report) -> str:
    images = sum(line["images"] for line in found.series)
    total = sum(line["size"] for line in found.rdiffs)
    parts = [
        f"{found.mirror}: {count(images, 'image')} in {len(found.series)} series",
        f"{count(len(found.rdiffs), 'rdiff')} ({format_bytes(total)})",
        f"{count(found.images_read, 'image')} read ({format_bytes(found.bytes_read)})",
        f"{count(found.rdiffs_made, 'rdiff')} made"
        + (f" and {found.rdiffs_adopted} adopted" if found.rdiffs_adopted else ""),
        f"{found.seconds:.1f} s",
    ]
    if found.failures:
        parts.append(f"{len(found.failures)} FAILED")
    return ", ".join(parts)


def render_plan(plan: Plan) -> None:
    """Print what a run would do."""
    console = _console()
    for name in plan.fingerprints:
        console.print(f"would read {name}", markup=False, soft_wrap=True)
    missing = plan.pairs(DiffState.MISSING, DiffState.WAITING)
    for pair in missing:
        console.print(f"would make rdiffs/{pair.rdiff}", markup=False, soft_wrap=True)
    for path in plan.stale:
        console.print(f"would remove {path}", markup=False, soft_wrap=True)
    images = sum(len(images) for images in plan.series.values())
    console.print(
        f"{count(images, 'image')} in {len(plan.series)} series; {len(plan.fingerprints)} to read, "
        f"{count(len(missing), 'rdiff')} to make, "
        f"{len(plan.pairs(DiffState.PRESENT))} there; "
        f"space: at most {format_bytes(plan.space_needed)} needed, "
        f"{format_bytes(plan.space_free)} free",
        markup=False,
        soft_wrap=True,
    )


def _console() -> Console:
    # A pipe or a log has no width: what would be cut off there is lost.
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
