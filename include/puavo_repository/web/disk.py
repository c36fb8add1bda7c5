"""What the mirror's files say right now, read again only where a file has changed."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from puavo_repository.audit import report as audit_report
from puavo_repository.audit.report import AuditReport
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.mirror import published
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.published import Published
from puavo_repository.mirror.records import Failure

T = TypeVar("T")
_TICK = 2.0  # seconds; the coarsest clock of a file system


@dataclass(frozen=True)
class Disk:
    """The facts that the page is made of."""

    root: Path  # the mirror's folder
    exists: bool = False
    series: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)  # images of metadata
    damaged: Mapping[str, str] = field(default_factory=dict)  # metadata files, and why
    sizes: Mapping[str, int] = field(default_factory=dict)  # bytes of every file, by path
    changed: float | None = None  # when clients last got something new, seconds since the epoch
    failures: Mapping[str, Failure] = field(default_factory=dict)  # what is not there, by name
    too_large: Mapping[str, int] = field(default_factory=dict)  # bytes of rdiffs that were not kept
    remotes: tuple[Published, ...] = ()  # what the last publishing runs left there
    audit: AuditReport | None = None  # the last one


class Folder(Generic[T]):
    """The ``.json`` files of one folder, each parsed again only when it was replaced.

    They are replaced by rename, so the folder's time of modification tells whether any was, and
    inode, size and time of a file whether it is still the one that was parsed.
    """

    def __init__(self, folder: Path, parse: Callable[[bytes], T]) -> None:
        self._folder, self._parse = folder, parse
        self._known: dict[str, tuple[tuple[int, ...], T]] = {}
        self._settled: float | None = None

    def read(self) -> dict[str, T]:
        """Return what the files hold, by name, sorted."""
        now, changed = time.time(), modified(self._folder)
        if changed is None or changed != self._settled:
            self._known = dict(self._read())
            # Two changes may share one tick of the file system's clock.
            self._settled = changed if changed is not None and changed < now - _TICK else None
        return {name.removesuffix(".json"): value for name, (_, value) in self._known.items()}

    def _read(self) -> Iterator[tuple[str, tuple[tuple[int, ...], T]]]:
        for name, status in sorted(listing(self._folder).items()):
            if name.startswith(".") or not name.endswith(".json"):
                continue
            key = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._known.get(name)
            with suppress(FileNotFoundError):  # replaced or removed a moment ago
                if known is None or known[0] != key:
                    known = key, self._parse((self._folder / name).read_bytes())
                yield name, known


class Reader:
    """Reads one mirror, again and again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._mirror = Mirror(root)
        self._documents = Folder(self._mirror.meta, _document)
        self._rdiffs = Folder(self._mirror.state.rdiffs.folder, self._too_large)

    def read(self) -> Disk:
        """Return the facts as they are now.

        Raises:
            OSError, RepositoryError: The mirror cannot be read.
        """
        if not self.root.is_dir():
            return Disk(self.root)
        documents = self._documents.read()
        found = [document for document in documents.values() if not isinstance(document, str)]
        images, rdiffs = listing(self.root), listing(self._mirror.rdiffs)
        sizes = {**images, **{f"rdiffs/{name}": status for name, status in rdiffs.items()}}
        return Disk(
            self.root,
            exists=True,
            series={name: one["images"] for document in found for name, one in document.items()},
            damaged={f"{name}.json": d for name, d in documents.items() if isinstance(d, str)},
            sizes={path: status.st_size for path, status in sizes.items()},
            changed=modified(self._mirror.cksums),
            failures={one.name: one for one in self._mirror.state.failures},
            too_large={
                name: size for name, size in self._rdiffs.read().items() if size is not None
            },
            remotes=tuple(published.records(self.root)),
            audit=audit_report.records(self.root).get(AuditReport.name),
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


def modified(path: Path) -> float | None:
    """Return when a file or folder last changed, in seconds since the epoch."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _document(content: bytes) -> Document | str:
    """Return the metadata in a file, or what is wrong with it."""
    try:
        return metadata.parse(content)
    except ValueError as error:
        return str(error)
