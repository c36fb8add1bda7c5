"""An SSH connection set up for moving gigabytes, and refused unless the host key is known.

Paramiko's transport, with what its own client does not do: AES-GCM first among the ciphers
(no separate MAC; 1.5 times the throughput of the default), no compression (squashfs images are
compressed), ``TCP_NODELAY``, keep-alive, and ``known_hosts`` as OpenSSH reads it (sshd(8),
*SSH_KNOWN_HOSTS FILE FORMAT*): paramiko's own reader knows neither markers nor patterns, and
stops at a line that it cannot read.
"""

import base64
import contextlib
import functools
import getpass
import io
import logging
import re
import socket
import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import paramiko

from puavo_repository.errors import (
    ConnectionLostError,
    HostKeyError,
    LoginError,
    StorageRefusedError,
)
from puavo_repository.remote.sftp.packets import BatchPacketizer
from puavo_repository.remote.target import SSH_PORT, Target

logger = logging.getLogger(__name__)
# Paramiko logs a traceback for each broken connection; here it comes out as an error of ours.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

CONNECT_TIMEOUT = 30.0  # seconds for each step until the login is done
KEEPALIVE = 15  # seconds; keeps routers on the way from forgetting an idle connection
# Seconds in which nothing that was sent, such as that, arrives there: then the line is dead.
# Paramiko's own time-outs do not cover a write that the network does not take.
DEAD = 60
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
NO_SFTP = "Have 'Subsystem sftp internal-sftp' in its sshd_config, and a login that may use it"
_NO_ROOM = 4  # SSH_OPEN_RESOURCE_SHORTAGE: may pass
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_LINE = re.compile(r"(?:(@revoked|@cert-authority)\s+)?([^@\s]\S*)\s+(\S+)\s+(\S+)(?:\s.*)?")
_skipped: set[tuple[str, str]] = set()  # what was logged: every connection reads the files again


def connect(target: Target, *, compressed: bool = False) -> paramiko.Transport:
    """Open an authenticated connection.

    A compressed one is for many small requests that are much alike; images do not shrink.
    """
    known = known_keys(target)
    try:
        with contextlib.ExitStack() as failed:
            sock = socket.create_connection((target.host, target.port), CONNECT_TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * DEAD)
            kind = None if compressed else BatchPacketizer  # then messages are small
            transport = paramiko.Transport(sock, packetizer_class=kind)
            failed.callback(transport.close)
            transport.use_compression(compressed)
            transport.banner_timeout = transport.auth_timeout = CONNECT_TIMEOUT
            options = transport.get_security_options()
            options.ciphers = [*CIPHERS, *(c for c in options.ciphers if c not in CIPHERS)]
            # A kind of host key that can be checked comes first. An ssh-rsa key signs as
            # rsa-sha2-*; every other kind is asked for by its own name.
            kinds = {one.key.get_name() for one in known if not one.marker}
            kinds |= {"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in kinds else set()
            options.key_types = sorted(options.key_types, key=lambda kind: kind not in kinds)
            transport.start_client(timeout=CONNECT_TIMEOUT)
            _check_host_key(target, known, transport)
            _log_in(transport, target)
            transport.set_keepalive(KEEPALIVE)
            failed.pop_all()
            return transport
    except (OSError, EOFError, paramiko.SSHException) as error:
        problem = str(error) or "the connection was lost"
        remedy = "Run again when the server answers at this address"
        raise ConnectionLostError(target.url, problem, remedy=remedy) from error


def open_sftp(name: str, transport: paramiko.Transport, timeout: float) -> paramiko.Channel:
    """Open a session and have the server's SFTP serve it; ``name`` is the remote's."""
    try:
        channel = transport.open_session(timeout=timeout)
    except paramiko.ChannelException as error:
        refusal = ConnectionLostError if error.code == _NO_ROOM else StorageRefusedError
        problem = "the server refuses to open a session"
        remedy = "See MaxSessions in its sshd_config, and what is said in its log"
        raise refusal(name, problem, found=error.text, remedy=remedy) from error
    limit = threading.Timer(timeout, transport.close)  # the next call has none of its own
    limit.start()
    try:
        channel.invoke_subsystem("sftp")
    except paramiko.SSHException as error:
        if not transport.is_active():
            raise
        raise StorageRefusedError(name, "the server has no SFTP", remedy=NO_SFTP) from error
    finally:
        limit.cancel()
    if isinstance(transport.packetizer, BatchPacketizer):
        transport.packetizer.batch(channel)
    return channel


class KnownKey(NamedTuple):
    """A line of ``known_hosts`` that is for the server."""

    key: paramiko.PKey
    marker: str  # ``@revoked``, ``@cert-authority``, or nothing
    where: str  # the file and the line's number


def known_keys(target: Target) -> list[KnownKey]:
    """Return what is known of the server's keys: the target's own, else from known_hosts.

    A file that is missing says nothing. Lines that cannot be read, or have a kind of key that
    is not used any more, are skipped and logged once. A file that cannot be read, or a key of the
    target's own that is none, is a ``HostKeyError``.
    """
    if not target.host_key:
        return [found for path in target.known_hosts for found in _lines(Path(path), target)]
    # ``ssh-ed25519 AAAA…``, or the base64 alone: the kind is inside it too.
    text = next((word for word in target.host_key.split() if word.startswith("AAAA")), "")
    try:
        return [KnownKey(_key(text), "", "the connection")]
    except ValueError as error:
        problem = "the connection's host_key is no key"
        raise HostKeyError(target.url, problem, expected="ssh-ed25519 AAAA…") from error


def _lines(path: Path, target: Target) -> Iterator[KnownKey]:
    try:
        content = path.expanduser().read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, RuntimeError) as error:
        raise HostKeyError(
            path,
            "cannot be read, so no server can be told from another",
            found=getattr(error, "strerror", None) or str(error),
            remedy="Let the user that runs this read it, or name another file",
        ) from error
    for number, line in enumerate(content.split("\n"), 1):
        where, text = f"{path}:{number}", line.strip(" \t\r")
        if not text or text.startswith("#"):
            continue
        try:
            if (key := _key_for(_known_name(target).lower(), text)) is not None:
                yield KnownKey(*key, where)
        except ValueError as error:
            if (where, text) not in _skipped:
                _skipped.add((where, text))
                logger.warning("%s: this line is skipped: %s", where, error)


def _known_name(target: Target) -> str:
    return target.host if target.port == SSH_PORT else f"[{target.host}]:{target.port}"


def _key_for(name: str, line: str) -> tuple[paramiko.PKey, str] | None:
    """Return the key of a line and its marker, or None if it is for other hosts."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("a host, a kind and a key are expected, or a known marker before them")
    marker, hosts, kind, key = match.groups("")
    return (_key(key, kind), marker) if _is_for(hosts, name) else None


def _is_for(hosts: str, name: str) -> bool:
    """Say whether the first field of a line, a hash or patterns, is for a host."""
    if hosts.startswith("|"):
        try:
            return hosts == paramiko.HostKeys.hash_host(name, hosts)
        except (ValueError, AssertionError) as error:
            raise ValueError("its host is hashed in a way that is not known") from error
    every = hosts.lower().split(",")
    # In a pattern ``*`` is any characters, ``?`` is one, and no other is special.
    fit = [p for p in every if fnmatchcase(name, p.removeprefix("!").replace("[", "[[]"))]
    return bool(fit) and not any(pattern.startswith("!") for pattern in fit)


def _key(text: str, kind: str = "") -> paramiko.PKey:
    """Return the key that is this base64, of the kind that is given or named inside.

    A ``ValueError`` where it is none, or of a kind that is not used any more (``ssh-dss``).
    """
    try:
        blob = base64.b64decode(text, validate=True)
        return paramiko.PKey.from_type_string(kind or paramiko.Message(blob).get_text(), blob)
    except Exception as error:  # paramiko and cryptography raise anything for foreign bytes
        raise ValueError("it has no key of a kind that is used") from error


def _check_host_key(target: Target, known: list[KnownKey], transport: paramiko.Transport) -> None:
    """Refuse a server whose key is not a known one, or was revoked."""
    if not transport.initial_kex_done:  # paramiko returns silently after its time-out
        raise EOFError(f"the server did not answer for {CONNECT_TIMEOUT:.0f} seconds")
    found = transport.get_remote_server_key()
    refusal = functools.partial(HostKeyError, target.url, found=_shown(found))
    for one in known:
        if one.marker == "@revoked" and one.key == found:
            problem = f"the server's host key is revoked in {one.where}"
            raise refusal(problem, remedy="Do not trust this server before it has another key")
    expected = [one.key for one in known if not one.marker]
    if found in expected:
        return
    where = f"-p {target.port} {target.host}" if target.port != SSH_PORT else target.host
    file = next(iter(target.known_hosts), "~/.ssh/known_hosts")
    accept = (
        f"Compare that fingerprint with the server's own, then accept the key with "
        f"'ssh-keyscan {where} >> {file}' or put '{found.get_name()} "
        f"{found.get_base64()}' into the Airflow connection's extra as host_key"
    )
    if expected:
        raise refusal(
            "the server's host key has changed: someone may be in between",
            expected=" or ".join(map(_shown, expected)),
            remedy=f"If the server has a new key: 'ssh-keygen -R {_known_name(target)}'. {accept}",
        )
    problem = "the server's host key is unknown"
    if any(one.marker == "@cert-authority" for one in known):
        problem += "; there is only an authority for it, and host certificates are not supported"
    raise refusal(problem, remedy=accept)


def _shown(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"


def _log_in(transport: paramiko.Transport, target: Target) -> None:
    """Try the key that was named, else those of the agent and of ``~/.ssh``; then the password."""
    try:
        user, keys = target.user or getpass.getuser(), []
    except (KeyError, OSError) as error:  # as in a container that runs as any number
        problem, remedy = "the user that runs this has no name", "Name one: sftp://user@host/path"
        raise LoginError(target.url, problem, remedy=remedy) from error
    if target.private_key or target.key_file:
        keys.append(_load_key(target))
    else:
        keys.extend(paramiko.Agent().get_keys())
        for path in DEFAULT_KEYS:
            try:
                keys.append(paramiko.PKey.from_path(path))
            except Exception:  # noqa: BLE001 - as for ``_key``; one of a security key (sk) too
                logger.debug("%s: missing, locked or no key for us; skipped", path)
    methods = [functools.partial(transport.auth_publickey, user, key) for key in keys]
    if target.password:
        methods.append(functools.partial(transport.auth_password, user, target.password))
    for number, method in enumerate(methods):
        try:
            method()
        except paramiko.SSHException as error:
            # Paramiko says the same of a refusal and of a connection that broke or is silent.
            refused = isinstance(error, paramiko.AuthenticationException)
            alive = (number or transport.is_active()) and "timeout" not in str(error)
            if not refused or not alive:
                raise EOFError("the connection broke during the login") from error
        if transport.is_authenticated() or not transport.is_active():
            break
    if not transport.is_authenticated():
        problem = f"the server accepts neither key nor password of user {user!r}"
        remedy = "Put the public key into that user's authorized_keys, or correct the password"
        raise LoginError(target.url, problem, remedy=remedy)


def _load_key(target: Target) -> paramiko.PKey:
    password = target.password or None
    remedy = "Name a readable ed25519, ECDSA or RSA key, as ssh-keygen makes it"
    try:
        if target.key_file:
            # The stubs say str, the code needs bytes.
            phrase: Any = password.encode() if password else None
            return paramiko.PKey.from_path(target.key_file, phrase)
        for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
            try:
                return kind.from_private_key(io.StringIO(target.private_key), password)
            except paramiko.PasswordRequiredException:
                raise
            except Exception:  # noqa: BLE001, S112 - as for ``_key``; another kind may fit
                continue
    except Exception as error:  # as for ``_key``
        # The text of such an error names the file or the key's form, never the key.
        problem = f"the private key cannot be read: {str(error) or type(error).__name__}"
        raise LoginError(target.url, problem, remedy=remedy) from error
    raise LoginError(target.url, "the private key is in no form that is known", remedy=remedy)
