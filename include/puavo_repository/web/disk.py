"""What the mirror's files say right now, read again only where a file has changed."""

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from puavo_repository.audit import report as audit_report
from puavo_repository.audit.report import AuditReport
from puavo_repository.fleet import usage
from puavo_repository.fleet.usage import Usage
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import DescribedFile, Document
from puavo_repository.mirror import files, under_way
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.published import Published
from puavo_repository.mirror.records import AlertRecord, Failure, RdiffRecord
from puavo_repository.mirror.under_way import UnderWay
from puavo_repository.prepare.ignored import ignored


class Place(NamedTuple):
    """Which repository is shown."""

    mirror: Path  # folder of the local mirror
    remotes: Sequence[str] = ()  # URLs or ids of connections, that are published to by default
    address: str = ""  # URL that clients use; empty where not known
    ways: Sequence[str] | None = None  # by which somebody is told of failures; None: not known
    images: Path | None = None  # the image directory


@dataclass(frozen=True)
class Disk:
    """The facts that the page is made of."""

    root: Path  # the mirror's folder
    exists: bool = False
    series: Document = field(default_factory=dict)  # all metadata as one document
    described: Sequence[DescribedFile] = ()  # what these name
    documents: Mapping[str, str] = field(default_factory=dict)  # metadata: sha256 by path
    damaged: Mapping[str, str] = field(default_factory=dict)  # metadata files, and why
    sizes: Mapping[str, int] = field(default_factory=dict)  # bytes of every file, by path
    changed: float | None = None  # when clients last got something new, seconds since the epoch
    failures: Mapping[str, Failure] = field(default_factory=dict)  # what is not there, by name
    too_large: Mapping[str, RdiffRecord] = field(default_factory=dict)  # rdiffs that were not kept
    remotes: tuple[Published, ...] = ()  # what the last publishing runs left there
    audit: AuditReport | None = None  # the last one
    usage: Usage | None = None  # what clients fetch, as of the last fold
    alert: AlertRecord | None = None  # the last message about a run
    ignored: Sequence[tuple[str, str]] = ()  # files that look like images, and why they are none
    under_way: tuple[UnderWay, ...] = ()  # what goes on right now
    space: Mapping[str, int] = field(default_factory=dict)  # bytes that were free here, by day
    free: int | None = None  # the same now


class Reader:
    """Reads one mirror, and the names in the folder of its images, again and again."""

    def __init__(self, root: Path, images: Path | None = None) -> None:
        self._mirror, self._images = Mirror(root), images
        self._metadata: dict[tuple[str | int, ...], tuple[Document | str, str]] = {}

    def read(self) -> Disk:
        """Return the facts as they are now.

        Raises:
            OSError, RepositoryError: The mirror cannot be read.
        """
        mirror, root = self._mirror, self._mirror.root
        if not root.is_dir():
            return Disk(root)
        there = dict(files.scan(mirror.meta, "[!.]*.json"))
        documents = self._read_metadata(there)
        damaged = {name: one for name, (one, _) in documents.items() if isinstance(one, str)}
        series: Document = {}
        for document, _ in documents.values():
            series |= {} if isinstance(document, str) else document
        sizes = {name: one.st_size for name, one in files.scan(root)}
        sizes |= {f"rdiffs/{name}": one.st_size for name, one in files.scan(mirror.rdiffs)}
        sizes |= {f"meta/{name}": there[name].st_size for name in documents}
        described = tuple(metadata.described_files(series))
        offered = {file.name for file in described}
        others = set(mirror.state.rdiffs.names()) - offered  # a few of thousands, unless damaged
        rdiffs = (mirror.state.rdiffs.get(name) for name in others)
        cksums = Identity.at(mirror.cksums)
        written = [there[name].st_mtime for name in documents if cksums]
        written += [cksums.mtime / 1e9] if cksums else []
        return Disk(
            root,
            exists=True,
            series=series,
            described=described,
            documents={f"meta/{n}": one for n, (_, one) in documents.items() if n not in damaged},
            damaged=damaged,
            sizes=sizes,
            changed=max(written, default=None),
            failures={one.name: one for one in mirror.state.failures},
            too_large={one.name: one for one in rdiffs if one and one.identity is None},
            remotes=tuple(mirror.state.remotes),
            audit=audit_report.records(root).get(audit_report.NAME),
            usage=usage.last(root),
            alert=mirror.state.alerts.get("alert"),
            ignored=ignored(self._images, offered) if self._images else (),
            under_way=tuple(under_way.now(root)),
            space=space.free if (space := mirror.state.space.get("space")) else {},
            free=shutil.disk_usage(root).free,
        )

    def _read_metadata(
        self, there: Mapping[str, os.stat_result]
    ) -> dict[str, tuple[Document | str, str]]:
        """Return each metadata file by its name, or what is wrong with it, and its sha256.

        They are replaced by rename: inode, size and time tell whether one is still that which was
        parsed before.
        """
        known: dict[tuple[str | int, ...], tuple[Document | str, str]] = {}
        for name, one in there.items():
            if not stat.S_ISREG(one.st_mode):
                continue
            key = (name, one.st_ino, one.st_size, one.st_mtime_ns)
            with suppress(FileNotFoundError):  # replaced or removed a moment ago
                known[key] = self._metadata.get(key) or parsed(self._mirror.meta / name)
        self._metadata = known
        return {str(name): found for (name, *_), found in known.items()}


def parsed(path: Path) -> tuple[Document | str, str]:
    """Return the metadata in a file, or what is wrong with it, and its sha256."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    try:
        return metadata.parse(content), digest
    except ValueError as error:
        return str(error), digest
