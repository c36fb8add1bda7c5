"""The keys of servers in ``known_hosts`` files, read as OpenSSH reads them.

Format: sshd(8), *SSH_KNOWN_HOSTS FILE FORMAT*. Written by hand because paramiko's own reader knows
neither markers nor negation, and stops at a line that it cannot read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from puavo_repository.errors import HostKeyError

logger = logging.getLogger(__name__)

_MARKERS = ("@revoked", "@cert-authority")
_skipped: set[tuple[str, str]] = set()  # what was logged: every connection reads the files again


@dataclass(frozen=True)
class KnownKey:
    """A line that is for the host that was asked for."""

    key: paramiko.PKey
    marker: str  # ``@revoked``, ``@cert-authority``, or nothing
    where: str  # the file and the line's number


def lookup(files: Iterable[str], name: str) -> list[KnownKey]:
    """Return what some files say of a host; those that are missing say nothing.

    Lines that cannot be read, or have a kind of key that is not used any more, are skipped
    and logged once. ``~`` in a file's path is the user's home; the name is a host, or
    ``[host]:port`` where the port is not 22. A file that is there and cannot be read is a
    ``HostKeyError``.
    """
    return [found for path in files for found in _lines(Path(path), name.lower())]


def _lines(path: Path, name: str) -> Iterator[KnownKey]:
    try:
        content = path.expanduser().read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, RuntimeError) as error:
        raise HostKeyError(
            path,
            "cannot be read, so no server can be told from another",
            found=getattr(error, "strerror", None) or str(error),
            remedy="Let the user that runs this read it, or name another file",
        ) from error
    for number, raw in enumerate(content.split(b"\n"), 1):
        where, line = f"{path}:{number}", raw.decode("utf-8", "surrogateescape").strip(" \t\r")
        if line and not line.startswith("#"):
            try:
                found = _parse(line, name, where)
            except ValueError as error:
                if (where, line) not in _skipped:
                    _skipped.add((where, line))
                    logger.warning("%s: this line is skipped: %s", where, error)
            else:
                yield from found


def _parse(line: str, name: str, where: str) -> list[KnownKey]:
    """Return the key of a line, or nothing if it is for other hosts."""
    words = line.split()
    marker = words.pop(0) if words and words[0].startswith("@") else ""
    if marker and marker not in _MARKERS:
        raise ValueError("its marker is not known")
    if len(words) < 3:
        raise ValueError("a host, a kind and a key are expected")
    hosts, kind, key = words[:3]
    return [KnownKey(parse_key(kind, key), marker, where)] if _matches(hosts, name) else []


def parse_key(kind: str, text: str) -> paramiko.PKey:
    """Return the key that a kind and its base64 give.

    A ``ValueError`` where it is none, or of a kind that is not used any more (``ssh-dss``).
    """
    try:
        return paramiko.PKey.from_type_string(kind, base64.b64decode(text, validate=True))
    except Exception as error:  # paramiko and cryptography raise anything for foreign bytes
        raise ValueError("it has no key of a kind that is used") from error


def _matches(hosts: str, name: str) -> bool:
    if hosts.startswith("|"):
        return _is_hash_of(hosts, name)
    found = False
    for pattern in hosts.lower().split(","):
        if _fits(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _fits(pattern: str, name: str) -> bool:
    """Say whether a name fits a pattern: ``*`` is any characters, ``?`` is one."""
    parts = {"*": ".*", "?": "."}
    return bool(re.fullmatch("".join(parts.get(c, re.escape(c)) for c in pattern), name))


def _is_hash_of(hosts: str, name: str) -> bool:
    try:
        _, version, salt, digest = hosts.split("|")
        key, wanted = (base64.b64decode(part, validate=True) for part in (salt, digest))
    except ValueError as error:
        raise ValueError("its host is hashed in a way that is not known") from error
    if version != "1":
        raise ValueError("its host is hashed in a way that is not known")
    return hmac.compare_digest(hmac.digest(key, name.encode(), hashlib.sha1), wanted)
