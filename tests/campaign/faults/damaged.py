"""Files of ours that are not what we wrote."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from campaign.disturbed import Kill, Run, before
from campaign.faults.fault import Fault, OfPrepare, OfPublish
from campaign.nights import prepare
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.store import FOLDER as STATE
from puavo_repository.remote.journal import FOLDER as JOURNAL
from support.mirrors import walk


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
            self.hit(self.chance.choice(found))
        return Run(0, struck=bool(found))

    def hit(self, path: Path) -> None:
        damage(path, self.chance)


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
    """What they tell is lost: no rollback leads beyond it, and the audit says which."""

    patterns = (f"{JOURNAL}/generations/*.json",)

    def hit(self, path: Path) -> None:
        super().hit(path)
        self.nights.beyond_repair.add(str(path.relative_to(self.nights.remote)))


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
        before(prepare, self.nights.repository)
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
