"""``puavo-update-repository rollback``: clients of a published mirror see an earlier generation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from puavo_repository import settings
from puavo_repository.cli import options, printed
from puavo_repository.errors import RepositoryError, SettingsError
from puavo_repository.publish.publisher import Options, Publisher
from puavo_repository.rollback.rollback import remember, roll_back, steps


def run(given: Sequence[str]) -> int:
    """Return 0 when every remote rolled back (or was listed), 1 when one did not."""
    asked = _parser().parse_args(given)
    chosen = settings.load(vars(asked), images=False, command=True)
    how = Options.load({})
    targets = options.targets(asked.upload, chosen, how)
    if not targets:
        remedy = "Give its URL with --upload, or set PUAVO_REPOSITORY_REMOTE"
        raise SettingsError("rollback", "no published mirror is named", remedy=remedy)
    if asked.to is not None and len(targets) > 1:
        problem = "each mirror counts its own generations"
        raise SettingsError("--to", problem, remedy="Name one mirror")
    done = []
    for target in targets:
        try:
            with Publisher(chosen.mirror_dir, target, how) as publisher:
                lines, values = _one(publisher, target.url, chosen.mirror_dir, asked)
        except RepositoryError as error:
            printed.say(f"error: {error}")
            continue
        done.append(values)
        if not asked.json:
            printed.print_lines(lines)
    if asked.json:
        printed.print_json({"mirrors": done})
    return 0 if len(done) == len(targets) else 1


def _one(
    publisher: Publisher, url: str, mirror_dir: Path, asked: argparse.Namespace
) -> tuple[list[str], dict[str, Any]]:
    """Roll one mirror back, or list its generations; return that for a person and a program."""
    if asked.list:
        found = steps(publisher, asked.series)
        values = {"target": url, "generations": [asdict(step) for step in found]}
        return [url, *(f"  {step}" for step in found)], values
    done = roll_back(publisher, asked.to, asked.series)
    if mirror_dir.is_dir():
        remember(mirror_dir, url, done)
    return [str(done)], done.to_dict()


def _parser() -> argparse.ArgumentParser:
    parser = options.parser(
        "rollback",
        upload="the published mirror; may be repeated; default PUAVO_REPOSITORY_REMOTE",
        description="Clients of a published mirror get the metadata of an earlier generation "
        "again, after a bad night. Images and rdiffs stay as they are. What is rolled back from "
        "is not published again until it is gone from the local mirror, or "
        "PUAVO_REPOSITORY_ALLOW_ROLLED_BACK=true allows it once.",
    )
    of_to = "generation to roll back to; default: the last one with other metadata"
    parser.add_argument("--to", metavar="N", type=int, help=of_to)
    several: dict[str, Any] = {"action": "append", "default": []}
    of_series = "only this series; may be repeated"
    parser.add_argument("--series", metavar="NAME", help=of_series, **several)
    parser.add_argument("--list", action="store_true", help="show the generations, change nothing")
    return parser
