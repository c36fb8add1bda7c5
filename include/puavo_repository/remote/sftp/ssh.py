"""An SSH connection set up for moving gigabytes, and refused unless the host key is known.

Paramiko's transport, with what its own client does not do: AES-GCM first among the ciphers
(no separate MAC; 1.5 times the throughput of the default), no compression (squashfs images are
compressed), ``TCP_NODELAY``, keep-alive, and a watchdog, because paramiko retries a blocked
write for ever: a silent server must not hold a task for days.
"""

from __future__ import annotations

import base64
import functools
import getpass
import hashlib
import io
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import paramiko

from puavo_repository.errors import ConnectionLostError, HostKeyError, LoginError
from puavo_repository.remote.sftp.known_hosts import lookup, parse_key
from puavo_repository.remote.target import SSH_PORT, Target, existing

logger = logging.getLogger(__name__)
# Paramiko logs a traceback for each broken connection; here it comes out as an error of ours.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

CONNECT_TIMEOUT = 30.0  # seconds for each step until the login is done
SILENCE_TIMEOUT = 60.0  # seconds without any answer after which a server counts as stalled
KEEPALIVE = 15  # seconds; keeps routers on the way from forgetting an idle connection
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


def connect(target: Target, *, compressed: bool = False) -> paramiko.Transport:
    """Open an authenticated connection.

    Args:
        target: Where to.
        compressed: For many small requests that are much alike; images do not shrink.

    Raises:
        ConnectionLostError: The server cannot be reached or does not answer in time.
        HostKeyError: Its key is unknown or another than the known one.
        LoginError: It accepts neither key nor password.
    """
    expected = list(known_keys(target))
    try:
        plug = socket.create_connection((target.host, target.port), CONNECT_TIMEOUT)
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = paramiko.Transport(plug)
    except (OSError, paramiko.SSHException) as error:
        raise lost(target, error) from error
    try:
        _prefer(transport, expected)
        transport.use_compression(compressed)
        _greet(transport)
        check_host_key(target, expected, transport.get_remote_server_key())
        _log_in(transport, target)
        transport.set_keepalive(KEEPALIVE)
    except (OSError, EOFError, paramiko.SSHException) as error:
        transport.close()
        raise lost(target, error) from error
    except BaseException:
        transport.close()
        raise
    return transport


def lost(target: Target, error: BaseException) -> ConnectionLostError:
    """Return the error for a connection that could not be made or broke."""
    return ConnectionLostError(
        target.url,
        str(error) or "the connection was lost",
        remedy="Run again when the server answers at this address",
    )


def _prefer(transport: paramiko.Transport, expected: list[paramiko.PKey]) -> None:
    """Put fast ciphers first, and the kinds of host key that can be checked."""
    options = transport.get_security_options()
    options.ciphers = [*CIPHERS, *(c for c in options.ciphers if c not in CIPHERS)]
    transport.banner_timeout = transport.auth_timeout = CONNECT_TIMEOUT
    # An ssh-rsa key signs as rsa-sha2-*; every other kind is asked for by its own name.
    kinds = {key.get_name() for key in expected}
    wanted = [k for k in options.key_types if k in kinds or ("ssh-rsa" in kinds and "rsa" in k)]
    options.key_types = [*wanted, *(k for k in options.key_types if k not in wanted)]


def known_keys(target: Target) -> Iterator[paramiko.PKey]:
    """Yield the keys that the server may have: the target's own, else those in known_hosts."""
    if target.host_key:
        yield _parse_host_key(target)
        return
    for known in lookup(target.known_hosts, _known_name(target)):
        if not known.marker:
            yield known.key


def _known_name(target: Target) -> str:
    return target.host if target.port == SSH_PORT else f"[{target.host}]:{target.port}"


def _parse_host_key(target: Target) -> paramiko.PKey:
    """Read ``ssh-ed25519 AAAA…``, or the base64 alone: the kind is inside it too."""
    words = target.host_key.split()
    text = next((word for word in words if word.startswith("AAAA")), "")
    try:
        blob = base64.b64decode(text, validate=True)
        kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii")
        return parse_key(kind, text)
    except ValueError as error:
        raise HostKeyError(
            target.url, "the connection's host_key is no key", expected="ssh-ed25519 AAAA…"
        ) from error


def check_host_key(target: Target, expected: list[paramiko.PKey], found: paramiko.PKey) -> None:
    """Refuse a server whose key is not one of those expected, or was revoked.

    Raises:
        HostKeyError: With the fingerprint, and how to accept the key.
    """
    marked = [] if target.host_key else lookup(target.known_hosts, _known_name(target))
    for known in marked:
        if known.marker == "@revoked" and known.key == found:
            raise HostKeyError(
                target.url,
                f"the server's host key is revoked in {known.where}",
                found=fingerprint(found),
                remedy="Do not trust this server before it has another key",
            )
    if any(key == found for key in expected):
        return
    where = f"-p {target.port} {target.host}" if target.port != SSH_PORT else target.host
    file = next(iter(target.known_hosts), "~/.ssh/known_hosts")
    accept = (
        f"Compare that fingerprint with the server's own, then accept the key with "
        f"'ssh-keyscan {where} >> {file}' or put '{found.get_name()} "
        f"{found.get_base64()}' into the Airflow connection's extra as host_key"
    )
    if expected:
        raise HostKeyError(
            target.url,
            "the server's host key has changed: someone may be in between",
            expected=" or ".join(fingerprint(key) for key in expected),
            found=fingerprint(found),
            remedy=f"If the server has a new key: 'ssh-keygen -R {_known_name(target)}'. {accept}",
        )
    problem = "the server's host key is unknown"
    if any(known.marker == "@cert-authority" for known in marked):
        problem += "; there is only an authority for it, and host certificates are not supported"
    raise HostKeyError(target.url, problem, found=fingerprint(found), remedy=accept)


def fingerprint(key: paramiko.PKey) -> str:
    """Return a key's fingerprint as ``ssh-keygen -l`` prints it."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"{key.get_name()} SHA256:{digest}"


def _greet(transport: paramiko.Transport) -> None:
    transport.start_client(timeout=CONNECT_TIMEOUT)
    if not transport.initial_kex_done:  # paramiko returns silently after its time-out
        raise EOFError(f"the server did not answer for {CONNECT_TIMEOUT:.0f} seconds")


def _log_in(transport: paramiko.Transport, target: Target) -> None:
    user = target.user or getpass.getuser()
    ways = [functools.partial(transport.auth_publickey, user, k) for k in _login_keys(target)]
    if target.password:
        ways.append(functools.partial(transport.auth_password, user, target.password))
    for number, way in enumerate(ways):
        try:
            way()
        except paramiko.AuthenticationException as error:
            # Paramiko says the same of a refusal and of a connection that broke or is silent.
            if "timeout" in str(error) or not (number or transport.is_active()):
                raise EOFError("the connection broke during the login") from error
        except paramiko.SSHException as error:
            raise EOFError("the connection broke during the login") from error
        if transport.is_authenticated() or not transport.is_active():
            break
    if not transport.is_authenticated():
        raise LoginError(
            target.url,
            f"the server accepts neither key nor password of user {user!r}",
            remedy="Put the public key into that user's authorized_keys, or correct the password",
        )


def _login_keys(target: Target) -> Iterator[paramiko.PKey]:
    """Yield the keys to try: the one that was named, else those of the agent and of ~/.ssh."""
    if target.private_key or target.key_file:
        yield _load_key(target)
        return
    yield from paramiko.Agent().get_keys()
    for path in existing(DEFAULT_KEYS):
        try:
            yield paramiko.PKey.from_path(path)
        except (ValueError, TypeError, paramiko.SSHException):
            logger.debug("%s: locked or no key; skipped", path)


def _load_key(target: Target) -> paramiko.PKey:
    password = target.password or None
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
            except (paramiko.SSHException, ValueError):
                continue
    except (OSError, ValueError, TypeError, paramiko.SSHException) as error:
        # The text of such an error names the file or the key's form, never the key.
        raise LoginError(target.url, f"the private key cannot be read: {error}") from error
    raise LoginError(target.url, "the private key is in no form that is known")


class Watchdog:
    """Closes a connection that owes an answer for too long.

    Paramiko's own time-outs do not cover a write that the network does not take, so this is the
    one that every wait of a session relies on.
    """

    def __init__(self, transport: paramiko.Transport, limit: float) -> None:
        self.limit = limit
        self.fired = False
        self._transport = transport
        self._since: float | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="sftp-watchdog", daemon=True).start()

    def expect(self, seconds: float | None = None) -> None:
        """Start to wait for an answer, or take note of one while others are outstanding."""
        self._since = time.monotonic() + (seconds or self.limit)

    def rest(self) -> None:
        """Nothing is owed any more."""
        self._since = None

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self.limit / 4)):
            since = self._since
            if since is not None and time.monotonic() > since:
                self.fired = True
                self._transport.close()
                return
