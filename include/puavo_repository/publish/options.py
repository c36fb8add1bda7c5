"""How to publish: from the environment, then from a run's params or the command's options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puavo_repository import settings
from puavo_repository.remote.target import Target, parse_target
from puavo_repository.settings.model import Model

DAY = 24 * 3600.0  # seconds


class Options(Model):
    """The settings, those of publishing among them, and what a run adds to them."""

    assemble: bool = True  # whether images may be made on the server from files that lie there
    only: frozenset[str] | None = None  # all that is published, metadata and CKSUMS too, by path
    own_folders: tuple[Path, ...] = ()  # such as the image directory: no place to publish to

    @property
    def grace(self) -> float:
        """Seconds that a file stays unnamed: a client may be in the middle of it."""
        return self.grace_days * DAY

    def target(self, url: str) -> Target:
        """Return the remote that an URL names."""
        return parse_target(url, key_file=self.ssh_key, known_hosts=self.known_hosts)


def load(values: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Options:
    """Read the settings of publishing, as ``settings.read`` does; see docs/settings.md.

    Raises:
        SettingsError: A value cannot be used.
    """
    return Options(**settings.read(values, environment).model_dump(exclude_unset=True))
