"""The faults of the campaign: what is done to a repository, and what mends it.

Each is a class with the same three steps. ``strike`` lets it happen, ``mend`` runs again as the
next night would, and ``trees`` must then be as if nothing had happened.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

from disturbed import Clock, Injection, Kill, Run, injected, run, why_not_traced
from mirrors import tree_of, walk
from nights import AT_ONCE, KEPT, Nights, Watch, prepare, publish, publish_after_all, step_back
from puavo_repository.stages.prune import Cleaning
from puavo_repository.storage.generations import FOLDER as JOURNAL
from puavo_repository.storage.mirror import Mirror
from puavo_repository.storage.state import FOLDER as STATE
from puavo_repository.storage.target import Target
from servers import Proxy, Sshd, running, sftp_server

YEAR = 365 * 24 * 3600.0  # seconds
WRITES = ("write", "pwrite64", "copy_file_range", "mkdir", "link", "linkat", "rename", "renameat")
CHANGES = (*WRITES, "unlink", "unlinkat", "rmdir", "ftruncate", "fsync")
READS = ("read", "pread64", "preadv", "preadv2", "readv", "copy_file_range", "openat")
STRUCTURE = ("mkdir", "link", "rename", "unlink", "rmdir", "ftruncate", "fsync", "utimensat")
LOOKS = ("stat", "lstat", "newfstatat", "statx", "getdents64")
SERVES = ("openat", "lseek", "copy_file_range", "statfs", *LOOKS, *STRUCTURE)
GRACE = Cleaning(grace=3 * 24 * 3600.0, share=1.0, pause=0.0)
CLIENTS = Cleaning(grace=2.0, share=1.0, pause=0.5)  # a walk takes a small part of either


class Fault:
    """One kind of fault.

    Attributes:
        why_not: Why this machine cannot do it; empty where it can.
        patient: As ``Watch`` has it.
        again: How many faults at most before it is mended.
    """

    patient = False
    again = 3

    def __init__(self, nights: Nights, watch: Watch, home: Path) -> None:
        self.nights = nights
        self.watch = watch
        self.chance = nights.chance
        self.log = home / "strace.log"

    @classmethod
    def why_not(cls) -> str:
        return ""

    @property
    def trees(self) -> list[Path]:
        return [self.nights.mirror]

    @property
    def step(self) -> Callable[..., Run]:
        """The run that is disturbed; takes the keywords of ``run``."""
        raise NotImplementedError

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Have what the fault needs for as long as the campaign of it lasts."""
        yield

    def looking(self) -> AbstractContextManager[None]:
        """Have the watch closed from the strike to the mending, where the tree itself is broken."""
        return nullcontext()

    def fall(self) -> None:
        """Let the night fall that the fault happens in."""
        self.nights.fall()

    def strike(self) -> Run:
        """Let it happen once."""
        raise NotImplementedError

    def mend(self) -> Run:
        """Run again, undisturbed."""
        return run(prepare, self.nights.repository)


class OfPrepare(Fault):
    """Happens while the mirror is prepared."""

    @property
    def step(self) -> Callable[..., Run]:
        return partial(run, prepare, self.nights.repository)


class OfPublish(Fault):
    """Happens while a mirror that is prepared is published into a folder."""

    cleaning = AT_ONCE

    @property
    def trees(self) -> list[Path]:
        return [self.nights.mirror, self.nights.remote]

    @property
    def target(self) -> Target:
        return Target(path=str(self.nights.remote))

    @property
    def step(self) -> Callable[..., Run]:
        return partial(run, publish, self.nights.mirror, self.target, self.cleaning)

    def fall(self) -> None:
        super().fall()
        run(prepare, self.nights.repository)

    def mend(self) -> Run:
        return run(publish, self.nights.mirror, self.target)


class OverSftp(OfPublish):
    """The same over a real ``sshd``."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        with running(Sshd(self.log.parent / "sshd")) as self.server:
            yield

    @property
    def target(self) -> Target:
        return self.server.target(self.nights.remote)


class Killed(Fault):
    """Killed at a random step."""

    _usual = 60  # steps of a run

    def strike(self) -> Run:
        done = self.step(disturbance=Kill(self.chance.randint(1, self._usual)))
        if done.steps:
            self._usual = max(10, done.steps)
        return done


class KillPrepare(Killed, OfPrepare):
    """A first night, of which nothing was there before, or a next one."""

    def fall(self) -> None:
        super().fall()
        if self.chance.random() < 0.3:
            with self.watch.closed():
                shutil.rmtree(self.nights.mirror, ignore_errors=True)


class KillPublishFolder(Killed, OfPublish):
    """Killed at a random step of publishing into a folder."""


class KillRollback(Killed, OfPublish):
    """Killed at a random step of a step back from a night that was published whole."""

    def fall(self) -> None:
        """Nothing comes under another's name: what was replaced cannot be put back."""
        self._token = f"{self.chance.randrange(1 << 30)}"
        for _ in range(1 if self.nights.remote.joinpath("CKSUMS").exists() else 2):
            self._before = Mirror(self.nights.remote).contents()
            self.nights.add()
            for old in self.nights.series()[:-KEPT]:
                old.unlink()
            run(prepare, self.nights.repository)
            run(publish, self.nights.mirror, self.target, GRACE)

    @property
    def step(self) -> Callable[..., Run]:
        return partial(run, step_back, self.nights.mirror, self.target, self._token)

    def mend(self) -> Run:
        """Step back in the end; then the night was good after all."""
        done = self.step()
        if Mirror(self.nights.remote).contents() != self._before:
            return Run(1, said="not what clients saw before")
        with self.watch.closed():
            last = run(publish_after_all, self.nights.mirror, self.target)
        return done if done.status else last


class KillPublish(OverSftp):
    """Killed when a random number of bytes has left it."""

    patient = True
    cleaning = CLIENTS
    _usual = 200_000  # bytes of a run

    @contextmanager
    def ready(self) -> Iterator[None]:
        with super().ready(), Proxy(self.server.port) as self.proxy:
            yield

    @property
    def target(self) -> Target:
        return self.server.target(self.nights.remote, self.proxy.port)

    def strike(self) -> Run:
        begin = self.proxy.sent

        def meanwhile(process: BaseProcess) -> bool:
            self.proxy.sprung = process.kill
            self.proxy.trap = begin + self.chance.randrange(self._usual)
            return False

        done = self.step(meanwhile=meanwhile)
        self.proxy.heal()
        if done.status == 0:
            self._usual = max(20_000, self.proxy.sent - begin)
        return Run(done.status, done.status == -9, done.steps, done.unexpected)

    def mend(self) -> Run:
        done = self.step()
        # What clients may still be reading goes as well, and with it any difference.
        with self.watch.closed():
            last = super().mend()
        return done if done.status else last


class CutPublish(KillPublish):
    """The connection breaks when a random number of bytes went through it."""

    def strike(self) -> Run:
        begin = self.proxy.sent
        self.proxy.cut_after = begin + self.chance.randrange(self._usual)
        done = self.step()
        cut = self.proxy.cut_after is None
        self.proxy.heal()
        if not cut:
            self._usual = max(20_000, self.proxy.sent - begin)
        return Run(done.status, cut, unexpected=done.unexpected)


class Together(OverSftp):
    """Two publish at once while a third prepares, as a nightly run and somebody by hand would."""

    again = 1

    def fall(self) -> None:
        self.nights.fall()
        if self.chance.random() < 0.5:
            run(prepare, self.nights.repository)

    def strike(self) -> Run:
        steps = [self.step, self.step, partial(run, prepare, self.nights.repository)]
        delays = [self.chance.random() * 0.3 for _ in steps]
        kills = [Kill(self.chance.randint(5, 80)) for _ in steps]
        fates = [kill if self.chance.random() < 0.2 else None for kill in kills]

        def go(step: Callable[..., Run], delay: float, fate: Kill | None) -> Run:
            time.sleep(delay)
            return step(disturbance=fate)

        with ThreadPoolExecutor(len(steps)) as pool:
            done = list(pool.map(go, steps, delays, fates))
        return Run(0, struck=True, unexpected="".join(each.unexpected for each in done))

    def mend(self) -> Run:
        """Run again when the lock of whoever was killed has ended."""
        for lock in self.nights.remote.glob(f"{JOURNAL}/publisher.lock"):
            os.utime(lock, (0, time.time() - 16 * 60))
        done = run(prepare, self.nights.repository)
        return done if done.status else super().mend()


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
    error, calls = "ENOSPC", WRITES


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
    """The same in a step back."""


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


def damage(path: Path, chance: random.Random) -> None:
    """Cut a file short, empty it, or turn over one bit of it; never within a clock's tick."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    kind = chance.randrange(4)
    if kind == 0:
        content = content[: chance.randrange(len(content) or 1)]
    elif kind == 1:
        content.clear()
    elif content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    os.utime(path, (before.st_atime, before.st_mtime + chance.randrange(2, 1000)))


class Damaged(Fault):
    """A file of ours is not what we wrote."""

    patterns: tuple[str, ...] = ()

    def candidates(self) -> list[Path]:
        root = self.trees[-1]
        return [p for pattern in self.patterns for p in sorted(root.glob(pattern)) if p.is_file()]

    def strike(self) -> Run:
        found = self.candidates()
        if found:
            damage(self.chance.choice(found), self.chance)
        return Run(0, struck=bool(found))


class DamagedImages(Damaged, OfPrepare):
    patterns = (f"{STATE}/images/*.json",)


class DamagedRdiffs(Damaged, OfPrepare):
    patterns = (f"{STATE}/rdiffs/*.json",)


class DamagedAnchors(Damaged, OfPrepare):
    """A match that is missed makes another rdiff than the undisturbed one."""

    patterns = (f"{STATE}/anchors/*",)


class DamagedFailures(Damaged, OfPrepare):
    """They are there while an image is bad."""

    patterns = (f"{STATE}/failures/*.json",)

    def strike(self) -> Run:
        image = self.nights.add()
        whole = image.read_bytes()
        image.write_bytes(whole[:5000])
        bad = self.step()
        done = super().strike()
        image.unlink()
        return Run(0, done.struck and bad.status == 1, unexpected=bad.unexpected)


class DamagedLocks(Damaged, OfPrepare):
    """With what a run leaves in them that is killed."""

    patterns = (f"{STATE}/lock", f"{STATE}/metadata.lock")

    def strike(self) -> Run:
        self.step(disturbance=Kill(self.chance.randint(2, 40)))
        return super().strike()


class DamagedMetadata(Damaged, OfPrepare):
    patterns = ("meta/*.json", "CKSUMS")

    def looking(self) -> AbstractContextManager[None]:
        return self.watch.closed()


class DamagedDescription(Damaged, OfPrepare):
    """The record that tells which bytes metadata was given."""

    patterns = (f"{STATE}/description.json",)


class OfRemote(Damaged, OfPublish):
    """There is a remote, and the next night is about to be published."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        OfPublish.fall(self)
        self.mend()
        yield

    def fall(self) -> None:
        """In some nights there is nothing new, and what is damaged must be seen all the same."""
        if self.chance.random() < 0.7:
            super().fall()


class DamagedRemotes(OfRemote):
    """What the mirror keeps of its remotes."""

    def candidates(self) -> list[Path]:
        return sorted((self.nights.mirror / STATE / "remotes").glob("*"))


class DamagedJournal(OfRemote):
    patterns = (f"{JOURNAL}/journal.json",)


class DamagedGenerations(OfRemote):
    patterns = (f"{JOURNAL}/generations/*.json",)


class DamagedRemoteMetadata(OfRemote):
    patterns = ("meta/*.json", "CKSUMS")

    def looking(self) -> AbstractContextManager[None]:
        return self.watch.closed()


class DamagedBeforePublish(OfRemote):
    """Of the mirror, between a night and its publishing: it must not reach the remote."""

    def fall(self) -> None:
        OfPublish.fall(self)
        self._good = [Mirror(tree).contents() for tree in self.trees]

    def candidates(self) -> list[Path]:
        return [self.nights.mirror / path for path in self._good[0]]

    def looking(self) -> AbstractContextManager[None]:
        return self.watch.closed()  # to the mirror; the remote is looked at below

    def strike(self) -> Run:
        damaged, done = super().strike(), self.step()
        found = Mirror(self.nights.remote).contents()
        lies = [path for path in found if found[path] not in [x.get(path) for x in self._good]]
        wrong = [*(f"{path} is damaged" for path in lies), *walk(self.nights.remote)]
        trace = f"Traceback: published: {wrong}" if wrong else ""
        return Run(done.status, damaged.struck, unexpected=done.unexpected + trace)

    def mend(self) -> Run:
        run(prepare, self.nights.repository)
        return super().mend()


class DamagedPublisherLock(OfRemote):
    """Of a publisher that was killed: it must not keep others out longer than agreed on."""

    patterns = (f"{JOURNAL}/publisher.lock",)

    def strike(self) -> Run:
        killed = self.step(disturbance=Kill(self.chance.randint(10, 60)))
        done = super().strike()
        for lock in self.candidates():
            next_one = self.step()
            assert next_one.status in {0, 1}, next_one
            if lock.exists():
                os.utime(lock, (0, time.time() - 16 * 60))
            return Run(0, done.struck, unexpected=killed.unexpected + next_one.unexpected)
        return done


class ChangedImage(OfPrepare):
    """An image changes under its name while it is read, or about to be."""

    def looking(self) -> AbstractContextManager[None]:
        return self.watch.closed()  # what is written into an image, is so in the mirror

    def strike(self) -> Run:
        image = self.chance.choice(self.nights.series())
        changes = (self._renamed, self._overwritten, self._truncated, Path.unlink)
        change = self.chance.choice(changes)

        def meanwhile(process: BaseProcess) -> bool:
            time.sleep(self.chance.random() * 0.15)
            running_still = process.is_alive()
            change(image)
            return running_still

        done = self.step(meanwhile=meanwhile)
        if image.exists() and change == self._truncated:
            self.nights.replace(image.name)  # copied again, whole
        return done

    def _renamed(self, image: Path) -> None:
        self.nights.replace(image.name)

    def _overwritten(self, image: Path) -> None:
        other = self.nights.replace(image.name).read_bytes()
        with image.open("r+b") as stream:
            stream.write(other[::-1])
        with image.open("r+b") as stream:
            stream.write(other)
            stream.truncate()

    def _truncated(self, image: Path) -> None:
        os.truncate(image, self.chance.randrange(image.stat().st_size))


def jumps(chance: random.Random) -> Clock:
    """Return a clock that is years off, and jumps by years within the run."""
    first, then = (chance.choice((-9, -1, 0, 1, 9)) * YEAR for _ in range(2))
    return Clock(first, then, chance.randrange(6))


class ClockPrepare(OfPrepare):
    def strike(self) -> Run:
        return self.step(disturbance=jumps(self.chance))


class ClockPublish(OfRemote):
    """Nothing is pruned before its grace, and no lock stays for ever."""

    cleaning = GRACE

    def fall(self) -> None:
        OfPublish.fall(self)  # where nothing is new, nobody asks for the lock

    def strike(self) -> Run:
        kept = {p for p in tree_of(self.nights.remote) if not p.startswith("meta/")}
        if self.chance.random() < 0.4:
            self._leave_a_lock()
        done = self.step(disturbance=jumps(self.chance))
        gone = kept - tree_of(self.nights.remote).keys()
        early = f"Traceback: pruned before its grace: {sorted(gone)}" if gone else ""
        locked = "" if done.status == 0 else f"Traceback: it ended with {done.status}"
        return Run(done.status, done.struck, 0, done.unexpected + early + locked)

    def _leave_a_lock(self) -> None:
        """Leave the lock of another machine, from before the server's clock was put right."""
        lock = self.nights.remote / JOURNAL / "publisher.lock"
        holder = {"token": "x", "host": "h", "machine": "m", "process": 1, "started": "1"}
        lock.write_text(json.dumps(holder))
        moment = time.time() + self.chance.choice((-1, -9, 1, 9)) * YEAR
        os.utime(lock, (moment, moment))


FAULTS: dict[str, type[Fault]] = {
    "kill-prepare": KillPrepare,
    "kill-publish": KillPublish,
    "kill-publish-folder": KillPublishFolder,
    "kill-rollback": KillRollback,
    "cut-publish": CutPublish,
    "together": Together,
    "full-prepare": FullPrepare,
    "full-publish-folder": FullPublishFolder,
    "server-fails-publish": ServerFails,
    "server-fails-rollback": ServerFailsRollback,
    "full-publish-remote": FullRemote,
    "full-publish-mirror": FullMirrorPublish,
    "read-only-prepare": ReadOnlyPrepare,
    "read-only-publish-folder": ReadOnlyPublishFolder,
    "eio-images": EioImages,
    "eio-rdiffs": EioRdiffs,
    "eio-state": EioState,
    "eio-publish-folder": EioPublishFolder,
    "damaged-image-records": DamagedImages,
    "damaged-rdiff-records": DamagedRdiffs,
    "damaged-failures": DamagedFailures,
    "damaged-anchors": DamagedAnchors,
    "damaged-description": DamagedDescription,
    "damaged-before-publish": DamagedBeforePublish,
    "damaged-remotes": DamagedRemotes,
    "damaged-locks": DamagedLocks,
    "damaged-metadata": DamagedMetadata,
    "damaged-remote-journal": DamagedJournal,
    "damaged-remote-generations": DamagedGenerations,
    "damaged-remote-metadata": DamagedRemoteMetadata,
    "damaged-remote-lock": DamagedPublisherLock,
    "changed-image": ChangedImage,
    "clock-prepare": ClockPrepare,
    "clock-publish": ClockPublish,
}
