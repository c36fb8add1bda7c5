"""Settings of a run: built-in defaults, ``defaults.mk``, environment, then params or options."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from puavo_repository.delta.engine import DeltaEngine
from puavo_repository.delta.engines import engine_named
from puavo_repository.errors import SettingsError, storage_error
from puavo_repository.formats import defaults_mk

ENVIRONMENT = "PUAVO_REPOSITORY_"
DEFAULT_REPOSITORY = "images.amxa.ch"
SYSTEM_PUAVO_OS = Path("/puavo-os")
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}


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

    targets: int = 3
    sources: str = "all"
    max_share: float = 0.9

    def __post_init__(self) -> None:
        if self.targets < 0:
            raise SettingsError("targets", "a negative number", expected="0 or more")
        if not re.fullmatch(r"all|older|nearest:[0-9]+", self.sources):
            raise SettingsError(
                "sources", f"{self.sources!r} is none of them", expected="all, older or nearest:N"
            )
        if not 0 <= self.max_share <= 10:
            raise SettingsError("max_share", f"{self.max_share}", expected="a share such as 0.9")

    def sources_of(self, target: int, count: int) -> list[int]:
        """Return the indexes of the source images for the image at index ``target``.

        Args:
            target: Index of the target in its series, oldest first.
            count: How many images the series has.
        """
        others = [index for index in range(count) if index != target]
        if self.sources == "older":
            return [index for index in others if index < target]
        if self.sources.startswith("nearest:"):
            near = sorted(others, key=lambda index: (abs(index - target), index))
            return sorted(near[: int(self.sources.partition(":")[2])])
        return others


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
    """

    image_dir: Path
    mirror_dir: Path
    urlbase: str = f"https://{DEFAULT_REPOSITORY}"
    puavo_os: Path = SYSTEM_PUAVO_OS
    write_config: bool = True
    policy: Policy = field(default_factory=Policy)
    engine: str = "anchors"
    jobs: int = 0
    memory: int = 256
    remotes: tuple[str, ...] = ()
    audit_share: float = 0.1
    audit_https: bool = True
    ca_file: str = ""
    max_delete: float = 0.3
    allow_mass_delete: bool = False

    def __post_init__(self) -> None:
        if self.jobs < 0:
            raise SettingsError("jobs", f"{self.jobs}", expected="cores, or 0 for all")
        if self.memory < 1:
            raise SettingsError("memory", f"{self.memory}", expected="megabytes, such as 256")
        if not 0 <= self.audit_share <= 1:
            raise SettingsError(
                "audit_share", f"{self.audit_share}", expected="a share from 0 to 1, such as 0.1"
            )
        if not 0 <= self.max_delete <= 1:
            raise SettingsError(
                "max_delete", f"{self.max_delete}", expected="a share from 0 to 1, such as 0.3"
            )

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
) -> Settings:
    """Bring the sources of settings together.

    Args:
        options: Options of the command or params of a DAG run, by field name (``repository``
            for the URL base, ``no_config`` for the negation of ``write_config``, ``remote``
            for the list of remotes); None and empty texts count as not given.
        environment: The process' environment by default.
        images: Whether the images are needed. A step back works where their disk is lost.

    Raises:
        SettingsError: A value cannot be used, or something needed is missing.
    """
    chosen = _merged(options, os.environ if environment is None else environment)
    image_dir = _folder(chosen.get("image_dir"))
    puavo_os = _puavo_os(_folder(chosen.get("puavo_os")), image_dir)
    from_file = _read_defaults_mk(puavo_os / "defaults.mk")
    if image_dir is None:
        image_dir = _folder(from_file.get("image_dir"))
    if image_dir is None:
        raise SettingsError("IMAGE_DIR", "is not set", remedy="Give the folder with the images")
    if images and not _is_folder(image_dir):
        raise SettingsError(image_dir, "there is no such folder", expected="a folder of images")
    mirror_dir = _folder(chosen.get("mirror_dir"))
    # The file's mirror belongs to the file's images: taken for other images, it would have
    # its own pruned away.
    if mirror_dir is None and _folder(from_file.get("image_dir")) == image_dir:
        mirror_dir = _folder(from_file.get("mirror_dir"))
    mirror_dir = mirror_dir or image_dir / "mirror"
    _check_apart(image_dir, mirror_dir)
    repository = chosen.get("repository") or from_file.get("images_urlbase") or DEFAULT_REPOSITORY
    return Settings(
        image_dir=image_dir,
        mirror_dir=mirror_dir,
        urlbase=_urlbase(str(repository)),
        puavo_os=puavo_os,
        write_config=not flag("no_config", chosen.get("no_config", False)),
        policy=Policy(
            targets=_number("targets", chosen.get("targets", Policy.targets), int),
            sources=str(chosen.get("sources", Policy.sources)),
            max_share=_number("max_share", chosen.get("max_share", Policy.max_share), float),
        ),
        engine=str(chosen.get("engine", Settings.engine)),
        jobs=_number("jobs", chosen.get("jobs", Settings.jobs), int),
        memory=_number("memory", chosen.get("memory", Settings.memory), int),
        remotes=tuple(str(chosen.get("remote", "")).split()),
        audit_share=_number("audit_share", chosen.get("audit_share", Settings.audit_share), float),
        audit_https=flag("audit_https", chosen.get("audit_https", Settings.audit_https)),
        ca_file=str(chosen.get("ca_file", "")),
        max_delete=_number("max_delete", chosen.get("max_delete", Settings.max_delete), float),
        allow_mass_delete=flag("allow_mass_delete", chosen.get("allow_mass_delete", False)),
    )


def _merged(options: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        name.removeprefix(ENVIRONMENT).lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT) and value
    }
    chosen.update({name: value for name, value in options.items() if value not in (None, "")})
    return chosen


def _folder(value: Any) -> Path | None:
    return Path(os.path.expanduser(str(value))).resolve() if value else None  # noqa: PTH111


def _puavo_os(given: Path | None, image_dir: Path | None) -> Path:
    if given is not None:
        return given
    if SYSTEM_PUAVO_OS.is_dir() or image_dir is None:
        return SYSTEM_PUAVO_OS
    return image_dir / "puavo-os"


def _read_defaults_mk(path: Path) -> dict[str, str]:
    try:
        return defaults_mk.parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except UnicodeDecodeError as error:
        raise SettingsError(path, "this file is not UTF-8 text") from error
    except OSError as error:
        raise storage_error(path, error) from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise storage_error(path, error) from error


def _check_apart(image_dir: Path, mirror_dir: Path) -> None:
    """Refuse a mirror that would feed on its own images; below them it is safe."""
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
    if mirror_dir.exists() and not _is_folder(mirror_dir):
        raise SettingsError(mirror_dir, "this is not a folder", expected="a folder, or nothing")


def _urlbase(repository: str) -> str:
    url = repository if "://" in repository else f"https://{repository}"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise SettingsError(
            "repository", "this is no URL", expected="a host name or an https URL", found=str(error)
        ) from None
    if parts.query or parts.fragment or "@" in url:
        # not quoted: it may hold a password
        raise SettingsError(
            "repository", "this URL has more than a host and a path", expected="https://host/path"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"[\s\"'<>]", url):
        raise SettingsError(
            "repository", f"{repository!r} is no host", expected="a host name or an https URL"
        )
    return url.rstrip("/")


def flag(name: str, value: Any) -> bool:
    """Return a setting that is true or false.

    Raises:
        SettingsError: It is neither.
    """
    text = str(value).lower()
    if text not in _TRUE | _FALSE:
        raise SettingsError(name, f"{value!r} is neither", expected="true or false")
    return text in _TRUE


def _number(name: str, value: Any, kind: type[Any]) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise SettingsError(name, f"{value!r} is not a number") from None
