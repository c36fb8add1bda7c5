"""Small mirrors for the tests of publishing: images of random bytes, real rdiffs, real metadata."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import random
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Digests
from puavo_repository.formats.names import image_name, rdiff_name
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.publish import run
from puavo_repository.publish.plan import Transfer
from puavo_repository.publish.publisher import Publisher, PublishReport
from puavo_repository.publish.transfer import transfer
from puavo_repository.remote import journal
from puavo_repository.remote.pool import open_tree
from puavo_repository.remote.target import Target
from puavo_repository.settings.model import Model
from support.repository import snapshot
from support.servers import tool

NOW = Model(grace_days=0.0, max_delete=1.0, replace_pause=0.0)
KEEP = Model(max_delete=1.0, replace_pause=0.0)
SERIES = "puavo-os-test-bookworm-amd64"


def image(day: int) -> str:
    return image_of(dt.date(2026, 1, day))


def image_of(date: dt.date) -> str:
    return f"puavo-os-test-bookworm-{date}-120000-amd64.img"


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def changed(old: bytes, seed: int, places: int = 20, length: int = 700) -> bytes:
    """Return a next version of an image: pieces replaced, moved and inserted."""
    chance = random.Random(seed)
    new = bytearray(old)
    for _ in range(places):
        at = chance.randrange(len(new) - length)
        new[at : at + length] = chance.randbytes(length + chance.randrange(9))
    return bytes(new)


def digests(path: Path) -> Digests:
    data = path.read_bytes()
    crc = subprocess.run([tool("cksum"), path], capture_output=True, check=True).stdout.split()[0]
    return Digests(
        len(data), crc.decode(), hashlib.sha256(data).hexdigest(), hashlib.sha512(data).hexdigest()
    )


def make_rdiff(old: Path, new: Path, rdiff: Path) -> None:
    signature = rdiff.with_suffix(".sig")
    subprocess.run([tool("rdiff"), "-f", "-b", "1024", "signature", old, signature], check=True)
    subprocess.run([tool("rdiff"), "-f", "delta", signature, new, rdiff], check=True)
    signature.unlink()


def prepare(
    mirror: Path,
    names: Sequence[str],
    *,
    series: str = SERIES,
    targets: int = 3,
    urlbase: str = "https://localhost",
    pairs: Iterable[tuple[str, str]] | None = None,
) -> None:
    """Describe the images in a mirror, with rdiffs to the last ones, as a preparation would."""
    (mirror / "meta").mkdir(parents=True, exist_ok=True)
    (mirror / "rdiffs").mkdir(exist_ok=True)
    wanted = (
        list(pairs)
        if pairs is not None
        else [
            (source, target) for target in names[-targets:] for source in names if source != target
        ]
    )
    entries = []
    for target in names:
        diffs = []
        for source in (source for source, goal in wanted if goal == target):
            name = rdiff_name(source, target)
            rdiff = mirror / "rdiffs" / name
            if not rdiff.exists():
                make_rdiff(mirror / source, mirror / target, rdiff)
            diffs.append(metadata.diff_entry(source, name, digests(rdiff), urlbase))
        entries.append(metadata.image_entry(target, digests(mirror / target), {}, diffs, urlbase))
    document = {series: {"images": entries}}
    (mirror / "meta" / f"{series}.json").write_bytes(metadata.render(document))
    sum_up(mirror)


def sum_up(mirror: Path) -> None:
    """Make CKSUMS say what the metadata says."""
    paths = sorted((mirror / "meta").glob("*.json"))
    documents = [metadata.parse(path.read_bytes()) for path in paths]
    (mirror / "CKSUMS").write_bytes(metadata.render_cksums(documents))


def make_mirror(mirror: Path, count: int = 3, size: int = 300_000, targets: int = 3) -> list[str]:
    """Make a mirror with one series; return its images' names, oldest first."""
    for path, data in _mirror(count, size, targets).items():
        (mirror / path).parent.mkdir(parents=True, exist_ok=True)
        (mirror / path).write_bytes(data)
    sum_up(mirror)
    return [image(day) for day in range(1, count + 1)]


@cache
def _mirror(count: int, size: int, targets: int) -> dict[str, bytes]:
    """Return its files; a hundred tests begin with the same ones."""
    names = [image(day) for day in range(1, count + 1)]
    data = content(1, size)
    with tempfile.TemporaryDirectory() as folder:
        mirror = Path(folder)
        for number, name in enumerate(names):
            (mirror / name).write_bytes(data)
            data = changed(data, number)
        prepare(mirror, names, targets=targets)
        return snapshot(mirror)


def add_image(mirror: Path, names: list[str], *, keep: int = 99, seed: int = 77) -> list[str]:
    """Add a next image, as the night does; the oldest beyond ``keep`` is no longer described."""
    last = dt.date.fromisoformat(image_name(names[-1]).version[:10])
    new = image_of(last + dt.timedelta(days=1))
    (mirror / new).write_bytes(changed((mirror / names[-1]).read_bytes(), seed))
    names = [*names, new][-keep:]
    prepare(mirror, names)
    return names


def images_of(mirror: Path) -> list[str]:
    """Return the names of its images, the oldest first."""
    return sorted(path.name for path in mirror.glob("*.img"))


def walk(remote: Path) -> list[str]:
    """Walk a published tree as a client does, metadata first; return what is wrong with it."""
    wrong = []
    for path in sorted((remote / "meta").glob("[!.]*.json")):
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue  # a series that was dropped between the listing and the reading
        for entry in document.values():
            for described in entry["images"]:
                wrong += _check(remote / described["filename"], described)
                for diff in described["diffs"]:
                    wrong += _check(remote / "rdiffs" / diff["filename"], diff)
    return wrong


def _check(path: Path, entry: dict[str, object]) -> list[str]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [f"{path.name} is missing"]
    if len(data) != entry["size"] or hashlib.sha512(data).hexdigest() != entry["sha512"]:
        return [f"{path.name} is wrong"]
    return []


def tree_of(folder: Path) -> dict[str, bytes]:
    """Return every file that clients can see, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }


def documents(remote: Path) -> dict[str, bytes]:
    """Return metadata and CKSUMS, as clients see them."""
    found = tree_of(remote)
    return {p: data for p, data in found.items() if p == "CKSUMS" or p.startswith("meta/")}


def other_rdiff(mirror: Path) -> Path:
    """Have an rdiff be another one than was published; return it."""
    rdiff = next((mirror / "rdiffs").glob("*.rdiff"))
    rdiff.write_bytes(rdiff.read_bytes()[:-1] + b"\x01a\x00")
    return rdiff


def journal_of(target: Target) -> journal.Journal:
    with contextlib.closing(open_tree(target)) as tree:
        return journal.load(tree)


def send_one(
    item: Transfer, mirror: Path, target: Target, options: Model | None = None
) -> tuple[bool, int]:
    """Bring one file to a remote, as a step does.

    Returns whether it was assembled there, and the bytes that were sent.
    """
    with Publisher(mirror, target, options) as publisher:
        with publisher.hold() as remote:
            assembled, _ = transfer(item, remote)
        return assembled, publisher.pool.sent


def publish(
    mirror: Path,
    target: Target,
    options: Model | None = None,
    *,
    dry_run: bool = False,
    watcher: Watcher = NO_WATCHER,
) -> PublishReport:
    """Publish a mirror to one remote, as the command does; raises where nothing could be done."""
    with Publisher(mirror, target, options, watcher) as publisher:
        publisher.report.dry_run = dry_run
        run.publish(publisher)
        return publisher.report
