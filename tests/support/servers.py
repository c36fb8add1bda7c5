"""Real servers for tests: an OpenSSH server with its own keys, and a proxy that misbehaves."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from puavo_repository.remote.lock import Holder
from puavo_repository.remote.target import Target


def elsewhere(token: str) -> Holder:
    """Return a publisher on another machine."""
    return Holder(token, token, "another machine", 7, "")


def tool(name: str) -> str:
    """Return where a tool is; the set-up installs all of them, so a missing one is a failure."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert found, f"{name} is missing: run the set-up"
    return found


def sftp_server() -> str:
    """Return the path of OpenSSH's server for SFTP, which is a command of its own."""
    folders = ("/usr/lib/openssh", "/usr/libexec/openssh")
    return next(path for folder in folders if Path(path := f"{folder}/sftp-server").exists())


def free_port() -> int:
    """Return a port that nobody else gets: below those that the system hands out by itself, and
    in a range of this worker of pytest-xdist.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 6
    for port in random.sample(range(20_000 + 2_000 * worker, 22_000 + 2_000 * worker), 2_000):
        with contextlib.suppress(OSError), socket.socket() as plug:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            plug.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended at once"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}")


def make_key(path: Path) -> Path:
    command = [tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


@dataclass
class Sshd:
    """An ``sshd`` on loopback; ``sftp`` is the command that serves, with its options."""

    home: Path
    sftp: str = "internal-sftp"
    full_disk: Path | None = None  # a folder that is a file system of `disk_size` for the server
    disk_size: str = "24m"
    subsystem: str = "sftp"
    more: str = ""  # further lines of its configuration
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def client_key(self) -> Path:
        return self.home / "client_key"

    @property
    def host_key(self) -> str:
        return " ".join((self.home / "host_key.pub").read_text().split()[:2])

    def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        for key in (self.home / "host_key", self.client_key):
            if not key.exists():
                make_key(key)
        shutil.copy(self.client_key.with_suffix(".pub"), self.home / "authorized_keys")
        config = self.home / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.home}/host_key\n"
            f"AuthorizedKeysFile {self.home}/authorized_keys\nPidFile none\nStrictModes no\n"
            f"UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"PermitRootLogin prohibit-password\nMaxStartups 100\n"
            f"Subsystem {self.subsystem} {self.sftp}\n{self.more}\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where sshd confines its unprivileged half
        command = [tool("sshd"), "-D", "-e", "-f", str(config)]
        if self.full_disk:
            # In a chroot, "/" is no mount that could be made private: what is mounted there may
            # show outside as well.
            mount = (
                "mount --make-rprivate / 2>/dev/null; "
                f"mount -t tmpfs -o size={self.disk_size},mode=777 none '{self.full_disk}'"
            )
            apart = [tool("unshare"), *(["-m"] if os.geteuid() == 0 else ["-cm", "--keep-caps"])]
            apart += ["--propagation", "unchanged"]
            if os.geteuid() and subprocess.run([*apart, "true"], check=False).returncode:
                pytest.skip("neither root nor user namespaces: there is no small disk to be had")
            command = [*apart, "sh", "-c", f"{mount} && exec {' '.join(command)}"]
        with (self.home / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for_port(self.port, self.process)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(10)
        if self.full_disk and self.full_disk.is_mount():
            subprocess.run([tool("umount"), self.full_disk], check=True)

    def target(self, path: Path | str, port: int | None = None) -> Target:
        return Target(
            path=str(path),
            host="127.0.0.1",
            port=port or self.port,
            key_file=str(self.client_key),
            host_key=self.host_key,
        )


@contextlib.contextmanager
def running(server: Sshd) -> Iterator[Sshd]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Proxy:
    """A TCP proxy to a local port that delays, counts, cuts, stalls or corrupts.

    Attributes:
        delay: Seconds each byte is on its way, one direction; a round trip takes twice that.
        cut_after: Bytes from all clients after which the connection that sends is cut, once.
        trap: Bytes from all clients after which ``sprung`` is called, once.
        stall_after: Bytes from the client after which nothing moves any more.
        corrupt_at: Position in the bytes from the client at which one bit is turned over, once.
        sent: Bytes that clients sent.
    """

    def __init__(self, port: int, delay: float = 0.0) -> None:
        self.delay = delay
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.corrupt_at: int | None = None
        self.trap: int | None = None
        self.sprung: Callable[[], object] = lambda: None
        self.sent = 0
        self.received = 0
        self.connections = 0
        self._to = port
        self._lock = threading.Lock()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            block_on_close = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()  # who waits for it goes on
        self._server.shutdown()
        self._server.server_close()

    def heal(self) -> None:
        self.cut_after = self.stall_after = self.corrupt_at = self.trap = None

    def _serve(self, client: socket.socket) -> None:
        self.connections += 1
        with socket.create_connection(("127.0.0.1", self._to)) as server:
            for plug in (client, server):
                plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threads = [
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True),
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        """Move bytes one way; with a delay, a second thread hands them out when it is time."""
        line: list[tuple[float, bytes]] = []
        ready = threading.Condition()
        sender = threading.Thread(target=self._deliver, args=(line, ready, sink), daemon=True)
        sender.start()
        try:
            while data := source.recv(1 << 18):
                data = self._meddle(data, source, sink) if up else data
                with ready:
                    while len(line) > 4096:
                        ready.wait()
                    line.append((time.monotonic() + self.delay, data))
                    ready.notify_all()
                if not up:
                    self.received += len(data)
        except OSError:
            pass
        with ready:
            line.append((time.monotonic() + self.delay, b""))
            ready.notify_all()
        sender.join()

    def _deliver(
        self, line: list[tuple[float, bytes]], ready: threading.Condition, sink: socket.socket
    ) -> None:
        while True:
            with ready:
                while not line:
                    ready.wait()
                when, data = line.pop(0)
                ready.notify_all()
            wait = when - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                if not data:
                    return

    def _meddle(self, data: bytes, source: socket.socket, sink: socket.socket) -> bytes:
        with self._lock:
            begin, self.sent = self.sent, self.sent + len(data)
        if self.corrupt_at is not None and begin <= self.corrupt_at < begin + len(data):
            at = self.corrupt_at - begin
            self.corrupt_at = None
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        if self.stall_after is not None and begin + len(data) > self.stall_after:
            while self.stall_after is not None:
                time.sleep(0.05)
        if self.trap is not None and begin + len(data) > self.trap:
            self.trap = None
            self.sprung()
        if self.cut_after is not None and begin + len(data) > self.cut_after:
            self.cut_after = None
            for plug in (source, sink):
                with contextlib.suppress(OSError):
                    plug.shutdown(socket.SHUT_RDWR)
            raise OSError("cut")
        return data


HIDDEN = r"location ~ /\. { deny all; }"


def make_certificate(path: Path, key_path: Path, host: str, days: float) -> None:
    """Make a certificate that is its own authority, valid for so many days more."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=30))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@dataclass
class HttpsServer:
    """A real nginx that serves a folder over https, as the server of a repository does."""

    home: Path
    root: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    host: str = "localhost"  # that the certificate is for
    days: float = 90  # that the certificate is still valid
    more: str = ""  # directives of the server

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def certificate(self) -> Path:
        return self.home / "certificate.pem"

    def __enter__(self) -> HttpsServer:
        self.home.mkdir(parents=True, exist_ok=True)
        key = self.home / "key.pem"
        make_certificate(self.certificate, key, self.host, self.days)
        config = self.home / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            f"{user} daemon off; worker_processes 1; pid {self.home}/pid;\n"
            f"error_log {self.home}/error.log;\n"
            "events {}\n"
            f"http {{ access_log off; client_body_temp_path {self.home}/body;\n"
            + "".join(
                f"{n}_temp_path {self.home}/{n};" for n in ("proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"\nserver {{ listen 127.0.0.1:{self.port} ssl; server_name localhost;\n"
            f"ssl_certificate {self.certificate}; ssl_certificate_key {key};\n"
            f"root '{self.root}'; {self.more or HIDDEN} }} }}\n"
        )
        command = [tool("nginx"), "-e", str(self.home / "error.log"), "-c", str(config)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for_port(self.port, self.process)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(10)
