"""Nights of a repository, beside one that nothing disturbs, and a watcher who never sleeps."""

from __future__ import annotations

import datetime as dt
import logging
import random
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from puavo_repository import retry
from puavo_repository.audit.local import local
from puavo_repository.audit.remote import remote
from puavo_repository.audit.report import Finding
from puavo_repository.formats import metadata
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.prepare.describe import describe
from puavo_repository.prepare.diff import diff
from puavo_repository.prepare.fingerprint import fingerprint
from puavo_repository.prepare.policy import Pair
from puavo_repository.publish import clean, send, switch, upload
from puavo_repository.publish.plan import sha256
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.run import publish_all
from puavo_repository.remote import journal
from puavo_repository.remote.target import Target
from puavo_repository.rollback import rollback
from puavo_repository.settings.model import Model
from support.mirrors import tree_of, walk
from support.repository import AMXA, FREE, V1, Repository, name

logger = logging.getLogger(__name__)

KEPT = 4  # images of the series that grows
OTHERS = (FREE, "puavo-os-other-buster")  # series that begin and end
STEPS = {"upload": upload.upload, "switch": switch.switch, "clean": clean.clean}
AT_ONCE = Model(grace_days=0.0, max_delete=1.0, replace_pause=0.0, connections=2)


def prepare(repository: Repository) -> bool:
    """Prepare a repository; a step that runs in a process of its own."""
    report = repository.prepare()
    if not report.ok:
        logger.error("%s", report.failures)
    return report.ok


def publish(mirror: Path, target: Target, how: Model = AT_ONCE, *, allow: bool = False) -> bool:
    """Publish a mirror; a step that runs in a process of its own."""
    retry.FIRST_DELAY = 0.02
    upload.SPARE = -(1 << 40)  # the disk is to be found full in the middle
    options = how.model_copy(update={"allow_rolled_back": allow})
    (report,) = publish_all(mirror, [target], options)
    if not report.ok:
        logger.error("%s", {**report.failed, **report.waiting_for})
    return report.ok


def publish_in_pieces(mirror: Path, target: Target) -> bool:
    """Publish small files as large ones are: in pieces, put on the disk now and then."""
    send.PIECE, send.AHEAD, send.SYNC_EVERY = 4 << 10, 16 << 10, 16 << 10
    upload.LARGE = 20 << 10
    return publish(mirror, target)


def publish_after_all(mirror: Path, target: Target) -> bool:
    """Publish what was rolled back."""
    return publish(mirror, target, allow=True)


def step_back(mirror: Path, target: Target) -> bool:
    """Give clients what they saw before, as the task of a DAG run does."""
    with Publisher(mirror, target, Model(connections=2)) as publisher:
        rollback.roll_back(publisher, None)
    return True


def one_step(mirror: Path, target: Target, step: str, how: Model = AT_ONCE) -> bool:
    """Do one step of publishing, as a task of a DAG run does: upload, switch or clean."""
    retry.FIRST_DELAY = 0.02
    upload.SPARE = -(1 << 40)
    with Publisher(mirror, target, how) as one:
        STEPS[step](one)
    return not one.report.failed


def one_task(repository: Repository, stage: str, *names: str) -> bool:
    """Do one step of preparing, as a task does: fingerprint, diff (of a pair) or describe."""
    settings = repository.settings()
    if stage == "fingerprint":
        fingerprint(settings, names[0])
    elif stage == "diff":
        diff(settings, Pair(*names))
    else:
        with Mirror(settings.mirror_dir).locked("a task"):
            describe(settings, names)
    return True


def told(remote: Path) -> set[tuple[str, str]]:
    """Return what clients are told of: paths and sha256."""
    return {
        (file.path, file.sha256)
        for path in (remote / "meta").glob("[!.]*.json")
        for file in metadata.described_files(metadata.parse(path.read_bytes()))
    }


class Nights:
    """A repository, its undisturbed twin, and a remote.

    Args:
        home: Where all of it lies.
        chance: Decides what changes.
    """

    def __init__(self, home: Path, chance: random.Random) -> None:
        self.chance = chance
        self.beyond_repair: set[str] = set()  # what a fault took and no run mends; audits say so
        self.repository = Repository(home / "disturbed")
        self.remote = home / "remote"
        self.remote.mkdir()
        self.audited = Target(path=str(self.remote))  # how an audit comes to the remote
        self._twin = Repository(home / "undisturbed")
        self._date = dt.date(2022, 1, 1)
        self._replaced = 0
        for _ in range(KEPT - 1):
            self.add()

    @property
    def mirror(self) -> Path:
        return self.repository.mirror

    def series(self) -> list[Path]:
        """Return the images of the series that grows, oldest first."""
        return sorted(self.repository.images.glob(f"{AMXA}-*.img"))

    def add(self) -> Path:
        """Add a next image."""
        self._date += dt.timedelta(days=1)
        return self.repository.add(name(f"{self._date}-120000"))

    def grow(self) -> None:
        """Let a next image come, and the oldest one go."""
        self.add()
        for old in self.series()[:-KEPT]:
            old.unlink()

    def turn(self) -> None:
        """Let a series end where another begins, beside the one that grows."""
        self.grow()
        images = self.repository.images
        old = [image for series in OTHERS for image in images.glob(f"{series}-*")]
        begins = OTHERS[any(image.name.startswith(OTHERS[0]) for image in old)]
        self.repository.add(name(f"{self._date}-130000", begins))
        for image in old:
            image.unlink()

    def replace(self, image: str) -> Path:
        """Give another content to an image's name, by rename."""
        self._replaced += 1
        return self.repository.add(image, size=60_000 + 1_000 * (self._replaced % 40))

    def fall(self) -> None:
        """Let a night fall: an image is new, one is gone, perhaps one replaced or a series."""
        self.grow()
        if self.chance.random() < 0.5:
            self.replace(self.chance.choice(self.series()[:-1]).name)
        if self.chance.random() < 0.4:
            other = self.repository.images / name(V1, FREE)
            if other.exists():
                other.unlink()
            else:
                self.repository.add(other.name)

    def wanted(self) -> dict[str, bytes]:
        """Return the mirror that a repository leaves which nothing ever disturbed."""
        there = {path.name: path for path in self.repository.images.iterdir()}
        for path in self._twin.images.iterdir():
            if path.name not in there:
                path.unlink()
        for path in there.values():
            copy = self._twin.images / path.name
            if not copy.exists() or copy.read_bytes() != path.read_bytes():
                copy.unlink(missing_ok=True)
                shutil.copy(path, copy)
        self._twin.prepare(allow_mass_delete=True)
        return tree_of(self._twin.mirror)

    def found(self, *trees: Path) -> list[Finding]:
        """Return what an audit finds that reads everything."""
        settings = self.repository.settings(audit_share=1)
        checks = [local(settings)] if self.mirror in trees else []
        if self.remote in trees:
            checks.append(remote(settings, self.audited))
        return [one for check in checks for one in check.findings]

    def lost(self, *trees: Path) -> list[str]:
        """Return what is not as it would be if nothing had happened, and what an audit finds."""
        wanted = self.wanted()
        lines = [line for tree in trees for line in differences(tree, wanted)]
        found = [one for one in self.found(*trees) if one.file not in self.beyond_repair]
        lines += [f"an audit found: {one}" for one in found]
        known, right = (remembered(one.mirror) for one in (self.repository, self._twin))
        strange = {path for path, _ in known.items() ^ right.items()} - self.beyond_repair
        return lines + [
            f"on record: {path}: {known.get(path)} instead of {right.get(path)}"
            for path in sorted(strange)
        ]


def remembered(root: Path) -> dict[str, object]:
    """Return what the records of a mirror say, but for when something was done; by its path."""
    mirror = Mirror(root)
    state = mirror.state
    known: dict[str, object] = {
        one.path: (one.digests, mirror.has(one)) for one in (*state.images, *state.rdiffs)
    }
    known |= {f"failures/{one.name}": one.message for one in state.failures}
    return known | {f"anchors/{path.name}": "" for path in state.anchors.glob("[!.]*")}


def differences(tree: Path, wanted: dict[str, bytes], others: Collection[str] = ()) -> list[str]:
    """Return in what a tree differs, and what a run left lying about in it.

    ``others`` is what somebody else put there: it stays theirs, also where it is wanted.
    """
    found = tree_of(tree)
    different = [p for p in sorted(found.keys() | wanted) if found.get(p) != wanted.get(p)]
    states = {p: "missing" if p not in found else "too much" for p in found.keys() ^ wanted.keys()}
    lines = [f"{tree.name}: {path} is {states.get(path, 'different')}" for path in different]
    patterns = ".*.part", ".now.*", "publisher.lock*", "parts.json"
    left = [path for pattern in patterns for path in tree.rglob(pattern)]
    # What may be written without the mirror's lock goes an hour later.
    left = [p for p in left if p.parent.name != "remotes" and not p.name.startswith(".id.")]
    if (record := tree / journal.PATH).exists():
        entries = journal.Journal.parse(record.read_bytes()).files
        right = {
            path: _entry(tree / path, wanted[path])._replace(ours=path not in others)
            for path in found.keys() & wanted
        }
        strange = [p for p in sorted({*entries, *right}) if entries.get(p) != right.get(p)]
        lines += [
            f"{tree.name}: {path} is entered as {entries.get(path)}, not {right.get(path)}"
            for path in strange
        ]
    return lines + [f"{tree.name}: {path.name} was left behind" for path in left]


def _entry(path: Path, content: bytes) -> journal.Entry:
    """Return how a file of ours is entered that metadata names."""
    mtime = int(path.stat().st_mtime)
    return journal.Entry(len(content), sha256(content), mtime, None)


class Watch:
    """Walks trees as clients do, all the while.

    Args:
        trees: The trees.
        patient: Whether clients that have read the metadata a moment ago must still find all of
            it. A local mirror and one without grace promise it only for the metadata of now.
        pause: Seconds between two walks.
    """

    def __init__(self, *trees: Path, patient: bool = False, pause: float = 0.005) -> None:
        self.wrong: list[str] = []
        self.walks = 0
        self._trees = trees
        self._patient = patient
        self._pause = pause
        self._open = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Look away for a block in which the fault itself breaks the tree."""
        with self._open:
            yield

    def seen(self) -> list[str]:
        """Return what was wrong since the last time."""
        found, self.wrong = self.wrong, []
        return [f"a watcher saw: {line}" for line in dict.fromkeys(found)]

    def _watch(self) -> None:
        while not self._ended.wait(self._pause):
            with self._open:
                for tree in self._trees:
                    self.wrong += self._look(tree)
                    self.walks += 1
            time.sleep(0)

    def _look(self, tree: Path) -> list[str]:
        before = _descriptions(tree)
        wrong = walk(tree)
        if wrong and not self._patient and _descriptions(tree) != before:
            return []  # what was read is not said any more
        return wrong


def _descriptions(tree: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted((tree / "meta").glob("[!.]*.json")):
        try:
            found[path.name] = path.read_bytes()
        except FileNotFoundError:
            continue
    return found
