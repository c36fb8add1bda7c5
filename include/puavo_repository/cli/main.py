"""The command ``puavo-update-repository``: the night's work in one process, and its exit status."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from puavo_repository import settings
from puavo_repository.cli import bars, options, printed, process
from puavo_repository.cli.printed import PROGRAM, say
from puavo_repository.errors import RepositoryError, SettingsError, as_storage_error
from puavo_repository.prepare import run as prepare
from puavo_repository.prepare.plan import Plan
from puavo_repository.prepare.report import Report
from puavo_repository.progress import Watcher
from puavo_repository.settings import Settings

if TYPE_CHECKING:
    from puavo_repository.publish.plan import PublishReport


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
            # The SSH library is slow to load: a run that publishes nothing does without it.
            run = import_module(f"puavo_repository.cli.{word}").run if word else _run
            status: int = run(given)
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


def _run(given: Sequence[str]) -> int:
    asked = _parser().parse_args(given)
    chosen = settings.load(vars(asked), command=True)
    publish = _publishing(asked, chosen) if asked.upload else None
    with bars.shown() as watcher:
        if asked.dry_run:
            done: Plan | Report = prepare.dry_run(chosen)
        else:
            done = prepare.prepare(chosen, watcher, f"{PROGRAM} of {_user()}")
        for failure in done.failures:
            watcher.fail(failure.message)
        published = publish(watcher) if publish and chosen.mirror_dir.exists() else []
    if asked.json:
        remotes = {"published": [report.to_dict() for report in published]} if publish else {}
        printed.print_json({**done.to_dict(), **remotes})
    else:
        printed.render(done)
        printed.render_published(published)
    return 0 if not done.failures and all(one.ok for one in published) else 1


def _publishing(
    asked: argparse.Namespace, chosen: Settings
) -> Callable[[Watcher], list[PublishReport]]:
    """Check the targets before hours of work; return what publishes to them after it."""
    from puavo_repository.publish.publisher import Options
    from puavo_repository.publish.run import publish_all

    how = Options.load({}).model_copy(update={"own_folders": (chosen.image_dir,)})
    targets = [how.target(url) for url in asked.upload]
    return lambda watcher: publish_all(
        chosen.mirror_dir, targets, how, dry_run=asked.dry_run, watcher=watcher
    )


def _parser() -> argparse.ArgumentParser:
    parser = options.parser(
        "",
        upload="publish afterwards: sftp://user@host[:port]/path or file:///path; may be repeated",
        description="Maintains a repository of all Puavo images from IMAGE_DIR in MIRROR_DIR: "
        "links, proven rdiffs, checksums and metadata. No root is needed.",
        epilog="Exit status: 0 everything is done; 1 some image or rdiff failed, the rest is "
        "done; 2 bad usage or settings. Settings come from defaults.mk, then from the "
        "environment (PUAVO_REPOSITORY_*), then from these options. Two more commands: see "
        f"{PROGRAM} audit --help, {PROGRAM} rollback --help.",
    )
    flags = "-n", "--no-config", "--no-files"
    options.add_setting(parser, "no_config", *flags, action="store_true", default=None)
    parser.add_argument("--dry-run", action="store_true", help="print the plan, change nothing")
    return parser


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "an unknown user"
