"""An SSH connection set up for moving gigabytes, and refused unless the host key is known.

Paramiko's transport, with what its own client does not do: AES-GCM first among the ciphers
(no separate MAC; 1.5 times the throughput of the default), no compression (squashfs images are
compressed), ``TCP_NODELAY``, keep-alive, and a watchdog, because paramiko retries a blocked
write for ever: a silent server must not hold a task for days.
"""

from __future__ import annotations

import base64
import contextlib
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
from puavo_repository.remote.sftp.known_hosts import KnownKey, lookup, parse_key
from puavo_repository.remote.target import SSH_PORT, Target

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

    A compressed one is for many small requests that are much alike; images do not shrink.

    Raises:
        ConnectionLostError: The server cannot be reached or does not answer in time.
        HostKeyError: Its key is unknown or another than the known one.
        LoginError: It accepts neither key nor password.
    """
    known = known_keys(target)
    try:
        with contextlib.ExitStack() as failed:
            sock = socket.create_connection((target.host, target.port), CONNECT_TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = paramiko.Transport(sock)
            failed.callback(transport.close)
            transport.use_compression(compressed)
            _greet(transport, known)
            _check_host_key(target, known, transport.get_remote_server_key())
            _log_in(transport, target)
            transport.set_keepalive(KEEPALIVE)
            failed.pop_all()
            return transport
    except (OSError, EOFError, paramiko.SSHException) as error:
        problem = str(error) or "the connection was lost"
        remedy = "Run again when the server answers at this address"
        raise ConnectionLostError(target.url, problem, remedy=remedy) from error


def known_keys(target: Target) -> list[KnownKey]:
    """Return what is known of the server's keys: the target's own, else from known_hosts."""
    if not target.host_key:
        return lookup(target.known_hosts, _known_name(target))
    # ``ssh-ed25519 AAAA…``, or the base64 alone: the kind is inside it too.
    text = next((word for word in target.host_key.split() if word.startswith("AAAA")), "")
    try:
        blob = base64.b64decode(text, validate=True)
        kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii")
        return [KnownKey(parse_key(kind, text), "", "the connection")]
    except ValueError as error:
        problem = "the connection's host_key is no key"
        raise HostKeyError(target.url, problem, expected="ssh-ed25519 AAAA…") from error


def _known_name(target: Target) -> str:
    return target.host if target.port == SSH_PORT else f"[{target.host}]:{target.port}"


def _greet(transport: paramiko.Transport, known: list[KnownKey]) -> None:
    """Agree on fast ciphers if possible, and on a kind of host key that can be checked."""
    options = transport.get_security_options()
    options.ciphers = [*CIPHERS, *(c for c in options.ciphers if c not in CIPHERS)]
    transport.banner_timeout = transport.auth_timeout = CONNECT_TIMEOUT
    # An ssh-rsa key signs as rsa-sha2-*; every other kind is asked for by its own name.
    kinds = {one.key.get_name() for one in known if not one.marker}
    wanted = [k for k in options.key_types if k in kinds or ("ssh-rsa" in kinds and "rsa" in k)]
    options.key_types = [*wanted, *(k for k in options.key_types if k not in wanted)]
    transport.start_client(timeout=CONNECT_TIMEOUT)
    if not transport.initial_kex_done:  # paramiko returns silently after its time-out
        raise EOFError(f"the server did not answer for {CONNECT_TIMEOUT:.0f} seconds")


def _check_host_key(target: Target, known: list[KnownKey], found: paramiko.PKey) -> None:
    """Refuse a server whose key is not a known one, or was revoked."""
    refusal = functools.partial(HostKeyError, target.url, found=fingerprint(found))
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
            expected=" or ".join(fingerprint(key) for key in expected),
            remedy=f"If the server has a new key: 'ssh-keygen -R {_known_name(target)}'. {accept}",
        )
    problem = "the server's host key is unknown"
    if any(one.marker == "@cert-authority" for one in known):
        problem += "; there is only an authority for it, and host certificates are not supported"
    raise refusal(problem, remedy=accept)


def fingerprint(key: paramiko.PKey) -> str:
    """Return a key's fingerprint as ``ssh-keygen -l`` prints it."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"{key.get_name()} SHA256:{digest}"


def _log_in(transport: paramiko.Transport, target: Target) -> None:
    user = target.user or getpass.getuser()
    methods = [functools.partial(transport.auth_publickey, user, k) for k in _login_keys(target)]
    if target.password:
        methods.append(functools.partial(transport.auth_password, user, target.password))
    for number, method in enumerate(methods):
        try:
            method()
        except paramiko.AuthenticationException as error:
            # Paramiko says the same of a refusal and of a connection that broke or is silent.
            if "timeout" in str(error) or not (number or transport.is_active()):
                raise EOFError("the connection broke during the login") from error
        except paramiko.SSHException as error:
            raise EOFError("the connection broke during the login") from error
        if transport.is_authenticated() or not transport.is_active():
            break
    if not transport.is_authenticated():
        problem = f"the server accepts neither key nor password of user {user!r}"
        remedy = "Put the public key into that user's authorized_keys, or correct the password"
        raise LoginError(target.url, problem, remedy=remedy)


def _login_keys(target: Target) -> Iterator[paramiko.PKey]:
    """Yield the keys to try: the one that was named, else those of the agent and of ~/.ssh."""
    if target.private_key or target.key_file:
        yield _load_key(target)
        return
    yield from paramiko.Agent().get_keys()
    for path in DEFAULT_KEYS:
        try:
            yield paramiko.PKey.from_path(path)
        except (OSError, RuntimeError, ValueError, TypeError, paramiko.SSHException):
            logger.debug("%s: missing, locked or no key; skipped", path)


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
    one that every wait of a session relies on. An answer that is known to take longer than the
    limit may, as long as the server's SSH side answers meanwhile: then its disk is slow, and the
    line is alive.
    """

    def __init__(self, transport: paramiko.Transport, limit: float) -> None:
        self.limit = limit  # seconds that an answer may take
        self.fired = False
        self._transport = transport
        self._owed: tuple[float, float] | None = None  # since when, and for how many seconds
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="sftp-watchdog", daemon=True).start()

    def expect(self, patience: float | None = None) -> None:
        """Wait for an answer, or for the next one: so many seconds, if more than usual."""
        self._owed = time.monotonic(), patience or self.limit

    def rest(self) -> None:
        """Nothing is owed any more."""
        self._owed = None

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self.limit / 4)):
            owed = self._owed
            if owed is not None and self._is_overdue(*owed) and owed is self._owed:
                self.fired = True
                self._transport.close()
                return

    def _is_overdue(self, since: float, patience: float) -> bool:
        waited = time.monotonic() - since
        return waited > patience or (waited > self.limit and not self._line_is_alive())

    def _line_is_alive(self) -> bool:
        """Say whether the server's SSH answers; a request that nobody knows is refused."""
        answered = threading.Event()

        def ask() -> None:
            with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
                self._transport.global_request("keepalive@openssh.com", wait=True)
                if self._transport.is_active():
                    answered.set()

        threading.Thread(target=ask, name="sftp-keepalive", daemon=True).start()
        return answered.wait(self.limit)
