"""What is known of the files, kept beside the mirror in ``.puavo-repository``.

::

    .puavo-repository/
        lock                    held by the run that writes the mirror
        metadata.lock           held for the moment in which metadata is rewritten
        images/<image>.json     ImageRecord
        rdiffs/<rdiff>.json     RdiffRecord
        failures/<file>.json    Failure, until the same step succeeds
        description.json        WrittenRecord of metadata and CKSUMS
        id                      by which a remote knows this mirror
        remotes/<address>.json  Published: what counts is the journal there
        anchors/<image>         the delta engine's index of an image

A record speaks of a file with one identity (size, mtime) or of content with one digest;
when that changes the record does not count any more. Records are replaced by rename, carry a
checksum, and may be deleted at any time: what is missing or damaged is worked out again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar
from urllib.parse import quote, unquote
from weakref import WeakValueDictionary

from pydantic import BeforeValidator, Field, TypeAdapter

from puavo_repository.errors import PermanentError, RepositoryError, as_storage_error, printable
from puavo_repository.formats import jsonfile
from puavo_repository.formats.metadata import Digests
from puavo_repository.formats.names import LONGEST
from puavo_repository.mirror import files
from puavo_repository.mirror.files import Identity

logger = logging.getLogger(__name__)

FOLDER = ".puavo-repository"
ADOPTED = "adopted"  # in place of the engine of an rdiff that another system made

_adapter: Any = cache(TypeAdapter)
# Older records end with the inode.
_Stored = Annotated[Identity, BeforeValidator(lambda values: values[:2])]


@dataclass(frozen=True)
class Record:
    """Base of what a file holds: the fields of a dataclass as plain values."""

    name: str  # what it speaks of; its file is named so

    def to_dict(self) -> dict[str, Any]:
        """Return what the file holds; digests lie flat beside the rest, as in metadata."""
        values = asdict(self)
        del values["name"]
        return {**values.pop("digests", {}), **values}

    @classmethod
    def from_dict(cls, name: str, values: dict[str, Any]) -> Self:
        """Read what ``to_dict`` returned."""
        found: Self = _adapter(cls).validate_python({"digests": values, **values, "name": name})
        return found


@dataclass(frozen=True)
class ImageRecord(Record):
    """What one read of an image found."""

    identity: _Stored  # of the file in the image directory that was read
    digests: Digests
    puavo_conf: Annotated[dict[str, Any], Field(alias="puavo-conf")]  # its definitions, merged
    copy: _Stored | None = None  # of the mirror's own file, where no hard link was possible
    read: float = 0.0  # when, in seconds since 1970; 0 where that was not recorded

    def to_dict(self) -> dict[str, Any]:
        """Return what the file holds."""
        values = super().to_dict()
        return {"puavo-conf": values.pop("puavo_conf"), **values}


@dataclass(frozen=True)
class RdiffRecord(Record):
    """An rdiff that was proven, or found not worth keeping."""

    source: str  # sha512 of the image that it is applied to
    target: str  # sha512 of the image that it gives
    digests: Digests  # of the rdiff itself
    identity: _Stored | None  # None where it was larger than the policy's share of its target
    engine: str  # that made it; ``ADOPTED`` for one of the old system's
    made: float = 0.0  # or adopted, in seconds since 1970; 0 where that was not recorded

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
class Published(Record):
    """What is known of one remote, named by its address; times are in seconds since the epoch."""

    generation: int = 0  # counts the changes of what its clients see
    changed: float | None = None  # when a run last found another generation there
    verified: float | None = None  # when a run last found everything there
    files: Mapping[str, str] = field(default_factory=dict)  # that clients see: sha256 by path
    problems: Mapping[str, str] = field(default_factory=dict)  # of the last run, by file or step
    restored: int | None = None  # generation that a rollback put back, while clients see it
    checked: float | None = None  # when a run last looked at it
    reached: bool = True  # by the last run

    @property
    def address(self) -> str:
        """The remote's URL, or the id of its Airflow connection."""
        return unquote(self.name)

    @classmethod
    def from_dict(cls, name: str, values: dict[str, Any]) -> Self:
        """Read what ``to_dict`` returned, or returned before it had the last three values."""
        return super().from_dict(name, {"checked": values["verified"], **values})


R = TypeVar("R", bound=Record)

# Records in use in this process, by their file as it was read: a run that looks again does not
# read 40,000 files again. They are replaced by rename, never changed; the inode tells two of one
# tick of the clock apart.
_in_use: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()


def _key(path: Path, found: os.stat_result) -> tuple[Any, ...]:
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns


class Records(Generic[R]):
    """A folder of records of one kind: a small JSON file each, named by what it speaks of."""

    def __init__(self, folder: Path, from_dict: Callable[[str, dict[str, Any]], R]) -> None:
        self.folder = folder
        self._from_dict = from_dict

    def get(self, name: str) -> R | None:
        """Return the record of a file; None if there is none, or none that can be read."""
        path = self._path(name)
        with as_storage_error(path), suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            known: R | None = _in_use.get(_key(path, path.stat()))
            if known is None:
                with path.open("rb") as stream:
                    key = _key(path, os.fstat(stream.fileno()))
                    known = self._from_dict(name, jsonfile.loads_sealed(stream.read()))
                _in_use[key] = known
            return known
        return None

    def put(self, record: R) -> None:
        """Keep a record."""
        files.write(self._path(record.name), jsonfile.dumps_sealed(record.to_dict()))

    def remove(self, name: str) -> None:
        """Forget a record."""
        files.remove(self._path(name))

    def names(self) -> list[str]:
        """Return what there are records of, sorted."""
        return [path.stem for path in files.listed(self.folder, "[!.]*.json")]

    def __iter__(self) -> Iterator[R]:
        found = (self.get(name) for name in self.names())
        return (record for record in found if record is not None)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


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
        self.remotes = Records(self.folder / "remotes", Published.from_dict)

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
    path = State(mirror).folder / "id"
    found = files.read(path) or b""
    if not re.fullmatch(rb"[0-9a-f]{32}\n", found):
        if not make:
            return ""
        try:
            with files.new_file(path, claimed=True) as stream:
                stream.write(f"{secrets.token_hex(16)}\n".encode())
        except RepositoryError:
            if files.read(path) == found:  # else another publisher was faster
                raise
        return mirror_id(mirror, make=False)
    return found.decode().strip()


def known(mirror: Path, address: str) -> Published:
    """Return what is known of a remote; of one that no run looked at yet, nothing."""
    name = quote(address, safe="")
    return State(mirror).remotes.get(name) or Published(name)


def remember(
    mirror: Path,
    address: str,
    generation: int,
    *,
    files: Mapping[str, str] | None,
    problems: Mapping[str, str],
    restored: int | None = None,
) -> Published:
    """Keep what a run left on a remote, whose ``address`` holds no password.

    Its clients see ``generation``, 0 where there is none, and ``files``; where these are None it
    could not be reached, and what was known stays. ``restored`` counts until they see another.
    """
    found = replace(known(mirror, address), problems=dict(problems), reached=files is not None)
    if files is not None:
        now = time.time()
        same = generation == found.generation
        found = replace(
            found,
            generation=generation,
            changed=found.changed if same else now,
            verified=found.verified if problems else now,
            files=dict(files),
            restored=found.restored if same and restored is None else restored,
            checked=now,
        )
    State(mirror).remotes.put(found)
    return found
