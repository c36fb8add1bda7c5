"""Settings of a run: built-in defaults, ``defaults.mk``, environment, then params or options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puavo_repository.delta.engine import DeltaEngine
from puavo_repository.delta.engines import engine_named
from puavo_repository.errors import SettingsError
from puavo_repository.settings import places
from puavo_repository.settings.model import ENVIRONMENT, Model, default
from puavo_repository.settings.sources import read
from puavo_repository.settings.values import Folder

__all__ = ["ENVIRONMENT", "Model", "Policy", "Settings", "load", "read"]


@dataclass(frozen=True)
class Policy:
    """Which rdiffs are made: the settings of these names.

    Attributes:
        targets: How many of a series' last images get rdiffs to them.
        sources: From which images: ``all`` others of the series, only ``older`` ones, or
            ``nearest:N``, the N that stand nearest to the target in the series.
        max_share: Largest rdiff worth keeping, as a share of its target's size.
    """

    targets: int = default("targets")
    sources: str = default("sources")
    max_share: float = default("max_share")

    def sources_of(self, target: int, count: int) -> list[int]:
        """Return the indexes of the source images for the image at index ``target``.

        Args:
            target: Index of the target in its series, oldest first.
            count: How many images the series has.
        """
        if self.sources == "older":
            return list(range(target))
        if not self.sources.startswith("nearest:"):
            return [index for index in range(count) if index != target]
        number = int(self.sources.partition(":")[2])
        near = range(max(0, target - number), min(count, target + number + 1))
        others = sorted(near, key=lambda index: (abs(index - target), index))[1:]
        return sorted(others[:number])


class Settings(Model):
    """The settings of one run, its folders known.

    Attributes:
        configured: Whether images and mirror are the installation's own, as the environment or
            its ``defaults.mk`` names them. Only those are published to its remotes by themselves.
    """

    image_dir: Folder
    mirror_dir: Folder
    puavo_os: Folder
    configured: bool = False

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
    """
    read(options, environment, command=command)
    where = places.find(read(options, {}), read({}, environment))
    image_dir, mirror_dir = where.image_dir, where.mirror_dir
    if image_dir is None or mirror_dir is None:
        raise SettingsError("IMAGE_DIR", "is not set", remedy="Give the folder with the images")
    if images and not places.is_folder(image_dir):
        raise SettingsError(image_dir, "there is no such folder", expected="a folder of images")
    places.check_apart(image_dir, mirror_dir)
    found = read(options, environment, where.variables.get("images_urlbase", ""))
    known = {
        "image_dir": image_dir,
        "mirror_dir": mirror_dir,
        "puavo_os": where.puavo_os,
        "no_config": found.no_config or not where.may_configure,
        "configured": where.configured,
    }
    return Settings(**{**found.model_dump(exclude_unset=True), **known})
