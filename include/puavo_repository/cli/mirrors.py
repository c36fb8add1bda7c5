"""``audit`` and ``rollback`` of the command: published mirrors are looked at, or taken back."""

import argparse
from dataclasses import asdict
from typing import Any

from puavo_repository import settings
from puavo_repository.audit import audit as auditing
from puavo_repository.cli.terminal import print_json, print_lines, say, shown
from puavo_repository.errors import RepositoryError, SettingsError
from puavo_repository.publish.publisher import Publisher
from puavo_repository.remote.target import Target
from puavo_repository.rollback.rollback import remember, roll_back, steps
from puavo_repository.settings import Settings


def audit(asked: argparse.Namespace) -> int:
    """Return 0 where there is no error, 1 where there is one; warnings do not count."""
    chosen, targets = _load(asked)
    with shown() as watcher:
        report = auditing.audit(chosen, targets, repair=asked.repair, watcher=watcher)
    if asked.json:
        print_json(report.to_dict())
    else:
        print_lines(report.lines(findings=False))
    for finding in report.findings:
        say(f"{finding.severity.value}: {finding}")
    return 0 if report.ok else 1


def rollback(asked: argparse.Namespace) -> int:
    """Return 0 when every remote rolled back (or was listed), 1 when one did not."""
    chosen, targets = _load(asked, images=False)
    if not targets:
        remedy = "Give its URL with --upload, or set PUAVO_REPOSITORY_REMOTE"
        raise SettingsError("rollback", "no published mirror is named", remedy=remedy)
    if asked.to is not None and len(targets) > 1:
        problem = "each mirror counts its own generations"
        raise SettingsError("--to", problem, remedy="Name one mirror")
    done = []
    for target in targets:
        try:
            with Publisher(chosen.mirror_dir, target, chosen) as publisher:
                lines, values = _one(publisher, target.url, chosen, asked)
        except RepositoryError as error:
            say(f"error: {error}")
            continue
        done.append(values)
        print_lines([] if asked.json else lines)
    if asked.json:
        print_json({"mirrors": done})
    return 0 if len(done) == len(targets) else 1


def _one(
    publisher: Publisher, url: str, chosen: Settings, asked: argparse.Namespace
) -> tuple[list[str], dict[str, Any]]:
    """Roll one mirror back, or list its generations; return that for a person and a program."""
    if not asked.list:
        done = roll_back(publisher, asked.to, asked.series)
        remember(chosen.mirror_dir, url, done)
        return [str(done)], done.to_dict()
    found = steps(publisher, asked.series)
    values = {"target": url, "generations": [asdict(step) for step in found]}
    return [url, *(f"  {step}" for step in found)], values


def _load(asked: argparse.Namespace, *, images: bool = True) -> tuple[Settings, list[Target]]:
    """Return the settings, and the remotes named with ``--upload``, else those of the settings."""
    chosen = settings.load(vars(asked), images=images, command=True)
    for remote in chosen.remote:
        if "://" not in remote and not asked.upload:  # to leave it out would look like success
            problem = f"{remote} is an Airflow connection, which only the DAGs can use"
            remedy = "Name the mirror with --upload sftp://user@host/path, or run the DAG"
            raise SettingsError("PUAVO_REPOSITORY_REMOTE", problem, remedy=remedy)
    return chosen, [chosen.target(url) for url in asked.upload or chosen.remote]
