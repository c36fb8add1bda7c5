"""Settings of a run: built-in defaults, ``defaults.mk``, environment, then params or options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puavo_repository.delta.engine import DeltaEngine
from puavo_repository.delta.engines import engine_named
from puavo_repository.errors import SettingsError
from puavo_repository.settings import places
from puavo_repository.settings.model import ENVIRONMENT, Model, default
from puavo_repository.settings.sources import Given, warn_of_unknown

__all__ = ["DEFAULT_REPOSITORY", "ENVIRONMENT", "Model", "Policy", "Settings", "load", "read"]

DEFAULT_REPOSITORY = "images.amxa.ch"


@dataclass(frozen=True)
class Policy:
    """Which rdiffs are made.

    Attributes:
        targets: How many of a series' last images get rdiffs to them.
        sources: From which images: ``all`` others of the series, only ``older`` ones, or
            ``nearest:N``, the N that stand nearest to the target in the series.
        max_share: Largest rdiff worth keeping, as a share of its target's size; a client
            without an rdiff fetches the whole image.
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


@dataclass(frozen=True)
class Settings:
    """Everything that a run of the stages needs to know.

    Attributes:
        image_dir: Folder with the images.
        mirror_dir: Folder that becomes the mirror.
        urlbase: URL under which clients reach the mirror, without a slash at its end.
        puavo_os: Folder that holds ``config/images`` and ``defaults.mk``.
        write_config: Whether the files there are written.
        policy: Which rdiffs are made.
        engine: Name of the delta engine.
        jobs: How many cores to keep busy; 0 for all.
        memory: Megabytes that the delta engine's index of a source may take.
        remotes: URLs that the mirror is published to, by default none.
        audit_share: Share of the files that one audit reads in full on the remotes, and of the
            rdiffs that it applies again.
        audit_https: Whether an audit looks at the mirror as clients do, at ``urlbase``.
        ca_file: File with the certificates to trust for ``urlbase``; empty for the system's.
        max_delete: Largest share of a mirror's files that one run may remove, here or remotely.
        allow_mass_delete: Whether a run may remove more than that.
        configured: Whether images and mirror are the installation's own, as the environment or
            its ``defaults.mk`` names them. Only those are published to its remotes by themselves.
    """

    image_dir: Path
    mirror_dir: Path
    urlbase: str = f"https://{DEFAULT_REPOSITORY}"
    puavo_os: Path = places.SYSTEM_PUAVO_OS
    write_config: bool = True
    policy: Policy = field(default_factory=Policy)
    engine: str = default("engine")
    jobs: int = default("jobs")
    memory: int = default("memory")
    remotes: tuple[str, ...] = ()
    audit_share: float = default("audit_share")
    audit_https: bool = default("audit_https")
    ca_file: str = default("ca_file")
    max_delete: float = default("max_delete")
    allow_mass_delete: bool = default("allow_mass_delete")
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
        options: Options of the command or params of a DAG run, by the names that ``Model`` has;
            None and empty texts count as not given.
        environment: The process' environment by default.
        images: Whether the images are needed. A step back works where their disk is lost.
        command: Whether the options are the command's, and called so in a refusal.

    Raises:
        SettingsError: A value cannot be used, or something needed is missing.
    """
    variables = os.environ if environment is None else environment
    read(options, variables, command=command)
    where = places.find(read(options, {}), read({}, variables))
    image_dir, mirror_dir = where.image_dir, where.mirror_dir
    if image_dir is None or mirror_dir is None:
        raise SettingsError("IMAGE_DIR", "is not set", remedy="Give the folder with the images")
    if images and not places.is_folder(image_dir):
        raise SettingsError(image_dir, "there is no such folder", expected="a folder of images")
    places.check_apart(image_dir, mirror_dir)
    from_file = {"repository": where.variables.get("images_urlbase") or DEFAULT_REPOSITORY}
    found = Given(options, variables, from_file).read()
    return Settings(
        image_dir=image_dir,
        mirror_dir=mirror_dir,
        urlbase=found.repository,
        puavo_os=where.puavo_os,
        write_config=where.may_configure and not found.no_config,
        policy=Policy(found.targets, found.sources, found.max_share),
        engine=found.engine,
        jobs=found.jobs,
        memory=found.memory,
        remotes=found.remote,
        audit_share=found.audit_share,
        audit_https=found.audit_https,
        ca_file=found.ca_file,
        max_delete=found.max_delete,
        allow_mass_delete=found.allow_mass_delete,
        configured=where.configured,
    )


def read(
    options: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    *,
    command: bool = False,
) -> Model:
    """Return what options and environment say, each value checked, no folder looked at.

    Args:
        options: As of ``load``.
        environment: The process' environment by default.
        command: As of ``load``.

    Raises:
        SettingsError: Values cannot be used.
    """
    variables = os.environ if environment is None else environment
    warn_of_unknown(variables)
    return Given(options, variables, command=command).read()
