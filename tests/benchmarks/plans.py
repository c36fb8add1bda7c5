"""How long a night takes in which nothing is new: 10,000 images, 200 series, 30,000 rdiffs.

    PYTHONPATH=include:tests python tests/benchmarks/plans.py [SERIES] [IMAGES_EACH]

Every line must grow with the number of files, not with its square: run it with half of the series
and with half of the images of each, and compare.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from puavo_repository import settings as settings_module
from puavo_repository.formats import jsonfile
from puavo_repository.formats.metadata import Digests
from puavo_repository.mirror.description import publishable
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import ImageRecord, RdiffRecord
from puavo_repository.prepare.configure import configure
from puavo_repository.prepare.describe import clean, describe, guard
from puavo_repository.prepare.discover import discover
from puavo_repository.prepare.plan import look, make_plan
from puavo_repository.prepare.report import report
from puavo_repository.prepare.run import dry_run, prepare
from puavo_repository.progress import NO_WATCHER
from puavo_repository.publish.plan import FileState
from puavo_repository.publish.plan import make_plan as make_plan_of_publishing
from puavo_repository.publish.survey import survey
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.journal import Journal
from puavo_repository.remote.target import Target
from puavo_repository.settings import Settings

SERIES, EACH = 200, 50
SIZE = 100  # bytes of an image


def digests(text: str, size: int) -> Digests:
    """Return digests that look like some."""
    return Digests(size, "1", text[-64:].rjust(64, "0"), text[-128:].rjust(128, "0"))


def write(folder: Path, name: str, content: bytes) -> None:
    """Write a file; nothing here has to outlast a power cut."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def build(root: Path, series: int, each: int) -> Settings:
    """Make a repository as if all had been read and made; its files are tiny."""
    settings = settings_module.load({"image_dir": _folder(root / "images")}, {})
    mirror = Mirror(settings.mirror_dir)
    for number in range(series):
        for index in range(each):
            name = f"puavo-os-s{number}-buster-2022-01-01-{index:06}-amd64.img"
            write(settings.image_dir, name, bytes(SIZE))
            found = Identity.at(settings.image_dir / name)
            assert found is not None
            record = ImageRecord(name, found, digests(name, SIZE), {"puavo.x": {"default": name}})
            _keep(mirror.state.images.folder, name, record)
    for pair in look(settings).states:
        write(mirror.rdiffs, pair.rdiff, b"rdiff")
        at = Identity.at(mirror.rdiffs / pair.rdiff)
        source, target = (digests(name, SIZE).sha512 for name in (pair.source, pair.target))
        own = digests(pair.rdiff, 5)
        made = RdiffRecord(pair.rdiff, source, target, own, at, "test")
        _keep(mirror.state.rdiffs.folder, pair.rdiff, made)
    return settings


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def _keep(folder: Path, name: str, record: ImageRecord | RdiffRecord) -> None:
    write(folder, f"{name}.json", jsonfile.dumps_sealed(record.to_dict()))


def timed(label: str, work: Callable[[], Any]) -> Any:
    """Do some work; print how long it took."""
    began, busy = time.monotonic(), time.process_time()
    result = work()
    took, busy = time.monotonic() - began, time.process_time() - busy
    sys.stdout.write(f"{label:26} {took:7.2f} s, {busy:7.2f} s of them busy\n")
    return result


def publishing(settings: Settings) -> None:
    """Measure the plans of publishing: to an empty remote, and where every other file is there."""
    local = timed("publish: description", lambda: publishable(settings.mirror_dir))
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(_tree(folder)) as tree:
        state = timed("publish: survey", lambda: survey(tree, local, Journal(), settings))
    for label, every in (("the first time", 0), ("every other file", 2)):
        for index, row in enumerate(state.wanted_files()):
            there = every and index % every
            row.state = FileState.PRESENT if there else FileState.MISSING
        plan = timed(f"publish: {label}", lambda: make_plan_of_publishing(state, can_copy=True))
        sys.stdout.write(f"{'':26} {len(plan.transfers)} transfers\n")


def _tree(folder: str) -> FolderTree:
    return FolderTree(Target(path=folder))


def main(series: int, each: int) -> None:
    """Measure each step by itself, then a whole night."""
    with tempfile.TemporaryDirectory() as folder:
        settings = timed("(making the repository)", lambda: build(Path(folder), series, each))
        mirror = Mirror(settings.mirror_dir)
        timed("describe, the first time", lambda: describe(settings))
        inventory = timed("discover", lambda: discover(settings))
        catalogue = timed("configure", lambda: configure(settings, inventory))
        found = timed("look", lambda: look(settings))
        timed("make_plan", lambda: make_plan(inventory, catalogue, found.known, settings))
        timed("guard", lambda: guard(settings, found))
        timed("wrong_files", mirror.wrong_files)
        timed("clean", lambda: clean(settings))
        timed("describe", lambda: describe(settings))
        timed("report", lambda: report(settings, time.time()))
        timed("dry run", lambda: dry_run(settings))
        timed("a night without news", lambda: prepare(settings, NO_WATCHER, "a benchmark"))
        publishing(settings)
        rdiffs = len(found.states)
        sys.stdout.write(f"{len(inventory.images)} images, {series} series, {rdiffs} rdiffs\n")


if __name__ == "__main__":
    main(*([int(text) for text in sys.argv[1:]] or [SERIES, EACH]))
