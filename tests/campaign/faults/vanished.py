"""What was there is not, for a while: the images, half of one, what we remember."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from campaign.disturbed import Run, before, run
from campaign.faults.fault import OfPrepare, OfPublish
from campaign.nights import prepare, told
from puavo_repository.mirror.store import FOLDER as STATE
from puavo_repository.remote.journal import FOLDER as JOURNAL
from support.mirrors import tree_of

PADDING = 4096  # bytes at most; an image that lacks some of them is whole


class ImageDirUnmounted(OfPrepare):
    """The disk of the images is not mounted when a night begins, or goes while it runs."""

    again = 2

    def fall(self) -> None:
        super().fall()
        self.mend()

    def strike(self) -> Run:
        self.nights.add()  # there is something to do
        before, images = tree_of(self.nights.mirror), self.nights.repository.images
        aside = images.with_name("aside")
        begun = self.chance.random() < 0.5
        hide = self.chance.choice((self._empty, self._dangling, self._gone, self._links))

        def meanwhile(process: BaseProcess) -> bool:
            time.sleep(self.chance.random() * 0.2)
            running_still = process.is_alive()
            hide(images, aside)
            return running_still

        if begun:
            hide(images, aside)
            done = self.step()
        else:
            done = self.step(meanwhile=meanwhile)
        if images.is_symlink() or not images.is_dir():
            images.unlink(missing_ok=True)
        else:
            shutil.rmtree(images)
        aside.rename(images)
        after = tree_of(self.nights.mirror)
        wrong = [f"Traceback: {p} was lost" for p in before.keys() - after.keys()]
        if begun and done.status == 0:
            wrong.append(f"Traceback: {hide.__name__}: it says that all is well")
        return Run(done.status, begun or done.struck, unexpected=done.unexpected + "".join(wrong))

    def _empty(self, images: Path, aside: Path) -> None:
        images.rename(aside)
        images.mkdir()

    def _dangling(self, images: Path, aside: Path) -> None:
        images.rename(aside)
        images.symlink_to(images.with_name("not mounted"))

    def _gone(self, images: Path, aside: Path) -> None:
        images.rename(aside)

    def _links(self, images: Path, aside: Path) -> None:
        """The folder is there; what its links lead to is not."""
        self._empty(images, aside)
        for path in aside.iterdir():
            (images / path.name).symlink_to(images.with_name("not mounted") / path.name)


class TruncatedNewcomer(OfPrepare):
    """A next image comes in half, and whole in a later night. What clients have, they keep."""

    again = 2

    def fall(self) -> None:
        super().fall()
        self.mend()

    def strike(self) -> Run:
        kept = told(self.nights.mirror)
        image = self.nights.add()
        whole = image.read_bytes()
        os.truncate(image, self.chance.randrange(len(whole) - PADDING))
        done = self.step()
        lost = sorted(path for path, _ in kept - told(self.nights.mirror))
        trace = f"Traceback: a broken image pushed out {lost}" if lost else ""
        if done.status == 0:
            trace += "Traceback: it says that all is well"
        image.write_bytes(whole)
        self.nights.series()[0].unlink()  # no more go in the next night than the guard lets go
        last = self.mend()
        return Run(0, struck=True, unexpected=done.unexpected + trace + last.unexpected)


class StateCleared(OfPublish):
    """An operator removes what we remember of a mirror, or of a remote."""

    def fall(self) -> None:
        """Nothing goes between the night and the clearing.

        Without its id, a mirror has to describe all that is there; and images that nothing says
        are ours stay where they are.
        """
        self.nights.grow()
        before(prepare, self.nights.repository)

    def strike(self) -> Run:
        clear: Callable[[], object] = self.chance.choice((self._mirror, self._journal, self._notes))
        clear()
        if self.chance.random() < 0.5:
            return Run(0, struck=True)
        done = run(prepare, self.nights.repository)
        clear = self.chance.choice((self._mirror, self._journal, self._notes))
        clear()
        last = self.step() if self.nights.mirror.joinpath("CKSUMS").exists() else done
        return Run(0, struck=True, unexpected=done.unexpected + last.unexpected)

    def _mirror(self) -> None:
        shutil.rmtree(self.nights.mirror / STATE, ignore_errors=True)

    def _journal(self) -> None:
        (self.nights.remote / JOURNAL / "journal.json").unlink(missing_ok=True)

    def _notes(self) -> None:
        """All of it but the way back, from which the journal is worked out again."""
        for path in (self.nights.remote / JOURNAL).glob("*.json"):
            path.unlink()

    def mend(self) -> Run:
        done = run(prepare, self.nights.repository)
        return done if done.status else super().mend()
