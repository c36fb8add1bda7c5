"""The options that the command and its subcommands, ``audit`` and ``rollback``, take alike."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from puavo_repository.cli.printed import PROGRAM
from puavo_repository.errors import SettingsError
from puavo_repository.settings import Settings
from puavo_repository.settings.model import about

if TYPE_CHECKING:  # they load the SSH library, which is slow
    from puavo_repository.publish.publisher import Options
    from puavo_repository.remote.target import Target


def parser(word: str, *, upload: str, **more: Any) -> argparse.ArgumentParser:
    """Return a parser with the options that all take; ``vars`` of what it reads is for ``load``.

    Args:
        word: What follows the command's name; empty for the command itself.
        upload: What a remote is named for.
        more: Of argparse, such as what comes before and after the options.
    """
    usage = "%(prog)s [OPTIONS] IMAGE_DIR [MIRROR_DIR]"
    made = argparse.ArgumentParser(prog=f"{PROGRAM} {word}".rstrip(), usage=usage, **more)
    add_setting(made, "image_dir", "image_dir", metavar="IMAGE_DIR", nargs="?")
    add_setting(made, "mirror_dir", "mirror_dir", metavar="MIRROR_DIR", nargs="?")
    add_setting(made, "repository", "-r", "--repository", metavar="HOSTNAME")
    add_setting(made, "puavo_os", "-p", "--puavo-os", metavar="DIR")
    made.add_argument("-u", "--upload", metavar="URL", action="append", default=[], help=upload)
    made.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    return made


def add_setting(made: argparse.ArgumentParser, name: str, *flags: str, **more: Any) -> None:
    """Add the option of a setting, with the help that the settings' model has for it."""
    setting = about(name)
    text = setting.text[0].lower() + setting.text[1:]  # as argparse writes its own
    default = setting.otherwise or setting.default
    if default not in {"", "true", "false"}:
        text += f"; default {default}"
    made.add_argument(*flags, help=text.replace("%", "%%"), **more)


def targets(upload: list[str], chosen: Settings, options: Options) -> list[Target]:
    """Return the remotes that are named with ``--upload``, else those of the settings.

    Raises:
        SettingsError: One is an Airflow connection: to leave it out would look like success.
    """
    ids = [remote for remote in chosen.remote if "://" not in remote and not upload]
    if ids:
        raise SettingsError(
            "PUAVO_REPOSITORY_REMOTE",
            f"{ids[0]} is an Airflow connection, which only the DAGs can use",
            remedy="Name the mirror with --upload sftp://user@host/path, or run the DAG",
        )
    return [options.target(url) for url in upload or chosen.remote]
