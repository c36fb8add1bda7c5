"""Where a mirror is published to, and with which key: an URL, or what a connection holds."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from puavo_repository.errors import SettingsError

SSH_PORT = 22
KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True)
class Target:
    """One remote mirror.

    Attributes:
        path: The folder, absolute.
        host: The server's name or address; empty for a local folder.
        port: Its SSH port.
        user: The login; empty for the user that runs this.
        password: For the login, or of the key. Never shown.
        private_key: The key itself in OpenSSH's or PEM form. Never shown.
        key_file: Or the file it is in. With neither, the SSH agent and ``~/.ssh/id_*`` serve.
        host_key: The server's key as in ``known_hosts``: type and base64. Empty: look it up there.
        known_hosts: Files to look in, the first that knows the host decides.
    """

    path: str
    host: str = ""
    port: int = SSH_PORT
    user: str = ""
    password: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    key_file: str = ""
    host_key: str = ""
    known_hosts: tuple[str, ...] = KNOWN_HOSTS

    @property
    def url(self) -> str:
        """The target as people read it; there is no secret in it."""
        if not self.host:
            return f"file://{quote(self.path)}"
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port != SSH_PORT else ""
        return f"sftp://{user}{host}{port}{quote(self.path)}"


def parse_target(url: str, *, key_file: str = "", known_hosts: str = "") -> Target:
    """Read ``sftp://user@host[:port]/path`` or ``file:///path``.

    The path is absolute and percent-encoded where it must be: a space is ``%20``; other
    characters, non-ASCII ones too, may stand as they are.

    Args:
        url: The target.
        key_file: The private key to log in with; empty for the agent and ``~/.ssh/id_*``.
        known_hosts: The only file to look the host key up in; empty for the usual ones.

    Raises:
        SettingsError: It is no such URL, or has a password in it.
    """
    parts = urlsplit(url)
    forms = "sftp://user@host[:port]/path or file:///path"
    if parts.scheme not in ("sftp", "file"):
        raise SettingsError(without_password(url), "is no place to publish to", expected=forms)
    if parts.password is not None:
        raise SettingsError(
            without_password(url),
            "has a password in it, which other users and logs would see",
            remedy="Use a key (an SSH agent, ~/.ssh/id_ed25519) or an Airflow connection",
        )
    path = str(PurePosixPath(unquote(parts.path, errors="surrogateescape")))
    if not path.startswith("/") or (parts.scheme == "sftp") != bool(parts.hostname):
        raise SettingsError(url, "is no place to publish to", expected=forms)
    try:
        port = parts.port or SSH_PORT
    except ValueError as error:
        raise SettingsError(url, "has an unusable port", expected="1 to 65535") from error
    return Target(
        path=path,
        host=parts.hostname or "",
        port=port,
        user=unquote(parts.username or ""),
        key_file=key_file,
        known_hosts=(known_hosts,) if known_hosts else KNOWN_HOSTS,
    )


def target_of_connection(
    name: str,
    *,
    host: str | None,
    port: int | None,
    login: str | None,
    password: str | None,
    extra: dict[str, Any],
) -> Target:
    """Build a target from the fields of an Airflow connection, whatever its type.

    Read from ``extra``: ``path`` (the folder on the server, needed), ``host_key`` (type and
    base64, or base64 alone), ``key_file``, ``private_key``, ``private_key_passphrase``.

    Raises:
        SettingsError: Host or path is missing.
    """
    path = str(extra.get("path", ""))
    if not host or not path.startswith("/"):
        raise SettingsError(
            f"connection {name}",
            "does not say where to publish to",
            expected='a host, and the folder in its extra as "path": "/srv/mirror"',
        )
    return Target(
        path=str(PurePosixPath(path)),
        host=host,
        port=port or SSH_PORT,
        user=login or "",
        password=password or str(extra.get("private_key_passphrase", "")),
        private_key=str(extra.get("private_key", "")),
        key_file=str(extra.get("key_file", "")),
        host_key=str(extra.get("host_key", "")),
    )


def without_password(url: str) -> str:
    """Return an URL that can be shown."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=user.partition(":")[0] + at + host).geturl()


def existing(files: tuple[str, ...]) -> list[Path]:
    """Return those of some files that are there, ``~`` resolved."""
    paths = [Path(os.path.expanduser(name)) for name in files]  # noqa: PTH111 - may fail softly
    return [path for path in paths if path.is_file()]
