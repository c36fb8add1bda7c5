"""What the mirror's files say right now, read again only where a file has changed."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
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
from puavo_repository.mirror.records import Failure, R, RdiffRecord, Records

T = TypeVar("T")

_TICK = 2.0  # seconds; the coarsest clock of a file system


@dataclass(frozen=True)
class Disk:
    """The facts that the page is made of.

    Attributes:
        root: The mirror's folder.
        exists: Whether there is such a folder.
        series: Metadata of every series by its name.
        damaged: Metadata files that cannot be read, and why.
        sizes: Bytes of every file in the mirror, by its path there.
        changed: When clients last got to see anything new, in seconds since the epoch.
        failures: What was asked for and is not there.
        too_large: Names of rdiffs that were made and not worth keeping, to their bytes.
        remotes: What the last publishing runs left on the remotes.
        audit: What the last audit found.
    """

    root: Path
    exists: bool = False
    series: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    changed: float | None = None
    failures: tuple[Failure, ...] = ()
    too_large: Mapping[str, int] = field(default_factory=dict)
    remotes: tuple[Published, ...] = ()
    audit: AuditReport | None = None


class Folder(Generic[T]):
    """The parsed files of one folder.

    Records and metadata are replaced by rename, so the folder's time of modification tells
    whether any was, and name, inode, size and time of a file whether it is still the one that
    was parsed.

    Args:
        parse: Makes of a file's name and bytes what is kept of it.
    """

    def __init__(self, parse: Callable[[str, bytes], T]) -> None:
        self._parse = parse
        self._known: dict[Path, tuple[tuple[int, ...], T]] = {}
        self._settled: tuple[Path, float] | None = None

    def read(self, folder: Path) -> dict[str, T]:
        """Return what the ``.json`` files of a folder hold, by file name, sorted."""
        now = time.time()
        changed = modified(folder)
        if changed is None or self._settled != (folder, changed):
            self._known = self._read(folder)
            # Two changes may share one tick of the file system's clock.
            still = changed is not None and changed < now - _TICK
            self._settled = (folder, changed) if changed is not None and still else None
        return {path.name: value for path, (_, value) in self._known.items()}

    def _read(self, folder: Path) -> dict[Path, tuple[tuple[int, ...], T]]:
        found: dict[Path, tuple[tuple[int, ...], T]] = {}
        for name, status in sorted(listing(folder).items()):
            if name.startswith(".") or not name.endswith(".json"):
                continue
            path = folder / name
            key = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._known.get(path)
            if known is not None and known[0] == key:
                found[path] = known
                continue
            try:
                found[path] = key, self._parse(name, path.read_bytes())
            except FileNotFoundError:
                continue  # replaced or removed a moment ago
        return found


class Reader:
    """Reads one mirror, again and again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._mirror = Mirror(root)
        self._documents = Folder(_document)
        state = self._mirror.state
        self._failures = Folder(_record(state.failures))
        self._rdiffs = Folder(_too_large(state.rdiffs))
        self._remotes = Folder(_record(published.records(root)))
        self._audits = Folder(_record(audit_report.records(root)))

    def read(self) -> Disk:
        """Return the facts as they are now.

        Raises:
            OSError: The mirror cannot be read.
        """
        if not self.root.is_dir():
            return Disk(self.root)
        documents = self._documents.read(self._mirror.meta)
        state = self._mirror.state
        failures = self._failures.read(state.failures.folder).values()
        rdiffs = self._rdiffs.read(state.rdiffs.folder)
        remotes = self._remotes.read(published.records(self.root).folder).values()
        audits = self._audits.read(state.folder).values()
        return Disk(
            self.root,
            exists=True,
            series={
                name: content["images"]
                for document in documents.values()
                if not isinstance(document, str)
                for name, content in document.items()
            },
            damaged={name: doc for name, doc in documents.items() if isinstance(doc, str)},
            sizes=self._sizes(),
            changed=modified(self._mirror.cksums),
            failures=tuple(failure for failure in failures if failure is not None),
            too_large={
                name.removesuffix(".json"): size
                for name, size in rdiffs.items()
                if size is not None
            },
            remotes=tuple(remote for remote in remotes if remote is not None),
            audit=next(iter(audits), None),
        )

    def _sizes(self) -> dict[str, int]:
        images, rdiffs = listing(self.root), listing(self._mirror.rdiffs)
        return {
            **{name: found.st_size for name, found in images.items()},
            **{f"rdiffs/{name}": found.st_size for name, found in rdiffs.items()},
        }


def listing(folder: Path) -> dict[str, os.stat_result]:
    """Return the plain files of a folder, none where there is no such folder."""
    found: dict[str, os.stat_result] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # a run is at work
                if stat.S_ISREG(status.st_mode):
                    found[entry.name] = status
    except (FileNotFoundError, NotADirectoryError):
        pass
    return found


def modified(path: Path) -> float | None:
    """Return when a file or folder last changed, in seconds since the epoch."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _document(_name: str, content: bytes) -> Document | str:
    """Return the metadata in a file, or what is wrong with it."""
    try:
        return metadata.parse(content)
    except ValueError as error:
        return str(error)


def _record(records: Records[R]) -> Callable[[str, bytes], R | None]:
    """Return how to read the records of a folder; a damaged one is worked out by the next run."""
    return lambda name, content: records.parse(name.removesuffix(".json"), content)


def _too_large(records: Records[RdiffRecord]) -> Callable[[str, bytes], int | None]:
    """Return how to read the bytes of an rdiff that was not kept."""

    def read(name: str, content: bytes) -> int | None:
        if b"null" not in content:  # its identity; there are thousands of the others
            return None
        record = records.parse(name.removesuffix(".json"), content)
        return record.digests.size if record and record.identity is None else None

    return read
