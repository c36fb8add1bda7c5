"""Calls of the system that fail, here and on the server."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from campaign.disturbed import Injection, Run, injected, why_not_traced
from campaign.faults.broken_off import KillRollback
from campaign.faults.fault import Fault, OfPrepare, OfPublish, OverSftp
from puavo_repository.mirror.store import FOLDER as STATE
from puavo_repository.remote.target import Target
from support.servers import Sshd, running, sftp_server

WRITES = ("write", "pwrite64", "copy_file_range", "mkdir", "link", "linkat", "rename", "renameat")
CHANGES = (*WRITES, "unlink", "unlinkat", "rmdir", "ftruncate", "fsync")
READS = ("read", "pread64", "preadv", "preadv2", "readv", "copy_file_range", "openat")
STRUCTURE = ("mkdir", "link", "rename", "unlink", "rmdir", "ftruncate", "fsync", "utimensat")
LOOKS = ("stat", "lstat", "newfstatat", "statx", "getdents64")
SERVES = ("openat", "lseek", "copy_file_range", "statfs", *LOOKS, *STRUCTURE)


class Injected(Fault):
    """System calls fail: one, or all from there on, of each thread."""

    error = ""
    calls: tuple[str, ...] = ()
    again = 2
    first = 25
    _usual = 0

    @classmethod
    def why_not(cls) -> str:
        return why_not_traced()

    def paths(self) -> tuple[Path, ...]:
        """Return the files that it is restricted to; none for all."""
        return ()

    def strike(self) -> Run:
        when = self.chance.randint(1, self._usual or self.first)
        lasting = "+" if self.chance.random() < 0.6 else ""
        injection = Injection(self.calls, self.error, f"{when}{lasting}", self.paths())
        done = self.step(injection=injection, log=self.log)
        self._usual = max(done.steps, 5) if not done.struck else max(self._usual, done.steps, 5)
        return done


class FullPrepare(Injected, OfPrepare):
    """Indexes make room where nothing else does; then they are made at each use, and not kept."""

    error, calls = "ENOSPC", WRITES

    def strike(self) -> Run:
        done = super().strike()
        if "the indexes make room" in done.said:
            images = self.nights.repository.images.iterdir()
            self.nights.beyond_repair.update(f"anchors/{image.name}" for image in images)
        return done


class FullPublishFolder(Injected, OfPublish):
    error, calls = "ENOSPC", WRITES


class FullMirrorPublish(Injected, OverSftp):
    """The mirror's own disk, where publishing keeps its lock and what it did."""

    error, calls = "ENOSPC", WRITES


class ReadOnlyPrepare(Injected, OfPrepare):
    error, calls = "EROFS", CHANGES


class ReadOnlyPublishFolder(Injected, OfPublish):
    error, calls = "EROFS", CHANGES


class Unreadable(Injected):
    """Reading fails, or even looking at a file."""

    error = "EIO"
    first = 4

    def fall(self) -> None:
        super().fall()
        self.calls = READS if self.chance.random() < 0.7 else READS + LOOKS
        self._usual = 0

    def some(self, *patterns: str) -> tuple[Path, ...]:
        """Return some files and folders of the repository."""
        root = self.nights.repository.root
        found = sorted(path for pattern in patterns for path in root.glob(pattern))
        chosen = self.chance.sample(found, min(len(found), self.chance.randint(1, 8)))
        return (root / "none of all", *chosen)


class EioImages(Unreadable, OfPrepare):
    def paths(self) -> tuple[Path, ...]:
        return self.some("images/*.img", "images")


class EioRdiffs(Unreadable, OfPrepare):
    """Those of the old system are read to be proven."""

    def fall(self) -> None:
        super().fall()
        shutil.rmtree(self.nights.mirror / STATE / "rdiffs", ignore_errors=True)

    def paths(self) -> tuple[Path, ...]:
        return self.some("mirror/rdiffs/*.rdiff", "mirror/rdiffs")


class EioState(Unreadable, OfPrepare):
    def paths(self) -> tuple[Path, ...]:
        state, config = f"mirror/{STATE}", "puavo-os/**"
        return self.some(f"{state}/*", f"{state}/*/*", "mirror/meta*", "mirror/CKSUMS", config)


class EioPublishFolder(Unreadable, OfPublish):
    """Of the mirror and of the remote alike."""

    def paths(self) -> tuple[Path, ...]:
        return self.some("mirror/*", "mirror/*/*", "../remote/*", "../remote/*/*", "../remote/.*/*")


class ServerFails(OverSftp):
    """System calls of the server fail, which says so or goes away."""

    again = 2
    _usual = 100  # calls of a run

    @classmethod
    def why_not(cls) -> str:
        return why_not_traced()

    @contextmanager
    def ready(self) -> Iterator[None]:
        self._script = self.log.with_name("sftp")
        self._serve()
        with running(Sshd(self.log.parent / "sshd", sftp=f"/bin/sh {self._script}")) as self.server:
            yield

    def _serve(self, *tracer: str) -> None:
        self._script.write_text(f"exec {' '.join((*tracer, sftp_server()))}\n")

    def strike(self) -> Run:
        error = self.chance.choice(("EIO", "EACCES", "ENOSPC", "EROFS"))
        lasting = "+" if self.chance.random() < 0.4 else ""
        when = f"{self.chance.randint(1, self._usual)}{lasting}"
        injection = Injection(SERVES, error, when)
        self._serve(shlex.join(injection.command()), f"-o {self.log}.$$")
        done = self.step()
        self._serve()
        logs = list(self.log.parent.glob(f"{self.log.name}.*"))
        struck, calls = injected(*logs)
        for log in logs:
            log.unlink()
        self._usual = max(10, calls) if not struck else max(self._usual, calls)
        return Run(done.status, struck, calls, done.unexpected)


class ServerFailsRollback(ServerFails, KillRollback):
    """The same in a rollback."""


class FullRemote(OverSftp):
    """The server's disk is a small one, and something else fills it."""

    again = 2

    @classmethod
    def why_not(cls) -> str:
        return "" if os.geteuid() == 0 else "only root can look into the server's own small disk"

    @contextmanager
    def ready(self) -> Iterator[None]:
        disk = self.log.parent / "disk"
        disk.mkdir()
        server = Sshd(self.log.parent / "sshd", full_disk=disk, disk_size="8m")
        with running(server) as self.server:
            assert server.process
            self.disk = Path(f"/proc/{server.process.pid}/root{disk}")
            # Clients see the server's disk, which is mounted for the server alone.
            self.nights.remote.rmdir()
            self.nights.remote.symlink_to(self.disk / "remote")
            (self.disk / "remote").mkdir()
            self.nights.audited = self.target
            yield
            with self.watch.closed():
                self.nights.remote.unlink()
                self.nights.remote.mkdir()

    @property
    def target(self) -> Target:
        return self.server.target(self.log.parent / "disk" / "remote")

    def strike(self) -> Run:
        space = os.statvfs(self.disk)
        ballast = space.f_bavail * space.f_frsize - self.chance.randrange(250_000)
        (self.disk / "ballast").write_bytes(bytes(max(0, ballast)))
        done = self.step()
        (self.disk / "ballast").unlink()
        return Run(done.status, done.status != 0, unexpected=done.unexpected)
