"""configure: which series there are, from the configuration files, which are brought up to date.

The files are all read before any is written: one that cannot be used stops the run with
nothing changed.
"""

import itertools
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from puavo_repository.errors import ConfigError, RepositoryError, SettingsError, as_storage_error
from puavo_repository.formats import defaults_mk, image_config
from puavo_repository.formats.image_config import SeriesConfig
from puavo_repository.mirror import files
from puavo_repository.prepare.discover import Inventory
from puavo_repository.settings import Settings

Files = Mapping[str, tuple[SeriesConfig, ...]]
"""Series of each configuration file, by distribution."""


@dataclass(frozen=True)
class Catalogue:
    """What the configuration asks for."""

    series: tuple[SeriesConfig, ...]  # of all files, with images whether they exist or not
    notes: tuple[str, ...] = ()  # what the operator should know about the files
    named: bool = False  # whether the files, as they lie there, name any image


def configure(settings: Settings, inventory: Inventory, *, dry_run: bool = False) -> Catalogue:
    """Read the configuration and, unless it is to be left alone or not yet, write what changed."""
    folder = settings.puavo_os / "config" / "images"
    present = {path.stem: _read(path) for path in files.listed(folder, "[!.]*.json")}
    generated = not settings.no_config or not present
    wanted = _generated(folder, present, inventory) if generated else present
    owners: dict[str, str] = {}
    for distribution, series in wanted.items():
        for one in series:
            if owners.setdefault(one.name, distribution) != distribution:
                raise ConfigError(
                    folder / f"{distribution}.json",
                    f"series {one.name} is also in {owners[one.name]}.json",
                    expected="each series in one file",
                    remedy="Remove it from one of them, or correct one and run with --no-config",
                )
    notes = []
    if settings.no_config and not present:
        notes = [f"{folder} has no configuration: every image that was found is offered"]
    if not settings.no_config and not dry_run:
        try:
            notes = _write(settings, present, wanted)
        except (RepositoryError, OSError) as error:
            raise SettingsError(
                settings.puavo_os,
                f"the configuration cannot be written there: {error}",
                remedy="Choose another folder with --puavo-os, or leave the files as they are "
                "with --no-config",
            ) from error
    named = any(one.images for series in present.values() for one in series)
    return Catalogue(tuple(itertools.chain(*wanted.values())), tuple(notes), named)


def _read(path: Path) -> tuple[SeriesConfig, ...]:
    with as_storage_error(path):
        return image_config.parse(path.read_bytes(), path)


def _generated(folder: Path, present: Files, inventory: Inventory) -> Files:
    found, wanted = inventory.series, {}
    for distribution in sorted(found.keys() | present.keys()):
        before = present.get(distribution, ())
        if distribution not in present:
            # What was set aside while it had no image: the ``extra_rdiffs`` there count.
            backups = files.listed(folder, f"{distribution}.json.bak*")
            with as_storage_error(folder), suppress(ConfigError):
                last = max(backups, key=lambda path: path.stat().st_mtime_ns, default=None)
                before = _read(last) if last else ()
        series = image_config.generate(before, distribution, found.get(distribution, {}))
        if any(one.images for one in series):
            wanted[distribution] = series
    return wanted


def _write(settings: Settings, present: Files, wanted: Files) -> list[str]:
    """Write the files that changed and set aside those without images; return notes."""
    folder, notes = settings.puavo_os / "config" / "images", []
    for distribution, series in wanted.items():
        if present.get(distribution) != series:
            _replace(folder / f"{distribution}.json", image_config.render(series))
    for distribution in present.keys() - wanted.keys():
        path = folder / f"{distribution}.json"
        numbers = itertools.chain([""], map(str, itertools.count(2)))
        backups = (path.with_name(f"{path.name}.bak{number}") for number in numbers)
        backup = next(one for one in backups if not os.path.lexists(one))
        path.touch()  # the last one that was set aside is the one that counts
        path.rename(backup)
        files.sync(folder)
        notes.append(f"{distribution} has no image any more: {path} is now {backup.name}")
    path = settings.puavo_os / "defaults.mk"
    before = path.read_bytes().decode() if files.exists(path) else ""  # line ends stay as they are
    values = {
        "image_dir": str(settings.image_dir),
        "images_urlbase": settings.repository,
        "mirror_dir": str(settings.mirror_dir),
    }
    _replace(path, defaults_mk.update(before, values).encode())
    return notes


def _replace(path: Path, content: bytes) -> None:
    """Give a file this content; a link stays one, and what it leads to is written, as it is read.

    These files are the operator's own, who may keep them elsewhere, as in a checkout.
    """
    files.write(path.resolve(), content)
