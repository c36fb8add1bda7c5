"""What is known of the files, kept beside the mirror in ``.puavo-repository``.

::

    .puavo-repository/
        lock                    held by the run that writes the mirror
        metadata.lock           held for the moment in which metadata is rewritten
        images/<image>.json     ImageRecord
        rdiffs/<rdiff>.json     RdiffRecord
        failures/<file>.json    Failure, until the same step succeeds
        description.json        WrittenRecord of metadata and CKSUMS
        space.json              SpaceRecord: how the local disk fills
        alert.json              AlertRecord of the last message about a failed run
        id                      by which a remote knows this mirror
        remotes/<address>.json  Published: what counts is the journal there
        under-way/<work>.json   UnderWay, while somebody is at it
        anchors/<image>         the delta engine's index of an image

A record speaks of a file with one identity (size, mtime) or of content with one digest;
when that changes the record does not count any more. How they lie there: ``store``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from puavo_repository.errors import PermanentError, RepositoryError, printable
from puavo_repository.formats.metadata import Digests
from puavo_repository.formats.names import LONGEST
from puavo_repository.mirror import files, locks, published, space
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.store import FOLDER, Record, Records, Stored

logger = logging.getLogger(__name__)

_ID = re.compile(rb"[0-9a-f]{32}\n")
ADOPTED = "adopted"  # in place of the engine of an rdiff that another system made


_Shared = Annotated[str, AfterValidator(sys.intern)]  # the same one in thousands of records


@lru_cache(64)
def _parsed(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def _shared(definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the same object for equal definitions: one image has much the same as the next."""
    return _parsed(json.dumps(definitions))


@dataclass(frozen=True, slots=True)
class ImageRecord(Record):
    """What one read of an image found."""

    identity: Stored  # of the file in the image directory that was read
    digests: Digests
    # Its definitions, merged; never changed, since several records may share them.
    puavo_conf: Annotated[dict[str, Any], Field(alias="puavo-conf"), AfterValidator(_shared)]
    copy: Stored | None = None  # of the mirror's own file, where no hard link was possible
    read: float = 0.0  # when, in seconds since 1970; 0 where that was not recorded

    def to_dict(self) -> dict[str, Any]:
        """Return what the file holds."""
        values = Record.to_dict(self)
        return {"puavo-conf": values.pop("puavo_conf"), **values}

    @property
    def path(self) -> str:
        """Where it lies in the mirror."""
        return self.name

    def fits(self, found: Identity | None) -> bool:
        """Tell whether the mirror's own file, by its identity, is the one that was read."""
        return found is not None and found in {self.identity, self.copy}


@dataclass(frozen=True, slots=True)
class RdiffRecord(Record):
    """An rdiff that was proven, or found not worth keeping."""

    source: _Shared  # sha512 of the image that it is applied to
    target: _Shared  # sha512 of the image that it gives
    digests: Digests  # of the rdiff itself
    identity: Stored | None  # None where it was larger than the policy's share of its target
    engine: _Shared  # that made it; ``ADOPTED`` for one of the old system's
    made: float = 0.0  # or adopted, in seconds since 1970; 0 where that was not recorded

    @property
    def path(self) -> str:
        """Where it lies in the mirror."""
        return f"rdiffs/{self.name}"

    def fits(self, found: Identity | None) -> bool:
        """Tell whether the mirror's file, by its identity, is the one that was proven."""
        return found == self.identity

    def leads(self, source: ImageRecord, target: ImageRecord) -> bool:
        """Tell whether it was proven between just these contents."""
        return (self.source, self.target) == (source.digests.sha512, target.digests.sha512)


@dataclass(frozen=True)
class Failure(Record):
    """One image or rdiff that was asked for and could not be done."""

    stage: str
    message: str  # what happened and the way out
    permanent: bool = True  # a retry cannot help

    @classmethod
    def of(cls, name: str, stage: str, error: RepositoryError) -> Failure:
        """Return what an error means for one file; its name need not be fit for a record's."""
        text = printable(name).replace("/", "_")
        if len(text.encode()) > LONGEST:
            start = text.encode()[: LONGEST - 20].decode(errors="ignore")
            text = f"{start}~{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        return cls(text, stage, str(error), isinstance(error, PermanentError))


@dataclass(frozen=True)
class WrittenRecord(Record):
    """Which bytes metadata and CKSUMS were given, so that a later change is seen.

    Every digit in them reaches all clients, and one that flipped on a disk is still a digit.
    """

    # By path: sha256 of each content that a file may have, empty where it may be absent. While
    # one version takes another's place it may be either.
    digests: Mapping[str, list[str]]

    def to_dict(self) -> dict[str, Any]:
        """Return what the file holds."""
        return {"digests": dict(self.digests)}


@dataclass(frozen=True)
class SpaceRecord(Record):
    """What the disk of the mirror had left."""

    free: Mapping[str, int]  # bytes by day; see ``space``


@dataclass(frozen=True)
class AlertRecord(Record):
    """The last try to send a message about a run that failed; it holds no address and no secret."""

    at: float  # when somebody tried to send it, in seconds since the epoch
    subject: str  # of the one that was last sent
    sent: float | None  # when that was
    problem: str = ""  # why this one could not be; empty where it was


class State:
    """All that is known of one mirror."""

    def __init__(self, mirror: Path) -> None:
        self.folder = mirror / FOLDER
        self.lock = self.folder / "lock"
        self.metadata_lock = self.folder / "metadata.lock"
        self.anchors = self.folder / "anchors"
        self.images = Records(self.folder / "images", ImageRecord.from_dict)
        self.rdiffs = Records(self.folder / "rdiffs", RdiffRecord.from_dict)
        self.failures = Records(self.folder / "failures", Failure.from_dict)
        self.written = Records(self.folder, WrittenRecord.from_dict)
        self.space = Records(self.folder, SpaceRecord.from_dict)
        self.alerts = Records(self.folder, AlertRecord.from_dict)
        self.remotes = published.remotes(mirror)

    def note_space(self) -> None:
        """Keep once a day what the mirror's disk has left; without it a day is missing."""
        with suppress(RepositoryError, OSError):
            known, at = self.space.get("space") or SpaceRecord("space", {}), time.time()
            free = shutil.disk_usage(self.folder).free
            if (noted := space.noted(known.free, free, at)).keys() != known.free.keys():
                self.space.put(SpaceRecord("space", noted))

    @contextmanager
    def attempt(self, name: str, stage: str) -> Iterator[None]:
        """Keep why a stage fails for a file until it succeeds; in the log where that fails too."""
        try:
            yield
        except RepositoryError as error:
            try:
                self.failures.put(Failure.of(name, stage, error))
            except RepositoryError as refused:
                logger.warning("why this failed cannot be kept: %s", refused)
            raise
        self.failures.remove(name)


def mirror_id(mirror: Path, *, make: bool) -> str:
    """Return the random id by which a remote knows this mirror; empty where none is to be made."""
    state = State(mirror)
    path = state.folder / "id"
    if make and not _ID.fullmatch(files.read(path) or b""):
        with locks.locked(state.metadata_lock, "naming the mirror", wait=True):
            if not _ID.fullmatch(files.read(path) or b""):  # else another publisher was faster
                files.write(path, f"{secrets.token_hex(16)}\n".encode())
    found = files.read(path) or b""
    return found.decode().strip() if _ID.fullmatch(found) else ""
