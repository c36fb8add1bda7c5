"""The command ``puavo-update-repository``: its options, a night in one process, its exit status."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from puavo_repository import settings
from puavo_repository.cli import process, terminal
from puavo_repository.cli.terminal import PROGRAM, say
from puavo_repository.errors import RepositoryError, SettingsError, as_storage_error
from puavo_repository.prepare import run as prepare
from puavo_repository.prepare.plan import Plan
from puavo_repository.prepare.report import Report
from puavo_repository.settings.model import about

_UPLOAD = "publish afterwards: sftp://user@host[:port]/path or file:///path; may be repeated"
_MIRROR = "a published mirror; may be repeated; default PUAVO_REPOSITORY_REMOTE"
_DESCRIPTION = {
    "": "Maintains a repository of all Puavo images from IMAGE_DIR in MIRROR_DIR: links, proven "
    "rdiffs, checksums and metadata. No root is needed.",
    "audit": "Reads the whole mirror again, compares published mirrors and what clients see by "
    "https with it, and makes one update as a laptop does. Nothing is changed, unless repairs are "
    "asked for.",
    "usage": "Reads what is new in the logs of the servers that clients fetch from, and shows what "
    "they fetch, what rdiffs save, how far the fleet is, and which rdiffs are missing or of no "
    "use. Of clients only counts are kept.",
    "rollback": "Clients of a published mirror get the metadata of an earlier generation again, "
    "after a bad night. Images and rdiffs stay as they are. What is rolled back from is not "
    "published again until it is gone from the local mirror, or "
    "PUAVO_REPOSITORY_ALLOW_ROLLED_BACK=true allows it once.",
}
_MODULES = {  # by subcommand
    "audit": "mirrors",
    "rollback": "mirrors",
    "usage": "usage",
    "explain": "explain",
}
_EPILOG = {
    "": "Exit status: 0 everything is done; 1 some image or rdiff failed, the rest is done; 2 bad "
    "usage or settings. Settings come from defaults.mk, then from the environment "
    "(PUAVO_REPOSITORY_*), then from these options. More commands: see "
    f"{PROGRAM} audit --help, {PROGRAM} rollback --help, {PROGRAM} usage --help, "
    f"{PROGRAM} explain --help.",
    "audit": "Exit status: 0 no error; 1 clients are, or soon will be, led to something wrong or "
    "cut off; 2 bad usage or settings.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when everything asked for is done, 1 when something failed and the rest is done,
        2 for bad usage or settings, 130 when it was interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    word = given.pop(0) if given[:1] and given[0] in _MODULES else ""
    process.protect_streams()
    process.end_on_signals()
    try:
        with as_storage_error("a local file"):
            asked = _parser(word).parse_args(given)
            # A run that publishes nothing does without what the others load.
            module = f"puavo_repository.cli.{_MODULES.get(word)}"
            run = getattr(import_module(module), word) if word else _prepare
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
            would = f"would publish to {one.target}, of the mirror as it is now:"
            planned = [would, *(f"  {line}" for line in one.plan)]
            terminal.print_lines(planned if one.dry_run and one.plan else one.lines()[:1])
    return 0 if not done.failures and all(one.ok for one in published) else 1


def _parser(word: str) -> argparse.ArgumentParser:
    """Return the parser of a subcommand, or of the command itself where there is no word.

    ``vars`` of what it reads is for ``settings.load``.
    """
    if word == "explain":
        return import_module("puavo_repository.cli.explain").parser()  # type: ignore[no-any-return]
    made = argparse.ArgumentParser(
        prog=f"{PROGRAM} {word}".rstrip(),
        usage="%(prog)s [OPTIONS] IMAGE_DIR [MIRROR_DIR]",
        description=_DESCRIPTION[word],
        epilog=_EPILOG.get(word),
    )
    flag: dict[str, Any] = {"action": "store_true"}
    several: dict[str, Any] = {"action": "append", "default": []}
    _setting(made, "image_dir", nargs="?")
    _setting(made, "mirror_dir", nargs="?")
    _setting(made, "repository", "-r", "--repository", metavar="HOSTNAME")
    _setting(made, "puavo_os", "-p", "--puavo-os", metavar="DIR")
    if word != "usage":
        help_upload = _MIRROR if word else _UPLOAD
        made.add_argument("-u", "--upload", metavar="URL", help=help_upload, **several)
    made.add_argument("--json", help="the report as JSON on stdout", **flag)
    if word == "audit":
        _setting(made, "audit_share", "--share", metavar="N")
        _setting(made, "audit_https", "--no-https", action="store_false")
        of_repair = "send wrong remote files again; remove wrong local rdiffs, to be made anew"
        made.add_argument("--repair", help=of_repair, **flag)
    elif word == "usage":
        _setting(made, "usage_logs", "--log", metavar="PATH", action="append")
        _setting(made, "usage_demand", "--demand", metavar="FILE")
        of_policies = "show what each policy of rdiffs would have cost and saved"
        made.add_argument("--policies", help=of_policies, **flag)
        of_days = "days that --policies looks back; default %(default)s"
        made.add_argument("--days", metavar="N", type=int, default=90, help=of_days)
    elif word == "rollback":
        of_to = "generation to roll back to; default: the last one with other metadata"
        made.add_argument("--to", metavar="N", type=int, help=of_to)
        of_series = "only this series; may be repeated"
        made.add_argument("--series", metavar="NAME", help=of_series, **several)
        made.add_argument("--list", help="show the generations, change nothing", **flag)
    else:
        _setting(made, "no_config", "-n", "--no-config", "--no-files", action="store_true")
        made.add_argument("--dry-run", help="print the plan, change nothing", **flag)
    return made


def _setting(made: argparse.ArgumentParser, name: str, *flags: str, **more: Any) -> None:
    """Add the option of a setting, with the help that the settings' model has for it."""
    setting = about(name)
    text = setting.text[0].lower() + setting.text[1:]  # as argparse writes its own
    if more.get("action") == "store_false":
        text = f"do not {text}"
    default = setting.otherwise or setting.default
    if default not in {"", "true", "false"}:
        text += f"; default {default}"
    more |= {"dest": name} if flags else {"metavar": setting.option}
    made.add_argument(*(flags or [name]), default=None, help=text.replace("%", "%%"), **more)
