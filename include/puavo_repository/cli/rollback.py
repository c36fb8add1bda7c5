"""``puavo-update-repository rollback``: clients of a published mirror see an earlier generation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from puavo_repository import settings
from puavo_repository.cli import options as cli_options
from puavo_repository.cli import printed
from puavo_repository.errors import RepositoryError, SettingsError
from puavo_repository.publish import options as publish_options
from puavo_repository.publish.publisher import Publisher
from puavo_repository.remote.target import Target
from puavo_repository.rollback.history import Step, steps
from puavo_repository.rollback.rollback import no_such_series, remember, roll_back


def run(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: What follows the word ``rollback``.

    Returns:
        0 when every remote rolled back (or was listed), 1 when one did not.

    Raises:
        RepositoryError: Bad settings.
    """
    options = _parser().parse_args(arguments)
    chosen = settings.load(vars(options), images=False, command=True)
    how = publish_options.load({})
    targets = cli_options.targets(options.upload, chosen, how)
    if not targets:
        raise SettingsError(
            "rollback",
            "no published mirror is named",
            remedy="Give its URL with --upload, or set PUAVO_REPOSITORY_REMOTE",
        )
    if options.to is not None and len(targets) > 1:
        raise SettingsError(
            "--to", "each mirror counts its own generations", remedy="Name one mirror"
        )
    done, failed = [], False
    for target in targets:
        try:
            done.append(_one(target, chosen.mirror_dir, how, options))
        except RepositoryError as error:
            printed.say(f"error: {error}")
            failed = True
    if options.json:
        printed.print_json({"mirrors": done})
    return 1 if failed else 0


def _one(
    target: Target, mirror_dir: Path, how: publish_options.Options, options: argparse.Namespace
) -> dict[str, Any]:
    with Publisher(mirror_dir, target, how) as publisher:
        if options.list:
            found = _only(steps(publisher), target, options.series)
            if not options.json:
                _show(target, found)
            return {"target": target.url, "generations": [step.to_dict() for step in found]}
        done = roll_back(publisher, options.to, options.series)
    if mirror_dir.is_dir():
        remember(mirror_dir, target.url, done)
    if not options.json:
        sys.stdout.write(f"{done}\n")
    return done.to_dict()


def _only(found: Sequence[Step], target: Target, series: Sequence[str]) -> Sequence[Step]:
    """Return the generations with the newest images of some series alone; of none for all."""
    there = {name for step in found for name in step.newest}
    for name in series:
        if name not in there:
            raise no_such_series(target.url, name, there)
    if not series:
        return found
    return [replace(s, newest={name: s.newest.get(name, "") for name in series}) for s in found]


def _show(target: Target, found: Sequence[Step]) -> None:
    sys.stdout.write(f"{target.url}\n")
    for step in found:
        at = f"{datetime.fromtimestamp(step.at, UTC):%Y-%m-%d %H:%M} UTC" if step.at else "unknown"
        newest = ", ".join(f"{name} {version}" for name, version in step.newest.items())
        lost = f"; {step.missing} files of it are missing" if step.missing else ""
        lost += "; its metadata is lost, so it cannot be rolled back to" if step.lost else ""
        sys.stdout.write(f"  generation {step.number}, published {at}: {newest}{lost}\n")


def _parser() -> argparse.ArgumentParser:
    parser = cli_options.parser(
        "rollback",
        upload="the published mirror; may be repeated; default PUAVO_REPOSITORY_REMOTE",
        description="Clients of a published mirror get the metadata of an earlier generation "
        "again, after a bad night. Images and rdiffs stay as they are. What is rolled back from "
        "is not published again until it is gone from the local mirror, or "
        "PUAVO_REPOSITORY_ALLOW_ROLLED_BACK=true allows it once.",
    )
    parser.add_argument(
        "--to",
        metavar="N",
        type=int,
        help="generation to roll back to; default: the last one with other metadata",
    )
    parser.add_argument(
        "--series",
        metavar="NAME",
        action="append",
        default=[],
        help="only this series; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="show the generations, change nothing")
    return parser
