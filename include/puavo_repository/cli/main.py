"""The command ``puavo-update-repository``: the night's work in one process, and its exit status."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from puavo_repository import settings
from puavo_repository.cli import options, process, terminal
from puavo_repository.cli.terminal import PROGRAM, say
from puavo_repository.errors import RepositoryError, SettingsError, as_storage_error
from puavo_repository.prepare import run as prepare
from puavo_repository.prepare.plan import Plan
from puavo_repository.prepare.report import Report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when everything asked for is done, 1 when something failed and the rest is done,
        2 for bad usage or settings, 130 when it was interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    word = given.pop(0) if given[:1] in (["audit"], ["rollback"]) else ""
    process.protect_streams()
    process.end_on_signals()
    try:
        with as_storage_error("a local file"):
            asked = options.parser(word).parse_args(given)
            # The SSH library is slow to load: a run that publishes nothing does without it.
            run = getattr(import_module("puavo_repository.cli.mirrors"), word) if word else _prepare
            status: int = run(asked)
            sys.stdout.flush()
            return status
    except RepositoryError as error:
        say(f"error: {error}")
        if isinstance(error, SettingsError):
            say(f"See '{PROGRAM} {f'{word} --help'.strip()}'")
        return error.exit_status
    except KeyboardInterrupt:
        say("interrupted; what was done is kept, and the next run goes on from there")
        return 130


def _prepare(asked: argparse.Namespace) -> int:
    chosen, publish = settings.load(vars(asked), command=True), None
    if asked.upload:  # the targets are checked before hours of work
        from puavo_repository.publish.run import publish_all

        targets = [chosen.target(url) for url in asked.upload]
        publish = partial(publish_all, chosen.mirror_dir, targets, chosen, dry_run=asked.dry_run)
    with terminal.shown() as watcher:
        if asked.dry_run:
            done: Plan | Report = prepare.dry_run(chosen)
        else:
            user = os.environ.get("LOGNAME", f"user {os.getuid()}")
            done = prepare.prepare(chosen, watcher, f"{PROGRAM} of {user}")
        for failure in done.failures:
            watcher.fail(failure.message)
        published = publish(watcher=watcher) if publish and chosen.mirror_dir.exists() else []
    if asked.json:
        remotes = {"published": [one.to_dict() for one in published]} if publish else {}
        terminal.print_json({**done.to_dict(), **remotes})
    else:
        terminal.print_lines(done.lines())
        for one in published:
            planned = [f"would publish to {one.target}:", *(f"  {line}" for line in one.plan)]
            terminal.print_lines(planned if one.dry_run and one.plan else one.lines()[:1])
    return 0 if not done.failures and all(one.ok for one in published) else 1
