"""How to publish: from the environment, then from a run's params or the command's options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puavo_repository import settings
from puavo_repository.remote.target import Target, parse_target
from puavo_repository.remote.throttle import Bandwidth
from puavo_repository.settings import DEFAULTS

DAY = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class RemovalPolicy:
    """When and how much may be removed.

    Attributes:
        grace: Seconds a file stays after the last metadata named it: a client may be in the
            middle of it.
        share: Largest share of our bytes there that may go at once.
        allow_mass_delete: Whether more may go this once.
        pause: Seconds between withdrawing a file from the metadata and replacing it, for the
            clients that have just read the metadata.
        generations: How many generations can be gone back to.
    """

    grace: float = DEFAULTS.grace_days * DAY
    share: float = DEFAULTS.max_delete
    allow_mass_delete: bool = False
    pause: float = DEFAULTS.replace_pause
    generations: int = DEFAULTS.generations


@dataclass(frozen=True)
class Options:
    """How to publish.

    Attributes:
        connections: How many connections to one remote may be open for transfers.
        bandwidth: How many bytes a second may be sent.
        removal: When and how much may be removed.
        ssh_key: File of the private key for remotes given as URLs; empty for the SSH agent
            and ``~/.ssh/id_*``.
        known_hosts: The only file to look host keys up in; empty for the usual ones.
        allow_rolled_back: Whether to publish what a rollback took from clients.
        allow_other_mirror: Whether to publish to a remote that holds another mirror, whose
            series go then.
        assemble: Whether images may be made on the server from files that lie there.
        only: Files, metadata and CKSUMS among them, that are published, and nothing else: what
            a repair puts right. None for all.
        own_folders: Folders whose files are the operator's own, such as the image directory:
            what has to do with them is no place to publish to.
    """

    connections: int = DEFAULTS.connections
    bandwidth: Bandwidth = field(default_factory=Bandwidth)
    removal: RemovalPolicy = field(default_factory=RemovalPolicy)
    ssh_key: str = ""
    known_hosts: str = ""
    allow_rolled_back: bool = False
    allow_other_mirror: bool = False
    assemble: bool = True
    only: Collection[str] | None = None
    own_folders: tuple[Path, ...] = ()

    def target(self, url: str) -> Target:
        """Return the remote that an URL names."""
        return parse_target(url, key_file=self.ssh_key, known_hosts=self.known_hosts)


def load(values: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Options:
    """Read the settings of publishing, as ``settings.read`` does; see docs/settings.md.

    Raises:
        SettingsError: A value cannot be used.
    """
    found = settings.read(values, environment)
    return Options(
        connections=found.connections,
        bandwidth=Bandwidth.parse(found.bandwidth),
        removal=RemovalPolicy(
            grace=found.grace_days * DAY,
            share=found.max_delete,
            allow_mass_delete=found.allow_mass_delete,
            pause=found.replace_pause,
            generations=found.generations,
        ),
        allow_rolled_back=found.allow_rolled_back,
        allow_other_mirror=found.allow_other_mirror,
        ssh_key=found.ssh_key,
        known_hosts=found.known_hosts,
    )
