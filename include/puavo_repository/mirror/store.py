"""Folders of records: a small sealed JSON file each, named by what it speaks of.

Records are replaced by rename, carry a checksum, and may be deleted at any time: what is missing or
damaged is worked out again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar
from weakref import WeakValueDictionary

from pydantic import BeforeValidator, TypeAdapter

from puavo_repository.errors import as_storage_error
from puavo_repository.formats import jsonfile
from puavo_repository.mirror import files
from puavo_repository.mirror.files import Identity

FOLDER = ".puavo-repository"  # of all records of a mirror

_adapter: Any = cache(TypeAdapter)
_RECORDS = "[!.]*.json"
# Older records end with the inode.
Stored = Annotated[Identity, BeforeValidator(lambda values: values[:2])]


@dataclass(frozen=True, slots=True, weakref_slot=True)
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


R = TypeVar("R", bound=Record)

# Records in use in this process, by their file as it was read: a run that looks again does not
# read 40,000 files again. They are replaced by rename, never changed; the inode tells two of one
# tick of the clock apart.
_in_use: dict[Path, WeakValueDictionary[tuple[Any, ...], Any]] = {}  # by folder


def _key(name: str, found: os.stat_result) -> tuple[Any, ...]:
    return name, found.st_ino, found.st_size, found.st_mtime_ns


class Records(Generic[R]):
    """A folder of records of one kind: a small JSON file each, named by what it speaks of."""

    def __init__(self, folder: Path, from_dict: Callable[[str, dict[str, Any]], R]) -> None:
        self.folder = folder
        self._from_dict = from_dict
        self._in_use = _in_use.setdefault(folder, WeakValueDictionary())

    def get(self, name: str) -> R | None:
        """Return the record of a file; None if there is none, or none that can be read."""
        path = self._path(name)
        with as_storage_error(path), suppress(FileNotFoundError):
            return self._known(name, path.stat())
        return None

    def _known(self, name: str, found: os.stat_result) -> R | None:
        known: R | None = self._in_use.get(_key(name, found))
        if known is not None:
            return known
        path = f"{self.folder}/{name}.json"  # a Path takes longer than the file, of thousands
        try:
            with open(path, "rb", buffering=0) as stream:  # noqa: PTH123
                key = _key(name, os.fstat(stream.fileno()))
                known = self._from_dict(name, jsonfile.loads_sealed(stream.readall()))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        self._in_use[key] = known
        return known

    def put(self, record: R) -> None:
        """Keep a record."""
        files.write(self._path(record.name), jsonfile.dumps_sealed(record.to_dict()))

    def remove(self, name: str) -> None:
        """Forget a record."""
        files.remove(self._path(name))

    def names(self) -> list[str]:
        """Return what there are records of, sorted."""
        return [name.removesuffix(".json") for name in files.names(self.folder, _RECORDS)]

    def __iter__(self) -> Iterator[R]:
        with as_storage_error(self.folder):
            for name, stat in files.scan(self.folder, _RECORDS):
                if (record := self._known(name.removesuffix(".json"), stat)) is not None:
                    yield record

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"
