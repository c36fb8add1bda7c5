"""configure: which series there are, from the configuration files, which are brought up to date.

The files are all read before any is written: one that cannot be used stops the run with
nothing changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from puavo_repository.errors import (
    ConfigError,
    SettingsError,
    StorageError,
    StorageRefusedError,
    storage_error,
)
from puavo_repository.formats import defaults_mk, image_config
from puavo_repository.formats.image_config import SeriesConfig
from puavo_repository.mirror import files
from puavo_repository.prepare.discover import Inventory
from puavo_repository.settings import Settings


@dataclass(frozen=True)
class Catalogue:
    """What the configuration asks for.

    Attributes:
        series: Every series of every distribution, with the images that its file names,
            whether they exist or not.
        notes: What the operator should know about the configuration files.
        named: Whether the files, as they lie there, name any image.
    """

    series: tuple[SeriesConfig, ...]
    notes: tuple[str, ...] = ()
    named: bool = False


def configure(settings: Settings, inventory: Inventory, *, dry_run: bool = False) -> Catalogue:
    """Read the configuration and, unless it is to be left alone, write what changed.

    Args:
        settings: Where the files are, and whether to write them.
        inventory: What was discovered.
        dry_run: Work out the same, write nothing.

    Raises:
        ConfigError: A file cannot be used; nothing was changed.
        SettingsError: The folder cannot be written.
    """
    present = _read_all(settings.config_dir)
    if not settings.write_config and present:
        wanted = present
    else:
        wanted = _generated(settings.config_dir, present, inventory)
    _check_unique(settings.config_dir, wanted)
    notes = []
    if settings.write_config and not dry_run:
        try:
            notes = _write_all(settings, present, wanted)
        except (StorageError, StorageRefusedError, OSError) as error:
            raise SettingsError(
                settings.puavo_os,
                f"the configuration cannot be written there: {error}",
                remedy="Choose another folder with --puavo-os, or leave the files as they are "
                "with --no-config",
            ) from error
    elif not settings.write_config and not present:
        notes.append(
            f"{settings.config_dir} has no configuration: every image that was found is offered"
        )
    named = any(one.images for series in present.values() for one in series)
    series = tuple(one for series in wanted.values() for one in series)
    return Catalogue(series, tuple(notes), named)


def _read_all(folder: Path) -> dict[str, tuple[SeriesConfig, ...]]:
    return {path.stem: _read(path) for path in files.listed(folder, "[!.]*.json")}


def _read(path: Path) -> tuple[SeriesConfig, ...]:
    try:
        return image_config.parse(path.read_bytes(), path)
    except OSError as error:
        raise storage_error(path, error) from error


def _generated(
    folder: Path, present: Mapping[str, tuple[SeriesConfig, ...]], inventory: Inventory
) -> dict[str, tuple[SeriesConfig, ...]]:
    found = inventory.series
    wanted = {}
    for distribution in sorted(found.keys() | present.keys()):
        before = present.get(distribution)
        if before is None:
            before = _set_aside(folder, distribution)
        images = found.get(distribution, {})
        series = image_config.generate(before, distribution, images)
        if any(one.images for one in series):
            wanted[distribution] = series
    return wanted


def _set_aside(folder: Path, distribution: str) -> tuple[SeriesConfig, ...]:
    """Read what was set aside while a distribution had no image: its ``extra_rdiffs`` count."""
    backups = files.listed(folder, f"{distribution}.json.bak*")
    try:
        last = max(backups, key=lambda path: path.stat().st_mtime_ns, default=None)
        return _read(last) if last else ()
    except ConfigError:
        return ()
    except OSError as error:
        raise storage_error(error.filename or folder, error) from error


def _check_unique(folder: Path, wanted: Mapping[str, tuple[SeriesConfig, ...]]) -> None:
    owners: dict[str, str] = {}
    for distribution, series in wanted.items():
        for one in series:
            other = owners.setdefault(one.name, distribution)
            if other != distribution:
                raise ConfigError(
                    folder / f"{distribution}.json",
                    f"series {one.name} is also in {other}.json",
                    expected="each series in one file",
                    remedy="Remove it from one of them, or run with --no-config after mending",
                )


def _write_all(
    settings: Settings,
    present: Mapping[str, tuple[SeriesConfig, ...]],
    wanted: Mapping[str, tuple[SeriesConfig, ...]],
) -> list[str]:
    notes = []
    for distribution, series in wanted.items():
        if present.get(distribution) != series:
            path = settings.config_dir / f"{distribution}.json"
            files.write(path, image_config.render(series))
    for distribution in present.keys() - wanted.keys():
        path = settings.config_dir / f"{distribution}.json"
        backup = _free_name(path.with_name(f"{path.name}.bak"))
        path.touch()  # the last one that was set aside is the one that counts
        path.rename(backup)
        files.sync_folder(backup.parent)
        notes.append(f"{distribution} has no image any more: {path} is now {backup.name}")
    values = {
        "image_dir": str(settings.image_dir),
        "images_urlbase": settings.urlbase,
        "mirror_dir": str(settings.mirror_dir),
    }
    before = ""
    if files.exists(settings.defaults_mk):
        before = settings.defaults_mk.read_text(encoding="utf-8")
    files.write(settings.defaults_mk, defaults_mk.update(before, values).encode())
    return notes


def _free_name(path: Path) -> Path:
    """Return the path itself or, where that is taken, with a number: nothing is overwritten."""
    candidate, number = path, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}{number}")
    return candidate
