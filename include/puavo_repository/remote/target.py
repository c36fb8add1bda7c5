"""Where a mirror is published to, and with which key: an URL, or what a connection holds."""

import ipaddress
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from puavo_repository.errors import SettingsError

SSH_PORT = 22
_FORMS = "sftp://user@host[:port]/path or file:///path"
_URL = re.compile(r"(sftp|file)://([^/?#]*)([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_SERVER = re.compile(r"(\[[^\[\]]*\]|[^\[\]:/?#]*)(?::([0-9]{0,5}))?")
_HOST = re.compile(r"[^\W_][\w.-]*")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HIDDEN = "…"
KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True)
class Target:
    """One remote mirror."""

    path: str  # the folder, absolute
    host: str = ""  # the server's name or address; empty for a local folder
    port: int = SSH_PORT
    user: str = ""  # the login; empty for the user that runs this
    password: str = field(default="", repr=False)  # for the login, or of the key; never shown
    private_key: str = field(default="", repr=False)  # in OpenSSH's or PEM form; never shown
    key_file: str = ""  # with neither, the SSH agent and ``~/.ssh/id_*`` serve
    host_key: str = ""  # type and base64, as in ``known_hosts``; empty: look it up there
    known_hosts: tuple[str, ...] = KNOWN_HOSTS  # keys from all of them count
    connection: str = ""  # the id of the Airflow connection that all this is from

    @property
    def name(self) -> str:
        """What the mirror is called wherever it is shown or kept: as it is configured."""
        return self.connection or self.url

    @property
    def url(self) -> str:
        """The target as people read it; there is no secret in it."""
        path = quote(self.path, errors="surrogateescape")
        if not self.host:
            return f"file://{path}"
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port != SSH_PORT else ""
        return f"sftp://{user}{host}{port}{path}"


def parse_target(url: str, *, key_file: str = "", known_hosts: str = "") -> Target:
    """Read ``sftp://user@host[:port]/path`` or ``file:///path``.

    The path is absolute and percent-encoded where it must be: ``%`` is ``%25``, ``?`` is
    ``%3F``, ``#`` is ``%23``, and after a host ``@`` is ``%40``. Other characters may stand as
    they are. A name that is not UTF-8 is written byte by byte, as ``%FF``.

    The ``SettingsError`` for what is no such URL, or has a password in it, shows nothing of what
    stands before the last ``@``.
    """
    subject = _hide_secrets(url)
    _check_characters(url, subject)
    match = _URL.fullmatch(url)
    scheme, authority, path, more = match.groups() if match else ("", "", "", "")
    user, _, server = authority.rpartition("@")
    remote = scheme.lower() == "sftp"
    if ":" in user:
        problem = "has a password in it, which other users and logs would see"
        remedy = "Use a key (an SSH agent, ~/.ssh/id_ed25519) or an Airflow connection"
        raise SettingsError(subject, problem, remedy=remedy)
    if more or (remote and "@" in path):
        problem = f"has a {more[:1] or '@'} in it, which cannot stand there as it is"
        raise SettingsError(subject, problem, remedy="Write %23 for #, %3F for ?, %40 for @")
    if not match or remote != bool(server) or (user and not remote):
        raise SettingsError(subject, "is no place to publish to", expected=_FORMS)
    place = _SERVER.fullmatch(server)
    if place is None:
        raise SettingsError(subject, "has an unusable host or port", expected=_FORMS)
    path, user = _decoded(path, subject), _decoded(user, subject)
    host, port = place[1] if remote else None, int(place[2] or SSH_PORT)
    known = (known_hosts,) if known_hosts else KNOWN_HOSTS
    return _target(subject, path, host, port, user, key_file=key_file, known_hosts=known)


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

    Read from ``extra``: ``path`` (the folder on the server as it is called there, nothing is
    percent-encoded; needed), ``host_key`` (type and base64, or base64 alone), ``key_file``,
    ``private_key``, ``private_key_passphrase``.
    """
    subject = f"connection {name}"
    given = {key: str(value) for key, value in extra.items() if value is not None}
    path = given.get("path", "")
    if not host or not path.startswith("/"):
        expected = 'a host, and the folder in its extra as "path": "/srv/mirror"'
        raise SettingsError(subject, "does not say where to publish to", expected=expected)
    secret = password or given.get("private_key_passphrase", "")
    keys = {key: given.get(key, "") for key in ("private_key", "key_file", "host_key")}
    keys |= {"password": secret, "connection": name}
    return _target(subject, path, host, port or SSH_PORT, login or "", **keys)


def without_password(url: str) -> str:
    """Return an URL, or an Airflow connection's id, that can be shown."""
    try:
        return parse_target(url).url
    except SettingsError:
        return _hide_secrets(url)


def canonical(url: str) -> str:
    """Return one form for all spellings of an URL, without its password; an id stays as it is."""
    with suppress(SettingsError, ValueError):
        return parse_target(without_password(url)).url
    return url


def _hide_secrets(url: str) -> str:
    """Return what can be shown of a text that may be no URL: nothing before its last ``@``."""
    if "@" not in url and "://" not in url:
        return url or "the remote"  # a connection's id, which may have a colon in it
    # A password may have /, ? or # in it, where an URL's user would end.
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        scheme, separator, rest = "", "", url
    hidden, at, rest = rest.rpartition("@")
    server = re.split("[/?#]", rest, maxsplit=1)[0]
    if not _SERVER.fullmatch(server):
        rest = _HIDDEN  # what stands in a port's place may be a password
    return f"{scheme}{separator}{_HIDDEN if hidden else ''}{at}{rest}"


def _check_characters(text: str, subject: str) -> None:
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise SettingsError(subject, "has a control character in it")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Without the cause: it holds the whole text.
        raise SettingsError(subject, "has a character in it that is in no name of a file") from None


def _decoded(text: str, subject: str) -> str:
    """Return a text without its percent-encoding."""
    if _ESCAPE.search(text):
        problem = "has a % that no two hexadecimal digits follow"
        raise SettingsError(subject, problem, remedy="Write %25 for %")
    raw = unquote_to_bytes(text.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def _target(subject: str, path: str, host: str | None, port: int, user: str, **more: Any) -> Target:
    """Return a target whose folder has its only form: absolute, each part the name of something.

    ``host`` is None for a local folder.
    """
    _check_characters(path + user, subject)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        problem = "has .. in its path, which leads upwards"
        raise SettingsError(subject, problem, remedy="Write where it leads to")
    if not parts:
        expected = "a folder of its own for the mirror, such as /srv/mirror"
        problem = "names no folder, or the root of the file system"
        raise SettingsError(subject, problem, expected=expected)
    if not 0 < port < 1 << 16:
        raise SettingsError(subject, "has an unusable port", expected="1 to 65535")
    if any("\udc80" <= character <= "\udcff" for character in user):
        raise SettingsError(subject, "has a user in it whose name is not UTF-8")
    name = "" if host is None else _host(host, subject)
    return Target(f"/{'/'.join(parts)}", name, port, user, **more)


def _host(text: str, subject: str) -> str:
    """Return a host's name, or its address without the brackets that an URL needs."""
    try:
        if text.startswith("[") or ":" in text:
            return str(ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]")))
        text.encode("idna")  # what the resolver is given
        if _HOST.fullmatch(text):
            return text.lower()
    except ValueError:
        pass
    expected = "a name or an address, and a number"
    raise SettingsError(subject, "has an unusable host or port", expected=expected)
