"""The command ``puavo-update-repository``: its options, its progress bars, its exit status."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from puavo_repository import settings
from puavo_repository.cli import bars, interrupts, printed, streams
from puavo_repository.cli import options as cli_options
from puavo_repository.cli.printed import PROGRAM, print_json, say
from puavo_repository.errors import RepositoryError, SettingsError, as_storage_error, printable
from puavo_repository.prepare import run as prepare
from puavo_repository.prepare.plan import Plan
from puavo_repository.prepare.report import Report
from puavo_repository.progress import Watcher
from puavo_repository.settings import Settings

if TYPE_CHECKING:
    from puavo_repository.publish.report import PublishReport

_EXIT_FAILED, _EXIT_INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when everything asked for is done, 1 when something failed and the rest is done,
        2 for bad usage or settings, 130 when it was interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    streams.protect()
    interrupts.install()
    try:
        with as_storage_error("a local file"):
            status = _dispatch(given)
            sys.stdout.flush()
            return status
    except RepositoryError as error:
        _complain(error, given)
        return error.exit_status
    except KeyboardInterrupt:
        say("interrupted; what was done is kept, and the next run goes on from there")
        return _EXIT_INTERRUPTED


def _dispatch(given: list[str]) -> int:
    # The SSH library is slow to load: a run that publishes nothing does without it.
    if given[:1] == ["rollback"]:
        from puavo_repository.cli import rollback as cli_rollback

        return cli_rollback.run(given[1:])
    if given[:1] == ["audit"]:
        from puavo_repository.cli import audit as cli_audit

        return cli_audit.run(given[1:])
    return _run(_parser().parse_args(given))


def _run(options: argparse.Namespace) -> int:
    chosen = settings.load(vars(options), command=True)
    publish = _publishing(options, chosen) if options.upload else None
    with bars.shown() as watcher:
        if options.dry_run:
            done: Plan | Report = prepare.dry_run(chosen)
        else:
            done = prepare.prepare(chosen, watcher, f"{PROGRAM} of {_user()}")
        published = []
        if publish and chosen.mirror_dir.exists():
            published = publish(chosen.mirror_dir, watcher)
    if options.json:
        remotes = [report.to_dict() for report in published]
        print_json({**done.to_dict(), **({"published": remotes} if publish else {})})
    else:
        _render(done, published)
    return _conclude(done, published)


def _publishing(
    options: argparse.Namespace, chosen: Settings
) -> Callable[[Path, Watcher], list[PublishReport]]:
    """Check the targets before hours of work; return what publishes to them after it."""
    from puavo_repository.publish import options as publish_options
    from puavo_repository.publish.run import publish_all

    how = replace(publish_options.load({}), own_folders=(chosen.image_dir,))
    targets = [how.target(url) for url in options.upload]

    def publish(mirror: Path, watcher: Watcher) -> list[PublishReport]:
        return publish_all(mirror, targets, how, dry_run=options.dry_run, watcher=watcher)

    return publish


def _render(done: Plan | Report, published: list[PublishReport]) -> None:
    if isinstance(done, Plan):
        printed.render_plan(done)
    else:
        printed.render(done)
    for report in published:
        lines = report.lines()[:1]
        if report.dry_run and report.plan:
            lines = [f"would publish to {report.target}:", *(f"  {line}" for line in report.plan)]
        sys.stdout.writelines(f"{printable(line)}\n" for line in lines)


def _conclude(done: Plan | Report, published: list[PublishReport]) -> int:
    for failure in done.failures:
        say(f"error: {failure.message}")
    for report in published:
        for line in report.lines()[1:]:
            say(f"error: {report.target}: {line}")
    return 0 if not done.failures and all(one.ok for one in published) else _EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = cli_options.parser(
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
    cli_options.add_setting(parser, "no_config", *flags, action="store_true", default=None)
    parser.add_argument("--dry-run", action="store_true", help="print the plan, change nothing")
    return parser


def _complain(error: RepositoryError, given: list[str]) -> None:
    say(f"error: {error}")
    if isinstance(error, SettingsError):
        word = f"{given[0]} " if given[:1] in (["audit"], ["rollback"]) else ""
        say(f"See '{PROGRAM} {word}--help'")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "an unknown user"
