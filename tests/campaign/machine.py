"""A repository, its remote, and everybody who has to do with them, in any order.

    PYTHONPATH=include:tests python -m campaign.machine [--examples N] [--steps N] [--seed S]

Nights, rollbacks, audits, faults and the hands of others follow each other as Hypothesis has it.
The oracle knows only what clients, operators and others rely on:

- what the published metadata names is there, with the right digests, after each single change of
  a name that clients see, but for files that somebody else harmed;
- what a rollback took does not come back until that is allowed;
- what others put there stays as it is;
- a run that has nothing in its way leaves on the remote what the mirror has, and in the mirror
  what one has that nothing ever disturbed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from campaign.disturbed import Kill, run
from campaign.faults.fault import GRACE
from campaign.nights import AT_ONCE, KEPT, Nights, differences, prepare, publish, step_back, told
from campaign.terminal import show, until_ended
from puavo_repository.audit.local import local
from puavo_repository.audit.report import Severity
from puavo_repository.errors import RepositoryError
from puavo_repository.publish import upload
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.run import publish_all
from puavo_repository.remote import journal
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.journal import FOLDER as JOURNAL
from puavo_repository.remote.target import Target
from puavo_repository.rollback.rollback import roll_back
from puavo_repository.settings.model import Model
from support.mirrors import tree_of, walk

PADDING = 4096  # bytes at most; an image that lacks some of them is whole
LATER = 100  # seconds; what others write has another time than what we wrote
steps, places = st.integers(1, 120), st.integers(0, 9)


class Repositories(RuleBasedStateMachine):
    """What may happen, and what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="machine-"))
        self.nights = Nights(self.home, random.Random(0))
        self.remote, self.target = self.nights.remote, Target(path=str(self.nights.remote))
        self.taken: set[tuple[str, str]] = set()
        self.others: dict[str, bytes] = {}
        self.harmed: set[str] = set()  # names of files that somebody else changed or removed
        self.left: set[str] = set()  # those that were: once nobody wants them, they stay there
        self.broken: dict[Path, bytes] = {}  # truncated images, whole
        self.unknown = False  # whether the journal was lost: what was only sent may stay
        self.numbers = iter(range(1 << 30))

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            shutil.rmtree(self.home)

    # Nights

    @initialize()
    def first_night(self) -> None:
        self.nights.repository.prepare()
        self._publish(GRACE)

    @rule()
    def image_comes(self) -> None:
        self.nights.add()

    @rule()
    def image_goes(self) -> None:
        for old in self.nights.series()[:-KEPT]:
            self.broken.pop(old, None)
            old.unlink()

    @rule(place=places)
    def image_is_replaced(self, place: int) -> None:
        image = self._image(place)
        self.broken.pop(image, None)
        self.nights.replace(image.name)

    @rule(share=st.floats(0, 0.9))
    def truncated_image_comes(self, share: float) -> None:
        image = self.nights.add()
        self.broken[image] = image.read_bytes()
        os.truncate(image, int(share * (len(self.broken[image]) - PADDING)))

    @rule()
    def truncated_images_come_whole(self) -> None:
        self._mend_images()

    @rule()
    def prepared(self) -> None:
        self._prepare()

    @rule(step=steps)
    def preparing_is_killed(self, step: int) -> None:
        done = run(prepare, self.nights.repository, disturbance=Kill(step))
        assert not done.unexpected

    @rule(empty=st.booleans())
    def prepared_without_the_disk_of_the_images(self, empty: bool) -> None:
        images = self.nights.repository.images
        aside, before = images.with_name("aside"), tree_of(self.nights.mirror)
        images.rename(aside)
        if empty:
            images.mkdir()
        else:
            images.symlink_to("not mounted")
        try:
            assert not self._prepare(), "it says that all is well"
        finally:
            images.rmdir() if empty else images.unlink()
            aside.rename(images)
        assert tree_of(self.nights.mirror).keys() >= before.keys()

    # Publishing

    @rule()
    def published(self) -> None:
        self._publish(GRACE)

    @rule()
    def published_without_grace(self) -> None:
        self._publish(AT_ONCE)

    @precondition(lambda self: self.taken)
    @rule()
    def published_after_all(self) -> None:
        self.taken.clear()
        self._publish(GRACE.model_copy(update={"allow_rolled_back": True}))

    @rule(step=steps)
    def publishing_is_killed(self, step: int) -> None:
        mine = self.nights.mirror, self.target, GRACE
        done = run(publish, *mine, disturbance=Kill(step))
        assert not done.unexpected
        self._forget_replaced()

    @rule(free=st.integers(0, 300_000))
    def published_to_a_full_disk(self, free: int) -> None:
        real, spare = FolderTree.free_space, upload.SPARE
        FolderTree.free_space = lambda _tree: free  # type: ignore[assignment,method-assign]
        upload.SPARE = 1000
        try:
            self._publish(GRACE)
        finally:
            FolderTree.free_space = real  # type: ignore[method-assign]
            upload.SPARE = spare

    # Rollbacks

    @precondition(lambda self: self.metadata_is_whole())
    @rule(back=st.one_of(st.none(), st.integers(1, 4)), one=st.booleans(), twice=st.booleans())
    def rolled_back(self, back: int | None, one: bool, twice: bool) -> None:
        tree = FolderTree(self.target)
        now = journal.load(tree).generation
        made = journal.load_generation(tree, now)
        to = None if back is None else max(0, now - back)
        every = sorted(path.stem for path in (self.remote / "meta").glob("[!.]*.json"))
        series = every[:1] if one else []
        before = told(self.remote)
        done = self._roll_back(to, series)
        if done is None:
            assert told(self.remote) == before
            return
        after = told(self.remote)
        forward = made and made.restored and done > made.restored.restores
        if not forward:
            self.taken |= before - after
        if to is not None:
            self.taken -= after
        if twice and to is None:
            self._roll_back(to, series)
            assert told(self.remote) == after, "a rollback that was repeated went further"

    @precondition(lambda self: self.metadata_is_whole())
    @rule(step=steps)
    def rollback_is_killed_and_repeated(self, step: int) -> None:
        before = told(self.remote)
        killed = run(step_back, self.nights.mirror, self.target, disturbance=Kill(step))
        assert not killed.unexpected
        between = told(self.remote)
        self._roll_back(None, [])
        after = told(self.remote)
        assert killed.status or after == between, "a rollback that was repeated went further"
        self.taken |= before - after

    # Others, and accidents

    @rule(folder=st.sampled_from(["", "rdiffs/", "meta/"]))
    def others_put_a_file_there(self, folder: str) -> None:
        path = f"{folder}others-{next(self.numbers)}.txt"
        if (self.remote / folder).is_dir():
            self.others[path] = path.encode()
            (self.remote / path).write_bytes(self.others[path])

    @rule(place=places)
    def others_put_what_we_are_about_to_publish(self, place: int) -> None:
        image = self._image(place)
        ours = self.nights.mirror / image.name
        if ours.exists() and not (self.remote / image.name).exists():
            known = journal.load(FolderTree(self.target)).files
            if image.name not in known:
                self.others[image.name] = ours.read_bytes()
                (self.remote / image.name).write_bytes(self.others[image.name])

    @rule(place=places, gone=st.booleans())
    def others_harm_a_file(self, place: int, gone: bool) -> None:
        found = sorted(path for path in tree_of(self.remote) if path not in self.others)
        if not found:
            return
        path = self.remote / found[place * len(found) // 10]
        self.harmed.add(path.name)
        self.left.add(found[place * len(found) // 10])
        if gone:
            path.unlink()
            return
        before = path.stat().st_mtime
        path.write_bytes(b"harmed" + path.read_bytes()[6:])
        os.utime(path, (before + LATER, before + LATER))

    @rule()
    def the_journal_is_lost(self) -> None:
        (self.remote / JOURNAL / "journal.json").unlink(missing_ok=True)
        self.unknown = True

    @rule()
    def the_record_of_parts_is_lost(self) -> None:
        (self.remote / JOURNAL / "parts.json").unlink(missing_ok=True)

    @rule(place=places)
    def metadata_here_is_harmed(self, place: int) -> None:
        found = [*sorted((self.nights.mirror / "meta").glob("*.json"))]
        found.append(self.nights.mirror / "CKSUMS")
        path = found[place * len(found) // 10]
        if path.exists():
            path.write_bytes(path.read_bytes()[: place * 50])
            self._prepare()  # what is published of it meanwhile is another trial

    # What must hold

    def metadata_is_whole(self) -> bool:
        return not any(name.endswith(".json") for name in self.harmed)

    @precondition(metadata_is_whole)
    @invariant()
    def clients_find_what_they_are_told_of(self) -> None:
        wrong = [line for line in walk(self.remote) if line.split()[0] not in self.harmed]
        assert not wrong

    @precondition(metadata_is_whole)
    @invariant()
    def what_a_rollback_took_stays_away(self) -> None:
        back = told(self.remote) & self.taken
        assert not back, f"clients are told again of {sorted(back)}"

    @invariant()
    def what_others_put_there_stays(self) -> None:
        for path, content in self.others.items():
            assert (self.remote / path).read_bytes() == content, path

    @rule()
    def settle(self) -> None:
        """Have a night without anything in its way."""
        self._mend_images()
        report = self.nights.repository.prepare(allow_mass_delete=True)
        assert report.ok, report.failures
        self.taken.clear()
        for _ in range(2):
            how = AT_ONCE.model_copy(update={"allow_rolled_back": True})
            assert self._publish(how), "nothing was in its way"
        self.harmed.clear()
        found = local(self.nights.repository.settings())
        assert not [one for one in found.findings if one.severity is Severity.ERROR], found
        wanted = self.nights.wanted()
        lines = differences(self.nights.mirror, wanted) + differences(
            self.remote, wanted, self.others
        )
        wrong = [line for line in lines if not self._is_known(line)]
        assert not wrong, wrong

    # How it is done

    def _image(self, place: int) -> Path:
        series = self.nights.series()
        return series[place * len(series) // 10]

    def _mend_images(self) -> None:
        for image, whole in self.broken.items():
            image.unlink()  # the mirror may have it, under another name of the same file
            image.write_bytes(whole)
        self.broken.clear()

    def _prepare(self) -> bool:
        try:
            report = self.nights.repository.prepare()
        except RepositoryError:
            return False
        assert not walk(self.nights.mirror)
        return report.ok

    def _publish(self, options: Model) -> bool:
        """Publish; clients look after each change of a name that they see."""
        if not (self.nights.mirror / "CKSUMS").exists():
            return False
        with self._watched():
            (report,) = publish_all(self.nights.mirror, [self.target], options)
        if report.ok and not self.taken:
            self.harmed.clear()
        self._forget_replaced()
        return report.ok

    def _roll_back(self, to: int | None, series: list[str]) -> int | None:
        try:
            with self._watched(), Publisher(self.nights.mirror, self.target, KEEP) as publisher:
                return roll_back(publisher, to, series).restored
        except RepositoryError:
            return None

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Have clients look after each change of a name that they see."""

        def then_look(real: Callable[..., Any]) -> Callable[..., Any]:
            def change(tree: FolderTree, *paths: str) -> Any:
                done = real(tree, *paths)
                hidden = paths[-1].rpartition("/")[2].startswith(".") or JOURNAL in paths[-1]
                if not hidden and self.metadata_is_whole():
                    self.clients_find_what_they_are_told_of()
                return done

            return change

        rename, remove = FolderTree.rename, FolderTree.remove
        FolderTree.rename = then_look(rename)  # type: ignore[method-assign]
        FolderTree.remove = then_look(remove)  # type: ignore[method-assign]
        try:
            yield
        finally:
            FolderTree.rename, FolderTree.remove = rename, remove  # type: ignore[method-assign]

    def _forget_replaced(self) -> None:
        """What others put there under a name of ours, and we replaced since, is ours."""
        wanted = tree_of(self.nights.mirror)
        for path in [path for path in self.others if path in wanted]:
            if wanted[path] != self.others[path]:
                del self.others[path]

    def _is_known(self, line: str) -> bool:
        """Say whether something may differ: others put it there, or harmed it, or we lost track."""
        path = line.split()[1]
        return line.endswith("too much") and (
            self.unknown or path in self.others or path in self.left
        )


KEEP = GRACE


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args()
    print(f"state machine: seed {options.seed}, {options.examples} examples", flush=True)
    begun = itertools.count(1)

    class Shown(Repositories):
        def __init__(self) -> None:
            super().__init__()
            show(f"example {next(begun)} of {options.examples}")

    hypothesis.seed(options.seed)(Shown)
    run_state_machine_as_test(Shown, settings=settings(options.examples, options.steps))
    show("")
    return 0


def settings(examples: int, count: int) -> hypothesis.settings:
    """Return how many examples are tried, of how many steps."""
    return hypothesis.settings(
        max_examples=examples,
        stateful_step_count=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )


if __name__ == "__main__":
    sys.exit(until_ended(main))
