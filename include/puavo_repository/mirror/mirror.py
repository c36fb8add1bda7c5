"""The local mirror: the tree that clients see, right at every moment.

Two rules keep it right. A file gets its name only when it is proven and durable. And before a
file that metadata describes is replaced by one with other content, its description is
removed (``remove_from_metadata``); it is described again when the new file is in place.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from puavo_repository.errors import StorageRefusedError, storage_error
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.formats.names import ImageName, is_rdiff_name
from puavo_repository.mirror import files
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.records import ImageRecord, State, WrittenRecord

logger = logging.getLogger(__name__)

_WRITTEN = "description"  # name of the record of what was written
_ABSENT = ""

Contents = Mapping[str, bytes]
"""Bytes of metadata and CKSUMS by their path in the mirror."""


class Mirror:
    """One mirror directory and what is known of it.

    Args:
        root: The directory; made when something is first written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.meta = root / "meta"
        self.rdiffs = root / "rdiffs"
        self.cksums = root / "CKSUMS"
        self.state = State(root)

    @contextmanager
    def locked(self, holder: str, *, shared: bool = False) -> Iterator[None]:
        """Hold the mirror's lock.

        Args:
            holder: Who holds it, in words for the person who finds it held.
            shared: For steps that only read, or only add files of their own, side by side.

        Raises:
            LockedError: Another run holds it.
        """
        with files.locked(self.state.lock, holder, shared=shared):
            if not shared:
                self.state.sweep()
                for folder in (self.root, self.meta, self.rdiffs):
                    files.sweep(folder)
            yield

    def rdiff(self, name: str) -> Path:
        """Return where an rdiff lies."""
        return self.rdiffs / name

    def documents(self) -> dict[str, Document]:
        """Return the metadata of every series, by file name.

        A damaged file counts as empty: it is made anew with the others.
        """
        found: dict[str, Document] = {}
        for path in files.listed(self.meta, "[!.]*.json"):
            try:
                plain = Identity.at(path) is not None
                found[path.name] = metadata.parse(path.read_bytes() if plain else b"")
            except ValueError as error:
                logger.warning("%s is damaged and will be made anew: %s", path, error)
                found[path.name] = {}
            except OSError as error:
                raise storage_error(path, error) from error
        return found

    def contents(self) -> dict[str, bytes]:
        """Return what metadata and CKSUMS hold, by path; only plain files are any of them."""
        paths = [*files.listed(self.meta, "[!.]*.json"), *files.listed(self.root, self.cksums.name)]
        found = {}
        for path in paths:
            if Identity.at(path) is None:
                continue  # reading a pipe would wait for ever
            try:
                found[str(path.relative_to(self.root))] = path.read_bytes()
            except OSError as error:
                raise storage_error(path, error) from error
        return found

    def describe(self, documents: dict[str, Document]) -> bool:
        """Make the metadata say exactly this; return whether a byte changed.

        Args:
            documents: Metadata by file name; files that are not named here are removed.
        """
        with self._rewriting():
            return self._write(documents)

    def remove_from_metadata(self, paths: Collection[str]) -> bool:
        """Take files out of the metadata before (or because) their content changes.

        Args:
            paths: Files by their path in the mirror, such as ``rdiffs/x.rdiff``.

        Returns:
            Whether the metadata named any of them.
        """
        if not paths:
            return False
        with self._rewriting():
            present = self.documents()
            kept = {name: metadata.without(doc, paths) for name, doc in present.items()}
            return kept != present and self._write(kept)

    def wrong_files(self) -> set[str]:
        """Return the described files that are missing or not the ones that were described.

        Nothing is read: a file that lies there with its size, and (where it is on record) with
        its identity, counts as right.
        """
        return {
            described.path
            for document in self.documents().values()
            for described in metadata.described_files(document)
            if not self._holds(described)
        }

    def has(self, record: ImageRecord) -> bool:
        """Tell whether the mirror's own file is the image that ``record`` speaks of."""
        present = Identity.at(self.root / record.name)
        return present is not None and present in {record.identity, record.copy}

    def refuse_foreign(self) -> None:
        """Refuse a folder with files in the place of metadata that no mirror has.

        They would be replaced or removed. A file that a run wrote is ours however damaged it
        is now; one without a record is ours if it reads like a mirror's, such as an old one's.

        Raises:
            StorageRefusedError: There is such a file.
        """
        written = self.state.written.get(_WRITTEN)
        known = written.digests if written else {}
        for path, content in self.contents().items():
            if path not in known and not _reads_like_a_mirror(path, content):
                raise StorageRefusedError(
                    self.root / path,
                    "this is no file of a mirror, and no run wrote it",
                    expected="metadata of images, or nothing",
                    remedy="Choose another mirror directory, or move this file away",
                )

    def owned(self) -> set[str]:
        """Return the paths of the images, rdiffs and metadata that a preparation put here.

        An image counts only where this system or the old one kept a record of it: a folder
        named by mistake must not lose the images that others keep there.
        """
        known = set(self.state.images.names())
        known |= {path.stem for path in files.listed(self.root / ".checksums", "*.cksum")}
        return {
            *(
                name
                for name in files.names_in(self.root, "[!.]*.img")
                if name in known and ImageName.parse(name)
            ),
            *(
                f"rdiffs/{name}"
                for name in files.names_in(self.rdiffs, "[!.]*.rdiff")
                if is_rdiff_name(name)
            ),
            *(f"meta/{name}" for name in files.names_in(self.meta, "[!.]*.json")),
        }

    def changed_since_written(self, contents: Contents) -> list[str]:
        """Return the paths of metadata and CKSUMS that are not, or not there, as they were written.

        Args:
            contents: As ``contents()`` returned them. Where it is not on record what was written,
                nothing is said.
        """
        written = self.state.written.get(_WRITTEN)
        if written is None:
            return []
        return [
            path
            for path in sorted({*contents, *written.digests})
            if _digest(contents.get(path)) not in written.digests.get(path, (_ABSENT,))
        ]

    @contextmanager
    def metadata_locked(self, holder: str) -> Iterator[None]:
        """Keep metadata and CKSUMS from being rewritten for a moment; waits for one that is."""
        with files.locked(self.state.metadata_lock, holder, shared=True, wait=True):
            yield

    @contextmanager
    def _rewriting(self) -> Iterator[None]:
        with files.locked(self.state.metadata_lock, "rewriting metadata", wait=True):
            yield

    def _write(self, documents: dict[str, Document]) -> bool:
        wanted = {f"meta/{name}": metadata.render(doc) for name, doc in documents.items()}
        wanted[self.cksums.name] = metadata.render_cksums(documents.values())
        present = self.contents()
        if present != wanted:
            self._record_written(present, wanted)
            for path, content in wanted.items():
                files.write(self.root / path, content)
            for path in present.keys() - wanted.keys():
                files.remove(self.root / path)
        self._record_written(wanted)
        return present != wanted

    def _record_written(self, *versions: Contents) -> None:
        """Note that each file is as one of these versions has it."""
        paths = sorted({path for version in versions for path in version})
        contents = {path: sorted({_digest(one.get(path)) for one in versions}) for path in paths}
        self.state.written.put(WrittenRecord(_WRITTEN, contents))

    def _holds(self, described: metadata.DescribedFile) -> bool:
        found = Identity.at(self.root / described.path)
        if found is None or found.size != described.size:
            return False
        if described.path.startswith("rdiffs/"):
            rdiff = self.state.rdiffs.get(described.name)
            return rdiff is None or rdiff.identity == found
        image = self.state.images.get(described.name)
        return image is None or found in {image.identity, image.copy}


def _digest(content: bytes | None) -> str:
    return _ABSENT if content is None else hashlib.sha256(content).hexdigest()


def _reads_like_a_mirror(path: str, content: bytes) -> bool:
    if not path.startswith("meta/"):
        return metadata.is_cksums(content)
    try:
        return bool(metadata.parse(content))
    except ValueError:
        return False
