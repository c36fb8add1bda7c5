"""What the mirror's files say right now, read again only where a file has changed."""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from puavo_repository.audit import report as audit_report
from puavo_repository.audit.report import AuditReport
from puavo_repository.fleet import usage
from puavo_repository.fleet.usage import Usage
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import Failure, Published, RdiffRecord


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
    too_large: Mapping[str, RdiffRecord] = field(default_factory=dict)  # rdiffs that were not kept
    remotes: tuple[Published, ...] = ()  # what the last publishing runs left there
    audit: AuditReport | None = None  # the last one
    usage: Usage | None = None  # what clients fetch, as of the last fold


class Reader:
    """Reads one mirror, again and again."""

    def __init__(self, root: Path) -> None:
        self._mirror = Mirror(root)
        self._metadata: dict[tuple[str | int, ...], Document | str] = {}

    def read(self) -> Disk:
        """Return the facts as they are now.

        Raises:
            OSError, RepositoryError: The mirror cannot be read.
        """
        mirror, root = self._mirror, self._mirror.root
        if not root.is_dir():
            return Disk(root)
        documents = self._read_metadata()
        series: Document = {}
        for document in documents.values():
            series |= {} if isinstance(document, str) else document
        sizes = {name: one.st_size for name, one in listing(root).items()}
        sizes |= {f"rdiffs/{name}": one.st_size for name, one in listing(mirror.rdiffs).items()}
        described = {file.name for file in metadata.described_files(series)}
        others = set(mirror.state.rdiffs.names()) - described  # a few of thousands
        rdiffs = (mirror.state.rdiffs.get(name) for name in others)
        written = Identity.at(mirror.cksums)
        return Disk(
            root,
            exists=True,
            series=series,
            damaged={name: why for name, why in documents.items() if isinstance(why, str)},
            sizes=sizes,
            changed=written.mtime / 1e9 if written else None,
            failures={one.name: one for one in mirror.state.failures},
            too_large={one.name: one for one in rdiffs if one and one.identity is None},
            remotes=tuple(mirror.state.remotes),
            audit=audit_report.records(root).get(audit_report.NAME),
            usage=usage.last(root),
        )

    def _read_metadata(self) -> dict[str, Document | str]:
        """Return each metadata file by its name, or what is wrong with it.

        They are replaced by rename: inode, size and time tell whether one is still that which was
        parsed before.
        """
        known: dict[tuple[str | int, ...], Document | str] = {}
        for name, one in sorted(listing(self._mirror.meta).items()):
            if name.startswith(".") or not name.endswith(".json"):
                continue
            key = (name, one.st_ino, one.st_size, one.st_mtime_ns)
            with suppress(FileNotFoundError):  # replaced or removed a moment ago
                known[key] = self._metadata.get(key) or parsed(self._mirror.meta / name)
        self._metadata = known
        return {str(name): document for (name, *_), document in known.items()}


def parsed(path: Path) -> Document | str:
    """Return the metadata in a file, or what is wrong with it."""
    try:
        return metadata.parse(path.read_bytes())
    except ValueError as error:
        return str(error)


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
