"""The folders of a run: images, mirror and configuration belong together.

The mirror and the configuration of an installation are those of its own images: with other images
they would be emptied and rewritten. So other images bring their own, inside their folder, unless
they are given as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from puavo_repository.errors import SettingsError, storage_error
from puavo_repository.formats import defaults_mk
from puavo_repository.settings.model import Model
from puavo_repository.settings.values import folder

SYSTEM_PUAVO_OS = Path("/puavo-os")


@dataclass(frozen=True)
class Places:
    """Folders, and what ``defaults.mk`` there says.

    Attributes:
        image_dir: Folder with the images, None where nobody says.
        mirror_dir: Folder that becomes the mirror.
        puavo_os: Folder of the configuration.
        variables: Of its ``defaults.mk``.
        configured: Whether images and mirror are the installation's own.
        may_configure: Whether the configuration there is for this run to write.
    """

    image_dir: Path | None
    mirror_dir: Path | None
    puavo_os: Path
    variables: dict[str, str]
    configured: bool = False
    may_configure: bool = True


def find(options: Model, environment: Model) -> Places:
    """Return the folders of a run.

    Args:
        options: What its params or options say alone.
        environment: What the environment says alone.

    Raises:
        SettingsError: A ``defaults.mk`` cannot be used.
        StorageError: One cannot be read.
    """
    own = _complete(environment.image_dir, environment.mirror_dir, environment.puavo_os)
    found = _complete(
        options.image_dir or environment.image_dir,
        options.mirror_dir or environment.mirror_dir,
        options.puavo_os or environment.puavo_os,
    )
    if own.image_dir is None or found.image_dir is None:
        return found
    if found.image_dir != own.image_dir:
        beside = options.puavo_os or found.image_dir / "puavo-os"
        return _complete(found.image_dir, options.mirror_dir, beside)
    configured = found.mirror_dir == own.mirror_dir
    borrowed = environment.image_dir is not None and options.puavo_os is None
    return replace(found, configured=configured, may_configure=configured or not borrowed)


def check_apart(image_dir: Path, mirror_dir: Path) -> None:
    """Refuse a mirror that would feed on its own images; below them it is safe.

    Raises:
        SettingsError: It would.
        StorageError: The folders cannot be looked at.
    """
    try:
        same = mirror_dir.exists() and image_dir.exists() and mirror_dir.samefile(image_dir)
    except OSError as error:
        raise storage_error(mirror_dir, error) from error
    if same or image_dir.is_relative_to(mirror_dir):
        raise SettingsError(
            mirror_dir,
            f"the mirror cannot be, or lie around, the image directory {image_dir}",
            remedy=f"Choose another folder, such as {image_dir / 'mirror'}",
        )
    if mirror_dir.exists() and not is_folder(mirror_dir):
        raise SettingsError(mirror_dir, "this is not a folder", expected="a folder, or nothing")


def is_folder(path: Path) -> bool:
    """Tell whether this is a folder.

    Raises:
        StorageError: It cannot be looked at.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise storage_error(path, error) from error


def _complete(image_dir: Path | None, mirror_dir: Path | None, puavo_os: Path | None) -> Places:
    """Fill in what is not given, from ``defaults.mk`` or beside the images."""
    if puavo_os is None:
        puavo_os = SYSTEM_PUAVO_OS
        if image_dir is not None and not is_folder(puavo_os):
            puavo_os = image_dir / "puavo-os"
    variables = _read(puavo_os / "defaults.mk")
    said = {name: variables[name] for name in ("image_dir", "mirror_dir") if variables.get(name)}
    try:
        places = {name: folder(value) for name, value in said.items()}
    except ValueError as error:
        raise SettingsError(puavo_os / "defaults.mk", f"a folder there {error}") from error
    image_dir = image_dir or places.get("image_dir")
    # The file's mirror belongs to the file's images: taken for other images, it would have
    # its own pruned away.
    if mirror_dir is None and image_dir is not None and places.get("image_dir") == image_dir:
        mirror_dir = places.get("mirror_dir")
    if mirror_dir is None and image_dir is not None:
        mirror_dir = image_dir / "mirror"
    return Places(image_dir, mirror_dir, puavo_os, variables)


def _read(path: Path) -> dict[str, str]:
    try:
        return defaults_mk.parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except UnicodeDecodeError as error:
        raise SettingsError(path, "this file is not UTF-8 text") from error
    except OSError as error:
        raise storage_error(path, error) from error
