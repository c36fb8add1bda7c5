"""look: what is there at this moment, and the plan that is made of it.

Every step looks anew. Nothing is read but records, the configuration and names.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from puavo_repository.errors import as_storage_error
from puavo_repository.mirror import files
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.prepare.configure import configure
from puavo_repository.prepare.discover import Inventory, discover
from puavo_repository.prepare.plan import Known, Plan, make_plan
from puavo_repository.settings import Settings


def look(settings: Settings) -> Plan:
    """Look at the image directory, the configuration and the mirror; nothing is written.

    Raises:
        ConfigError: A configuration file cannot be used.
        StorageError, StorageRefusedError: Something cannot be read.
    """
    inventory = discover(settings)
    catalogue = configure(settings, inventory, dry_run=True)
    known = _gather(Mirror(settings.mirror_dir), inventory)
    plan = make_plan(inventory, catalogue, known, settings.policy)
    with as_storage_error(settings.mirror_dir):
        needed = plan.space_needed + _copied_bytes(settings, plan)
        free = shutil.disk_usage(_existing(settings.mirror_dir)).free
    return replace(plan, space_needed=needed, space_free=free)


def _gather(mirror: Mirror, inventory: Inventory) -> Known:
    """Read the records and keep those that still hold; no image or rdiff is read."""
    images = {
        record.name: record
        for record in mirror.state.images
        if inventory.images.get(record.name) == record.identity
        or (record.name in inventory.names and mirror.has(record))
    }
    rdiffs = {
        record.name: record
        for record in mirror.state.rdiffs
        if record.identity is None or Identity.at(mirror.rdiff(record.name)) == record.identity
    }
    return Known(images, rdiffs, frozenset(mirror.owned()))


def _copied_bytes(settings: Settings, plan: Plan) -> int:
    """Return the bytes of the images that cannot be hard links, and are not there yet."""
    mirror, images = _existing(settings.mirror_dir), plan.inventory.images
    if settings.image_dir.stat().st_dev == mirror.stat().st_dev:
        return 0
    absent = images.keys() & set(plan.images) - plan.known.owned
    return sum(images[name].size for name in absent)


def _existing(folder: Path) -> Path:
    while not files.exists(folder):
        folder = folder.parent
    return folder
