"""What the mirror's files say right now, read again only where a file has changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from puavo_repository.audit import report as audit_report
from puavo_repository.audit.report import AuditReport
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.mirror import published
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.published import Published
from puavo_repository.mirror.records import Failure

T = TypeVar("T")


@dataclass(frozen=True)
class Disk:
    """The facts that the page is made of."""

    root: Path  # the mirror's folder
    exists: bool = False
    series: Document = field(default_factory=dict)  # all metadata as one document
    damaged: Mapping[str, str] = field(default_factory=dict)  # metadata files, and why
    sizes: Mapping[str, int] = field(default_factory=dict)  # bytes of every file, by path
    changed: float | None = None  # when clients last got something new, seconds since the epoch
    failures: Mapping[str, Failure] = field(default_factory=dict)  # what is not there, by name
    too_large: Mapping[str, int] = field(default_factory=dict)  # bytes of rdiffs that were not kept
    remotes: tuple[Published, ...] = ()  # what the last publishing runs left there
    audit: AuditReport | None = None  # the last one


class Folder(Generic[T]):
    """The ``.json`` files of one folder, each parsed again only when it was replaced.

    They are replaced by rename: inode, size and time of a file tell whether it is still the one
    that was parsed.
    """

    def __init__(self, folder: Path, parse: Callable[[bytes], T]) -> None:
        self._folder, self._parse = folder, parse
        self._known: dict[str, tuple[tuple[int, ...], T]] = {}

    def read(self) -> dict[str, T]:
        """Return what the files hold, by name, sorted."""
        known: dict[str, tuple[tuple[int, ...], T]] = {}
        for name, status in sorted(listing(self._folder).items()):
            if name.startswith(".") or not name.endswith(".json"):
                continue
            key = (status.st_ino, status.st_size, status.st_mtime_ns)
            found = self._known.get(name)
            with suppress(FileNotFoundError):  # replaced or removed a moment ago
                if found is None or found[0] != key:
                    found = key, self._parse((self._folder / name).read_bytes())
                known[name] = found
        self._known = known
        return {name.removesuffix(".json"): value for name, (_, value) in known.items()}


class Reader:
    """Reads one mirror, again and again."""

    def __init__(self, root: Path) -> None:
        self._mirror = Mirror(root)
        self._documents = Folder(self._mirror.meta, _document)
        self._rdiffs = Folder(self._mirror.state.rdiffs.folder, self._too_large)

    def read(self) -> Disk:
        """Return the facts as they are now.

        Raises:
            OSError, RepositoryError: The mirror cannot be read.
        """
        mirror, root = self._mirror, self._mirror.root
        if not root.is_dir():
            return Disk(root)
        documents = self._documents.read()
        found = [document for document in documents.values() if not isinstance(document, str)]
        sizes = {name: one.st_size for name, one in listing(root).items()}
        rdiffs = listing(mirror.rdiffs).items()
        described = Identity.at(mirror.cksums)
        return Disk(
            root,
            exists=True,
            series={name: one for document in found for name, one in document.items()},
            damaged={f"{name}.json": d for name, d in documents.items() if isinstance(d, str)},
            sizes=sizes | {f"rdiffs/{name}": one.st_size for name, one in rdiffs},
            changed=described.mtime / 1e9 if described else None,
            failures={one.name: one for one in mirror.state.failures},
            too_large={n: size for n, size in self._rdiffs.read().items() if size is not None},
            remotes=tuple(published.records(root)),
            audit=audit_report.records(root).get(audit_report.NAME),
        )

    def _too_large(self, content: bytes) -> int | None:
        """Return the bytes of an rdiff that was not kept."""
        if b"null" not in content:  # its identity; there are thousands of the others
            return None
        record = self._mirror.state.rdiffs.parse("", content)
        return record.digests.size if record and record.identity is None else None


def listing(folder: Path) -> dict[str, os.stat_result]:
    """Return the plain files of a folder, none where there is no such folder."""
    found: dict[str, os.stat_result] = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # a run is at work
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found[entry.name] = status
    return found


def _document(content: bytes) -> Document | str:
    """Return the metadata in a file, or what is wrong with it."""
    try:
        return metadata.parse(content)
    except ValueError as error:
        return str(error)
