"""Settings of a run: built-in defaults, ``defaults.mk``, environment, then params or options.

The mirror and the configuration of an installation are those of its own images: with other images
they would be emptied and rewritten. So other images bring their own, inside their folder, unless
they are given as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from puavo_repository.delta import engine_named
from puavo_repository.delta.engine import DeltaEngine
from puavo_repository.errors import SettingsError, as_storage_error, storage_error
from puavo_repository.formats import defaults_mk
from puavo_repository.settings.model import DEFAULTS, ENVIRONMENT, Folder, Model, folder
from puavo_repository.settings.sources import read

__all__ = ["DEFAULTS", "ENVIRONMENT", "Model", "Policy", "Settings", "load", "read"]
SYSTEM_PUAVO_OS = Path("/puavo-os")


@dataclass(frozen=True)
class Policy:
    """Which rdiffs are made: the settings of these names."""

    targets: int = DEFAULTS.targets
    sources: str = DEFAULTS.sources
    max_share: float = DEFAULTS.max_share

    def sources_of(self, target: int, count: int) -> list[int]:
        """Return the indexes of the source images for the image at index ``target``.

        Args:
            target: Index of the target in its series, oldest first.
            count: How many images the series has.
        """
        if self.sources == "older":
            return list(range(target))
        if self.sources == "all":
            return [index for index in range(count) if index != target]
        number = int(self.sources.removeprefix("nearest:"))
        near = range(max(0, target - number), min(count, target + number + 1))
        others = sorted(near, key=lambda index: (abs(index - target), index))[1:]
        return sorted(others[:number])


class Settings(Model):
    """The settings of one run, its folders known."""

    image_dir: Folder
    mirror_dir: Folder
    puavo_os: Folder
    configured: bool = False
    """Whether images and mirror are the installation's own, as the environment or its
    ``defaults.mk`` names them. Only those are published to its remotes by themselves."""

    @property
    def config_dir(self) -> Path:
        """Where the configuration files of the distributions lie."""
        return self.puavo_os / "config" / "images"

    @property
    def defaults_mk(self) -> Path:
        """The old system's settings file."""
        return self.puavo_os / "defaults.mk"

    @property
    def policy(self) -> Policy:
        """Which rdiffs are made."""
        return Policy(self.targets, self.sources, self.max_share)

    @property
    def cores(self) -> int:
        """How many cores to keep busy, at least one."""
        return self.jobs or len(os.sched_getaffinity(0))

    def delta_engine(self) -> DeltaEngine:
        """Return what makes the rdiffs."""
        return engine_named(self.engine, threads=self.cores, memory=self.memory << 20)


def load(
    options: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    *,
    images: bool = True,
    command: bool = False,
) -> Settings:
    """Bring the sources of settings together.

    Args:
        options: As of ``read``.
        environment: The process' environment by default.
        images: Whether the images are needed. A rollback works where their disk is lost.
        command: As of ``read``.

    Raises:
        SettingsError: A value cannot be used, or something needed is missing.
        StorageError: A folder or a ``defaults.mk`` cannot be read.
    """
    read(options, environment, command=command)
    where = _find(read(options, {}), read({}, environment))
    image_dir, mirror_dir = where.image_dir, where.mirror_dir
    if image_dir is None or mirror_dir is None:
        raise SettingsError("IMAGE_DIR", "is not set", remedy="Give the folder with the images")
    if images and not _is_folder(image_dir):
        raise SettingsError(image_dir, "there is no such folder", expected="a folder of images")
    _check_apart(image_dir, mirror_dir)
    found = read(options, environment, where.variables.get("images_urlbase", ""))
    known = {
        "image_dir": image_dir,
        "mirror_dir": mirror_dir,
        "puavo_os": where.puavo_os,
        "no_config": found.no_config or not where.may_configure,
        "configured": where.configured,
    }
    return Settings(**{**found.model_dump(exclude_unset=True), **known})


class _Places(NamedTuple):
    image_dir: Path | None
    mirror_dir: Path | None
    puavo_os: Path
    variables: dict[str, str]  # of the ``defaults.mk`` there
    configured: bool = False  # whether images and mirror are the installation's own
    may_configure: bool = True  # whether the configuration there is for this run to write


def _find(asked: Model, installed: Model) -> _Places:
    """Return the folders of a run, from what its options and the environment say alone."""
    own = _complete(installed.image_dir, installed.mirror_dir, installed.puavo_os)
    found = _complete(
        asked.image_dir or installed.image_dir,
        asked.mirror_dir or installed.mirror_dir,
        asked.puavo_os or installed.puavo_os,
    )
    if own.image_dir is None or found.image_dir is None:
        return found
    if found.image_dir != own.image_dir:
        beside = asked.puavo_os or found.image_dir / "puavo-os"
        return _complete(found.image_dir, asked.mirror_dir, beside)
    configured = found.mirror_dir == own.mirror_dir
    borrowed = installed.image_dir is not None and asked.puavo_os is None
    return found._replace(configured=configured, may_configure=configured or not borrowed)


def _complete(image_dir: Path | None, mirror_dir: Path | None, puavo_os: Path | None) -> _Places:
    """Fill in what is not given, from ``defaults.mk`` or beside the images."""
    if puavo_os is None:
        puavo_os = SYSTEM_PUAVO_OS
        if image_dir is not None and not _is_folder(puavo_os):
            puavo_os = image_dir / "puavo-os"
    variables = _read(puavo_os / "defaults.mk")
    said = {name: variables[name] for name in ("image_dir", "mirror_dir") if variables.get(name)}
    try:
        places = {name: folder(value) for name, value in said.items()}
    except ValueError as error:
        raise SettingsError(puavo_os / "defaults.mk", f"a folder there {error}") from error
    image_dir = image_dir or places.get("image_dir")
    if mirror_dir is None and image_dir is not None:
        mirror_dir = image_dir / "mirror"
        # The file's mirror belongs to the file's images: taken for other images, it would have
        # its own pruned away.
        if places.get("image_dir") == image_dir:
            mirror_dir = places.get("mirror_dir", mirror_dir)
    return _Places(image_dir, mirror_dir, puavo_os, variables)


def _read(path: Path) -> dict[str, str]:
    try:
        return defaults_mk.parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except UnicodeDecodeError as error:
        raise SettingsError(path, "this file is not UTF-8 text") from error
    except OSError as error:
        raise storage_error(path, error) from error


def _check_apart(image_dir: Path, mirror_dir: Path) -> None:
    """Refuse a mirror that would feed on its own images; below them it is safe."""
    with as_storage_error(mirror_dir):
        same = mirror_dir.exists() and image_dir.exists() and mirror_dir.samefile(image_dir)
    if same or image_dir.is_relative_to(mirror_dir):
        raise SettingsError(
            mirror_dir,
            f"the mirror cannot be, or lie around, the image directory {image_dir}",
            remedy=f"Choose another folder, such as {image_dir / 'mirror'}",
        )
    if mirror_dir.exists() and not _is_folder(mirror_dir):
        raise SettingsError(mirror_dir, "this is not a folder", expected="a folder, or nothing")


def _is_folder(path: Path) -> bool:
    with as_storage_error(path):
        return path.is_dir()
