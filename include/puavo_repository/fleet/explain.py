"""Why an rdiff is large: each byte of it by cause, file, folder and package of Debian.

1. The rdiff's LITERAL commands say which bytes of the target it brings (``_Literals``).
2. The target says what lies there: blocks of a file, a fragment block, a table (``_Layout``). What
   several files share, as equal ones do, counts for the first of them. A fragment block holds the
   ends of several files, and small ones whole, compressed as one: each file has of it what its
   place and length there come to when all of the block is scaled to its compressed size. So a
   block that is literal as a whole is shared out by length.
3. A file that has some of the bytes is compared with the one of the same path in the source
   (``same_content``): new, changed, or the same and only packed differently.

What is not literal is the rdiff's own: its head and commands. So all adds up to its size.
"""

from __future__ import annotations

import os
import resource
import signal
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from puavo_repository.delta import contained
from puavo_repository.errors import DeltaError, SettingsError, as_storage_error
from puavo_repository.fleet.advice import kernel_of
from puavo_repository.fleet.explanation import Cause, Explanation, Item
from puavo_repository.fleet.same import same_content
from puavo_repository.formats.names import source_image
from puavo_repository.formats.squashfs_files import RAW, Squashfs, opened
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.progress import Progress

Numbers = NDArray[np.int64]

_OWNERS = "/var/lib/dpkg/info/"
_MEMORY, _SECONDS = 1 << 30, 120  # bytes of addresses, processor time: of the process that reads
_REMEDY = "Report this with the names of the rdiff and both images"
_GIVE = "Give all three: explain RDIFF OLD NEW"


def images_of(rdiff: Path) -> tuple[Path, Path]:
    """Return the images, source and target, of an rdiff in a mirror's folder ``rdiffs``.

    Raises:
        SettingsError: They are not there.
    """
    mirror = Mirror(rdiff.absolute().parent.parent)
    targets = (
        image["filename"]
        for document in mirror.documents().values()
        for series in document.values()
        for image in series["images"]
        for diff in image.get("diffs", [])
        if diff["filename"] == rdiff.name
    )
    source, target = source_image(rdiff.name), next(targets, "")
    for name in (source, target):
        if not (name and (mirror.root / name).is_file()):
            problem = "the images of this rdiff are not found in its mirror"
            found = f"no {name}" if name else "no metadata that names it"
            raise SettingsError(rdiff, problem, found=found, remedy=_GIVE)
    return mirror.root / source, mirror.root / target


def explain(rdiff: Path, source: Path, target: Path) -> Explanation:
    """Explain an rdiff, in a process of its own with limits: images are foreign bytes.

    Raises:
        DeltaError: It is damaged, or made for another target.
        ImageError: An image is none, or damaged.
        StorageError, StorageRefusedError: A file cannot be read.
    """
    doing = "while it explained this rdiff"
    return contained.call(rdiff, doing, _limited, rdiff, source, target, remedy=_REMEDY)


def _limited(rdiff: Path, source: Path, target: Path, _progress: Progress) -> Explanation:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, 2 * _SECONDS))
    signal.signal(signal.SIGXCPU, _end)
    return examine(rdiff, source, target)


def _end(_number: int, _frame: object) -> NoReturn:
    raise ValueError(f"it takes more than {_SECONDS} s of a processor")


def examine(rdiff: Path, source: Path, target: Path) -> Explanation:
    """Do the work of ``explain``, in this process and without limits."""
    with as_storage_error(rdiff), opened(target) as new, opened(source) as old:
        size, literals = rdiff.stat().st_size, _Literals.of(rdiff, new.size)
        layout = _Layout.of(new)
        tables, whole, tails = layout.split(literals.within(layout.starts, layout.ends))
        causes = _causes(layout, np.flatnonzero(whole + tails), new, old)
        owners = _packages(layout, new, {layout.paths[file] for file in causes})
    items = [Item(name, length, Cause.TABLES) for name, length in tables.items()]
    for file, cause in causes.items():
        path, shared = layout.paths[file], int(tails[file])
        items.append(Item(path, int(whole[file]) + shared, cause, owners.get(path, ""), shared))
    own = size - int(literals.lengths.sum())
    items.append(Item("commands of the rdiff", own, Cause.COMMANDS))
    items.append(Item("padding", size - sum(one.size for one in items), Cause.PADDING))  # the rest
    kept = [one for one in items if one.size]
    kernels = sorted({kernel for path in layout.paths if (kernel := kernel_of(path))})
    return Explanation(rdiff.name, source.name, target.name, size, new.size, kept, kernels)


@dataclass(frozen=True)
class _Literals:
    """The ranges of the target that an rdiff brings as literal bytes, in order.

    The first is empty, so that one begins at or before each byte.
    """

    starts: Numbers
    lengths: Numbers

    @classmethod
    def of(cls, rdiff: Path, size: int) -> _Literals:
        """Read them from an rdiff that has to be for a target of this size."""
        # Compiled code, slow to load.
        from puavo_repository.formats.rdiff import KIND, LENGTH, LITERAL, TARGET, command_blocks

        at, rows = 0, [np.zeros((1, 2), np.int64)]
        for block in command_blocks(rdiff):
            rows.append(block[block[:, KIND] == LITERAL][:, [TARGET, LENGTH]])
            # The largest and not the last: the sum of some begins anew beyond 64 bits.
            at = int((block[:, TARGET] + block[:, LENGTH]).max(initial=at))
            if at > size:
                break
        if at != size:
            expected, found = f"one for {size} bytes", f"one for {at} bytes or more"
            problem = "this rdiff is not for this target"
            raise DeltaError(rdiff, problem, expected=expected, found=found, remedy=_GIVE)
        return cls(*np.concatenate(rows).T)

    def within(self, starts: Numbers, ends: Numbers) -> Numbers:
        """Return how many bytes of each of some ranges are literal."""
        before = np.cumsum(self.lengths) - self.lengths

        def until(position: Numbers) -> Numbers:
            last = np.searchsorted(self.starts, position, "right") - 1
            within = np.minimum(position - self.starts[last], self.lengths[last])
            return np.asarray(before[last] + within)

        return until(ends) - until(starts)


@dataclass(frozen=True)
class _Layout:
    """What lies where in an image: ranges that do not overlap, and whose they are."""

    paths: list[str]  # of the files
    places: Numbers  # of each, what ``Squashfs.file`` takes
    tables: list[str]
    starts: Numbers
    ends: Numbers
    owners: Numbers  # a file by its number, then the end of one in a fragment, then a table

    @classmethod
    def of(cls, image: Squashfs) -> _Layout:
        paths, rows = [], array("q")
        for path, place in image.walk():
            file = image.file(place)
            paths.append(path)
            rows.extend((place, file.start, file.stored, file.fragment, file.offset, file.tail))
        files = np.frombuffer(rows, np.int64).reshape(-1, 6).T
        tables = np.array([(one.start, one.end) for one in image.segments], np.int64).T
        whole = np.stack([files[1], files[1] + files[2]])
        ranges = np.concatenate([whole, _in_fragments(image, *files[3:]), tables], axis=1)
        order = np.argsort(ranges[0], kind="stable")  # of equal files the first comes first
        starts, ends = ranges[:, order]
        reached = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
        starts = np.maximum(starts, reached)
        ends = np.maximum(starts, ends)
        return cls(paths, files[0], [one.name for one in image.segments], starts, ends, order)

    def split(self, sizes: Numbers) -> tuple[dict[str, int], Numbers, Numbers]:
        """Return the sizes of the ranges by table, by file, and by file's end in a fragment."""
        owned = np.zeros(len(self.owners), np.int64)
        owned[self.owners] = sizes
        files = len(self.paths)
        by_table = dict(zip(self.tables, owned[2 * files :].tolist(), strict=True))
        return by_table, owned[:files], owned[files : 2 * files]


def _in_fragments(image: Squashfs, numbers: Numbers, offsets: Numbers, tails: Numbers) -> Numbers:
    """Return where in the image the ends of files begin and end, none for those without one."""
    blocks = np.array([(at, word & ~RAW) for at, word in image.fragments] or [(0, 0)], np.int64)
    unpacked = np.ones(len(blocks), np.int64)
    np.maximum.at(unpacked, numbers, offsets + tails)  # those of number -1 take no room
    starts, lengths = blocks[numbers].T
    places = np.stack([offsets, offsets + tails])
    ranges: Numbers = starts + places * lengths // unpacked[numbers]
    return ranges


def _causes(layout: _Layout, files: Numbers, new: Squashfs, old: Squashfs) -> dict[int, Cause]:
    """Return why each of some files is in the rdiff; compared in the order of their fragments."""
    wanted = {layout.paths[file] for file in files}
    before = {path: place for path, place in old.walk() if path in wanted}
    causes = {}
    for file in files.tolist():
        place = before.get(layout.paths[file])
        if place is None:
            causes[file] = Cause.NEW
            continue
        after = new.file(int(layout.places[file]))
        same = same_content(old, old.file(place), new, after)
        causes[file] = Cause.PACKED if same else Cause.CHANGED
    return causes


def _packages(layout: _Layout, image: Squashfs, wanted: set[str]) -> dict[str, str]:
    """Return the Debian packages of those of some files that have one."""
    owners: dict[str, str] = {}
    for path, place in zip(layout.paths, layout.places.tolist(), strict=True):
        if not (path.startswith(_OWNERS) and path.endswith(".list")):
            continue
        name, file = path[len(_OWNERS) :].removesuffix(".list").partition(":")[0], image.file(place)
        for line in os.fsdecode(b"".join(image.content(file))).split("\n"):
            for own in (line, f"/usr{line}"):  # where /bin is a link to /usr/bin
                if own in wanted:
                    owners.setdefault(own, name)
    return owners
