"""What the command and its words, ``audit`` and ``rollback``, take alike."""

from __future__ import annotations

import argparse

from puavo_repository import settings
from puavo_repository.cli.printed import PROGRAM
from puavo_repository.errors import SettingsError


def parser(
    word: str, *, upload: str, description: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """Return a parser with the places: IMAGE_DIR, MIRROR_DIR, puavo-os, host, remotes; and --json.

    Args:
        word: What follows the command's name; empty for the command itself.
        upload: What a remote is named for.
        description: What it does.
        epilog: What comes after the options.
    """
    made = argparse.ArgumentParser(
        prog=f"{PROGRAM} {word}".rstrip(),
        usage="%(prog)s [OPTIONS] IMAGE_DIR [MIRROR_DIR]",
        description=description,
        epilog=epilog,
    )
    add = made.add_argument
    add("image_dir", metavar="IMAGE_DIR", nargs="?", help="folder with the images")
    add("mirror_dir", metavar="MIRROR_DIR", nargs="?", help="default: IMAGE_DIR/mirror")
    add(
        "-r",
        "--repository",
        metavar="HOSTNAME",
        help=f"host (or full URL) that clients use; default {settings.DEFAULT_REPOSITORY}",
    )
    add(
        "-p",
        "--puavo-os",
        metavar="DIR",
        help="where config/images/ and defaults.mk live; default /puavo-os, or "
        "IMAGE_DIR/puavo-os where that is missing",
    )
    add("-u", "--upload", metavar="URL", action="append", default=[], help=upload)
    add("--json", action="store_true", help="the report as JSON on stdout")
    return made


def chosen(
    options: argparse.Namespace, *, images: bool = True, **more: object
) -> settings.Settings:
    """Return the settings that the options choose.

    Args:
        options: What was parsed.
        images: Whether the images are needed.
        more: Further ones by their names; None counts as not given.

    Raises:
        SettingsError: They cannot be used.
    """
    names = ("image_dir", "mirror_dir", "repository", "puavo_os")
    given = {name: getattr(options, name) for name in names}
    return settings.load({**given, **more}, images=images, command=True)


def urls(chosen: settings.Settings) -> list[str]:
    """Return the remotes of the settings, which a command reaches without Airflow.

    Raises:
        SettingsError: One is an Airflow connection: to leave it out would look like success.
    """
    ids = [remote for remote in chosen.remotes if "://" not in remote]
    if ids:
        raise SettingsError(
            "PUAVO_REPOSITORY_REMOTE",
            f"{ids[0]} is an Airflow connection, which only the DAGs can use",
            remedy="Name the mirror with --upload sftp://user@host/path, or run the DAG",
        )
    return list(chosen.remotes)
