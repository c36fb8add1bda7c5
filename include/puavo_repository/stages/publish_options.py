"""How to publish: from the environment, then from a run's params or the command's options."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from puavo_repository import settings
from puavo_repository.errors import SettingsError
from puavo_repository.settings import ENVIRONMENT
from puavo_repository.stages.prune import Cleaning
from puavo_repository.storage.generations import GENERATIONS_KEPT
from puavo_repository.storage.target import Target, parse_target
from puavo_repository.storage.throttle import Bandwidth

DAY = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class Options:
    """How to publish.

    Attributes:
        connections: How many connections to one remote may be open for transfers.
        bandwidth: How many bytes a second may be sent.
        share: What part of the bandwidth is this process'.
        cleaning: When and how much may be removed.
        ssh_key: File of the private key for remotes given as URLs; empty for the SSH agent
            and ``~/.ssh/id_*``.
        known_hosts: The only file to look host keys up in; empty for the usual ones.
        allow_rolled_back: Whether to publish what a step back took from clients.
        allow_other_mirror: Whether to publish to a remote that holds another mirror, whose
            series go then.
        assemble: Whether images may be made on the server from files that lie there.
        only: Files, metadata and CKSUMS among them, that are published, and nothing else: what
            a repair puts right. None for all.
    """

    connections: int = 6
    bandwidth: Bandwidth = field(default_factory=Bandwidth)
    share: float = 1.0
    cleaning: Cleaning = field(default_factory=Cleaning)
    ssh_key: str = ""
    known_hosts: str = ""
    allow_rolled_back: bool = False
    allow_other_mirror: bool = False
    assemble: bool = True
    only: Collection[str] | None = None

    def target(self, url: str) -> Target:
        """Return the remote that an URL names."""
        return parse_target(url, key_file=self.ssh_key, known_hosts=self.known_hosts)


def load(
    values: Mapping[str, Any], environment: Mapping[str, str] | None = None, share: float = 1.0
) -> Options:
    """Read the settings of publishing.

    ``bandwidth`` (bytes a second, such as ``2M``, or by the hour: ``0 7-19=500k``),
    ``connections``, ``grace_days``, ``max_delete`` (a share, such as 0.3),
    ``allow_mass_delete``, ``replace_pause`` (seconds), ``generations``, ``allow_rolled_back``,
    ``allow_other_mirror``, ``ssh_key`` and ``known_hosts``; in the environment as ``PUAVO_REPOSITORY_BANDWIDTH`` and so on.

    Args:
        values: Params of a DAG run or options of the command; None counts as not given.
        environment: The process' environment by default.
        share: What part of the bandwidth is this process'.

    Raises:
        SettingsError: A value cannot be used.
    """
    found = os.environ if environment is None else environment

    def value(name: str, default: str) -> str:
        given = values.get(name)
        text = str(given) if given not in (None, "") else ""
        return text or found.get(ENVIRONMENT + name.upper(), "") or default

    def flag(name: str) -> bool:
        return settings.flag(name, value(name, ""))

    return Options(
        connections=int(_number("connections", value("connections", "6"), 1, 64)),
        bandwidth=Bandwidth.parse(value("bandwidth", "")),
        share=share,
        cleaning=Cleaning(
            grace=_number("grace_days", value("grace_days", "3"), 0, 3650) * DAY,
            share=_number("max_delete", value("max_delete", "0.3"), 0, 1),
            allow_mass_delete=flag("allow_mass_delete"),
            pause=_number("replace_pause", value("replace_pause", "30"), 0, 3600),
            generations=int(
                _number("generations", value("generations", str(GENERATIONS_KEPT)), 1, 1000)
            ),
        ),
        allow_rolled_back=flag("allow_rolled_back"),
        allow_other_mirror=flag("allow_other_mirror"),
        ssh_key=value("ssh_key", ""),
        known_hosts=value("known_hosts", ""),
    )


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise SettingsError(name, f"{text!r} is unusable", expected=f"{least:g} to {most:g}")
    return number
