"""The local mirror: the tree that clients see, right at every moment.

Two rules keep it right. A file gets its name only when it is proven and durable. And before a
file that metadata describes is replaced by one with other content, its description is
removed (``remove_from_metadata``); it is described again when the new file is in place.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from puavo_repository.errors import (
    ImageChangingError,
    StorageRefusedError,
    as_storage_error,
    storage_error,
)
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import DescribedFile, Document
from puavo_repository.formats.names import ImageName, is_rdiff_name
from puavo_repository.mirror import files, locks
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.records import ImageRecord, RdiffRecord, State, WrittenRecord

logger = logging.getLogger(__name__)

WRITTEN = "description"  # name of the record of what was written
_ABSENT = ""
_DOCUMENTS = "[!.]*.json"
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file


class Mirror:
    """One mirror directory, made when something is first written, and what is known of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.meta = root / "meta"
        self.rdiffs = root / "rdiffs"
        self.cksums = root / "CKSUMS"
        self.state = State(root)

    @contextmanager
    def locked(self, holder: str, *, shared: bool = False) -> Iterator[None]:
        """Hold the mirror's lock; shared by steps that only read, or add files of their own."""
        with as_storage_error(self.root), locks.locked(self.state.lock, holder, shared=shared):
            if not shared:  # what killed runs left behind goes
                kept = (self.state.images, self.state.rdiffs, self.state.failures)
                ours = (self.state.anchors, *(one.folder for one in kept))
                for folder in (self.root, self.meta, self.rdiffs, *ours):
                    files.sweep(folder)
                files.sweep(self.state.folder, of=f"{WRITTEN}.json.")
                # Runs of publish and audit write here without the mirror's lock, in less than an
                # hour, whatever the clocks of two machines say.
                for folder in (self.state.folder, self.state.remotes.folder):
                    files.sweep(folder, older=3600)
            yield

    def check(self) -> None:
        """Raise a ``LockedError`` where this process alone held the mirror, and does no more.

        It is called right before each write that clients rely on.
        """
        locks.check_held(self.state.lock)
        locks.check_held(self.state.metadata_lock)

    def documents(self) -> dict[str, Document]:
        """Return the metadata of every series, by file name; of a damaged file, none."""
        return dict(self.each_document())

    def each_document(self) -> Iterator[tuple[str, Document]]:
        """Iterate over the same, of which one at a time is in memory."""
        for path in files.listed(self.meta, _DOCUMENTS):
            document: Document = {}
            try:
                document = metadata.parse(files.read(path) or b"")
            except ValueError as error:
                logger.warning("%s is damaged and will be made anew: %s", path, error)
            yield path.name, document

    def described_images(self) -> dict[str, int]:
        """Return the bytes of each image that the metadata names, by its name."""
        return {
            image["filename"]: image["size"]
            for _, document in self.each_document()
            for series in document.values()
            for image in series["images"]
        }

    def described(self) -> Iterator[DescribedFile]:
        """Iterate over every file that the metadata names."""
        every = (metadata.described_files(document) for _, document in self.each_document())
        return chain.from_iterable(every)

    def contents(self) -> dict[str, bytes]:
        """Return what metadata and CKSUMS hold, by path; only plain files are any of them."""
        return dict(self.each_content())

    def each_content(self) -> Iterator[tuple[str, bytes]]:
        """Iterate over the same, of which one at a time is in memory."""
        for path in (*files.listed(self.meta, _DOCUMENTS), self.cksums):
            if (content := files.read(path)) is not None:
                yield str(path.relative_to(self.root)), content

    def describe(self, documents: Iterable[tuple[str, Document]]) -> None:
        """Make the metadata say exactly this, by file name."""
        with self.metadata_locked("rewriting metadata", shared=False):
            self._write(documents)

    def remove_from_metadata(self, paths: Collection[str]) -> None:
        """Remove files from the metadata as their content changes."""
        if not paths:
            return
        with self.metadata_locked("rewriting metadata", shared=False):
            present = self.documents()
            kept = {name: metadata.without(doc, paths) for name, doc in present.items()}
            if kept != present:
                self._write(kept.items())

    def wrong_files(self) -> set[str]:
        """Return the described files that are missing, or not of the size or identity on record."""
        wrong, there = set(), self.there()
        known: dict[str, ImageRecord | RdiffRecord] = {}
        for records in (self.state.images, self.state.rdiffs):
            known |= {record.path: record for record in records}
        for file in self.described():
            found, record = there.get(file.path), known.get(file.path)
            if found is None or found.size != file.size or (record and not record.fits(found)):
                wrong.add(file.path)
        return wrong

    def has(self, record: ImageRecord | RdiffRecord) -> bool:
        """Tell whether the mirror's own file is the one that a record speaks of."""
        return record.fits(Identity.at(self.root / record.path))

    def there(self) -> dict[str, Identity | None]:
        """Return what lies where images, rdiffs and metadata do; None for what is no plain file."""
        folders = ("", self.root), ("rdiffs/", self.rdiffs), ("meta/", self.meta)
        return {
            f"{prefix}{name}": Identity.of_file(found)
            for prefix, folder in folders
            for name, found in files.scan(folder)
        }

    def refuse_foreign(self) -> None:
        """Refuse a folder with files of others, which metadata would replace.

        What a run wrote is ours however damaged it is now, what reads like a mirror's as well.
        """
        written = self.state.written.get(WRITTEN)
        for path, content in self.each_content():
            if written and path in written.digests:
                continue
            try:
                is_meta = path.startswith("meta/")
                ours = metadata.parse(content) if is_meta else metadata.is_cksums(content)
            except ValueError:
                ours = False
            if not ours:
                raise StorageRefusedError(
                    self.root / path,
                    "this is no file of a mirror, and no run wrote it",
                    expected="metadata of images, or nothing",
                    remedy="Choose another mirror directory, or move this file away",
                )

    def owned(self, there: Iterable[str]) -> set[str]:
        """Return those paths of ``there`` that a preparation put here.

        An image counts only where this system or the old one kept a record of it: a folder
        named by mistake must not lose the images that others keep there.
        """
        known = set(self.state.images.names())
        known |= {path.stem for path in files.listed(self.root / ".checksums", "*.cksum")}

        def is_ours(path: str) -> bool:
            folder, _, name = path.rpartition("/")
            if folder == "meta":
                return name.endswith(".json")
            if folder:
                return is_rdiff_name(name)
            return name in known and ImageName.parse(name) is not None

        return set(filter(is_ours, there))

    def changed_since_written(self, contents: Mapping[str, bytes]) -> list[str]:
        """Return the paths of metadata and CKSUMS that are not as it is on record that they are."""
        record = self.state.written.get(WRITTEN)
        written = record.digests if record else {}
        paths = sorted({*contents, *written}) if record else []
        return [p for p in paths if _digest(contents.get(p)) not in written.get(p, (_ABSENT,))]

    def metadata_locked(self, holder: str, *, shared: bool = True) -> AbstractContextManager[None]:
        """Keep metadata and CKSUMS from being rewritten for a moment; waits for one that is."""
        return locks.locked(self.state.metadata_lock, holder, shared=shared, wait=True)

    def _write(self, documents: Iterable[tuple[str, Document]]) -> None:
        present = {path: _digest(content) for path, content in self.each_content()}
        wanted: dict[str, str] = {}
        changed: dict[str, bytes] = {}  # of which alone the content is kept

        def want(path: str, content: bytes) -> None:
            wanted[path] = _digest(content)
            if present.get(path) != wanted[path]:
                changed[path] = content

        def each() -> Iterator[Document]:  # one at a time is in memory
            for name, document in documents:
                want(f"meta/{name}", metadata.render(document))
                yield document

        want(self.cksums.name, metadata.render_cksums(each()))
        gone = present.keys() - wanted.keys()
        if changed or gone:
            self._record_written(present, wanted)
            for path, content in changed.items():
                self.check()
                files.write(self.root / path, content)
            for path in gone:
                self.check()
                files.remove(self.root / path)
        self._record_written(wanted)

    def _record_written(self, *versions: Mapping[str, str]) -> None:
        """Note that each file is as one of these versions, of digests by path, has it."""
        self.check()  # of who took over, the record would say what is wrong
        paths = sorted({path for version in versions for path in version})
        contents = {path: sorted({one.get(path, _ABSENT) for one in versions}) for path in paths}
        self.state.written.put(WrittenRecord(WRITTEN, contents))


def place(mirror: Mirror, image: Path, record: ImageRecord) -> None:
    """Give an image its name in the mirror: a hard link, a reflink, or a copy that is compared."""
    if mirror.has(record):
        return
    goal = mirror.root / record.name
    before = files.seen(goal)
    if before is not None:
        mirror.remove_from_metadata({record.name})
    copied = False
    with files.part_of(goal) as part:
        try:
            os.link(image.resolve(), part)
            _check(image, same=Identity.at(part) == record.identity)
        except FileNotFoundError as error:
            raise storage_error(image, error) from error
        except OSError as error:
            if error.errno not in files.NO_LINK:
                raise
            _copy(image, part, record)
            copied = True
        copy = Identity.at(part)
        files.claim(part, goal, before)
    if copied:
        mirror.state.images.put(replace(record, copy=copy))


def _copy(image: Path, part: Path, record: ImageRecord) -> None:
    with as_storage_error(image):  # all else that is refused is about the copy
        source = image.open("rb")
    with source, files.create(part) as copy:
        _check(image, same=Identity.of(os.fstat(source.fileno())) == record.identity)
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
        except OSError:
            digest = hashlib.sha512()
            for block in _blocks(image, source):
                digest.update(block)
                copy.write(block)
            _check(image, same=digest.hexdigest() == record.digests.sha512)
        copy.flush()
        os.fsync(copy.fileno())
        _check(image, same=Identity.of(os.fstat(source.fileno())) == record.identity)


def _blocks(image: Path, source: BinaryIO) -> Iterator[bytes]:
    with as_storage_error(image):
        while block := source.read(8 << 20):
            yield block


def _check(image: Path, *, same: bool) -> None:
    if not same:
        text = "it changed while it was being published"
        raise ImageChangingError(image, text, remedy="Run again when it is at rest") from None


def _digest(content: bytes | None) -> str:
    return _ABSENT if content is None else hashlib.sha256(content).hexdigest()
