"""The store of what clients fetched: ``usage.sqlite`` in ``.puavo-repository``.

Kept for good are counts a day, file and way, and how many clients came a day. Of a day that is not
over yet, and of it alone, a random key is kept with the keyed hashes of its addresses; when the
day is closed both are overwritten with zeros, and of its unfinished downloads stay the number of
bytes, the file and the day, for a week. Addresses are never written.

All of a log is folded in one transaction, with how far it was read: a fold that is killed leaves
nothing behind.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from puavo_repository.errors import LockedError, StorageRefusedError, as_storage_error
from puavo_repository.formats.metadata import Document
from puavo_repository.formats.names import ImageName, image_name, source_image
from puavo_repository.mirror import files
from puavo_repository.mirror.records import State

NAME = "usage.sqlite"
MISSING = "missing"  # in place of a way: the rdiff was asked for, and is not there
GIVEN_UP = "given up"  # the same: the whole image was fetched instead, by the same client
VERSION = 1
_PATIENCE = 600.0  # seconds that one fold waits for another
_TABLES = """
CREATE TABLE IF NOT EXISTS files (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL,
    size INTEGER NOT NULL, target TEXT NOT NULL, described INTEGER NOT NULL,
    first TEXT NOT NULL, last TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counts (day TEXT, file INTEGER, via TEXT, downloads INTEGER NOT NULL,
    bytes INTEGER NOT NULL, PRIMARY KEY (day, file, via)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clients (day TEXT PRIMARY KEY, clients INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS open_days (log TEXT, day TEXT, clients INTEGER NOT NULL,
    state TEXT NOT NULL, PRIMARY KEY (log, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unfinished (log TEXT, day TEXT, file INTEGER, bytes INTEGER);
CREATE TABLE IF NOT EXISTS positions (log TEXT, head BLOB, length INTEGER NOT NULL,
    offset INTEGER NOT NULL, PRIMARY KEY (log, head)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS demand (day TEXT, source TEXT, target TEXT, clients INTEGER NOT NULL,
    PRIMARY KEY (day, source, target)) WITHOUT ROWID;
"""


@dataclass
class File:
    """An image or rdiff that clients fetched, or can."""

    id: int
    name: str
    size: int  # bytes; the largest answer, where no metadata described it
    target: str  # the image that an rdiff leads to; empty for an image
    described: bool  # whether metadata of ours has told its size
    first: str  # day from which it can have been on offer; at first its (target) image's version
    last: str  # day on which it was last described or served

    @property
    def source(self) -> str:
        """The image that an rdiff starts from; empty for an image."""
        return source_image(self.name) if self.target else ""


class Store:
    """The store of one mirror; ``with`` is one transaction, on one day, and waits for another's."""

    def __init__(self, mirror: Path) -> None:
        self.path = State(mirror).folder / NAME
        self.files: dict[str, File] = {}
        self.leading_to: dict[str, list[File]] = defaultdict(list)  # rdiffs by their target

    def __enter__(self) -> Self:
        try:
            with as_storage_error(self.path), ExitStack() as failing:
                files.make_folder(self.path.parent)
                self._db = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
                failing.callback(self._db.close)
                self._db.execute("PRAGMA secure_delete = ON")
                self._db.execute("BEGIN IMMEDIATE")
                self._prepare()
                failing.pop_all()  # from here on __exit__ closes it
        except sqlite3.Error as error:
            self._fail(error)
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        try:
            self._db.execute("ROLLBACK" if error else "COMMIT")
        except sqlite3.Error as why:
            if error is None:
                self._fail(why)
        finally:
            self._db.close()
        if isinstance(error, sqlite3.Error):
            self._fail(error)

    def _prepare(self) -> None:
        self.today = today()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            problem = "it was written by a newer version"
            raise StorageRefusedError(self.path, problem, remedy="Install that one again")
        for statement in filter(str.strip, _TABLES.split(";")):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._is_new = version == 0
        for values in self._db.execute("SELECT * FROM files"):
            self._add(File(*values))

    def _fail(self, error: sqlite3.Error) -> None:
        if "locked" in str(error):
            raise LockedError(self.path, "another run folds logs into it") from error
        remedy = f"Free some space, or move {self.path} away: counts begin anew then"
        raise StorageRefusedError(self.path, f"SQLite says: {error}", remedy=remedy) from error

    def describe(self, documents: Iterable[Document]) -> None:
        """Take note of what is on offer today, and since when it is."""
        for document in documents:
            for series in document.values():
                for entry in series["images"]:
                    self._described(entry["filename"], entry["size"], "")
                    for diff in entry.get("diffs", []):
                        self._described(diff["filename"], diff["size"], entry["filename"])
        self._keep_files()

    def _described(self, name: str, size: int, target: str) -> None:
        if ImageName.parse(target or name) is None or (target and not source_image(name)):
            return
        file = self.file(name)
        if not (file.described or file.size or self._is_new):
            file.first = self.today  # it was neither described nor served before
        file.size, file.target, file.described = size, target, True
        file.last = max(file.last, self.today)

    def file(self, name: str) -> File:
        """Return what is known of a file by its name; from now on it is known."""
        if name not in self.files:
            target = self._target(name)
            day = _day_of(target or name)
            sql = "INSERT INTO files VALUES (NULL, ?, 0, ?, 0, ?, ?) RETURNING id"
            ((number,),) = self._db.execute(sql, (name, target, day, day)).fetchall()
            self._add(File(number, name, 0, target, described=False, first=day, last=day))
        return self.files[name]

    def _add(self, file: File) -> None:
        self.files[file.name] = file
        self.leading_to[file.target].append(file)

    def _target(self, rdiff: str) -> str:
        """Return the image that an rdiff leads to, by its name alone; empty for an image."""
        if not (source := source_image(rdiff)):
            return ""
        image, (_, _, rest) = image_name(source), rdiff.rpartition("--")
        return f"{image.prefix}-{rest.removesuffix('.rdiff')}.img"

    def wanted(self, rdiff: str) -> File | None:
        """Return an rdiff by its name, if it is one between two images that were on offer."""
        both = {source_image(rdiff), self._target(rdiff)}
        return self.file(rdiff) if both <= self.files.keys() else None

    def count(self, counts: Mapping[tuple[str, int, str], list[int]]) -> None:
        """Add downloads and bytes by day, file and way."""
        self._db.executemany(
            "INSERT INTO counts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "downloads = downloads + excluded.downloads, bytes = bytes + excluded.bytes",
            [(*key, *values) for key, values in counts.items()],
        )

    def add_clients(self, day: str, clients: int) -> None:
        """Add the clients of a day that is closed."""
        sql = (
            "INSERT INTO clients VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET clients = clients + excluded.clients"
        )
        self._db.execute(sql, (day, clients))

    def open_days(self, log: str) -> dict[str, Any]:
        """Return the state of the days of a log that are not closed."""
        sql = "SELECT day, state FROM open_days WHERE log = ?"
        return {day: json.loads(state) for day, state in self._db.execute(sql, (log,))}

    def unfinished(self, log: str) -> dict[int, list[tuple[str, int]]]:
        """Return day and bytes of the unfinished downloads of closed days, by file."""
        found = defaultdict(list)
        sql = "SELECT file, day, bytes FROM unfinished WHERE log = ?"
        for file, day, count in self._db.execute(sql, (log,)):
            found[file].append((day, count))
        return found

    def keep(
        self,
        log: str,
        days: Mapping[str, tuple[int, Any]],
        unfinished: Mapping[int, Iterable[tuple[str, int]]],
    ) -> None:
        """Keep the open days of a log, with their clients so far, and what is unfinished."""
        for table in ("open_days", "unfinished"):
            self._db.execute(f"DELETE FROM {table} WHERE log = ?", (log,))  # noqa: S608
        rows = [(log, day, count, json.dumps(state)) for day, (count, state) in days.items()]
        self._db.executemany("INSERT INTO open_days VALUES (?, ?, ?, ?)", rows)
        parts = [(log, day, f, size) for f, found in unfinished.items() for day, size in found]
        self._db.executemany("INSERT INTO unfinished VALUES (?, ?, ?, ?)", parts)
        self._keep_files()

    def _keep_files(self) -> None:
        """Keep what is known of files."""
        sql = "UPDATE files SET size=?, target=?, described=?, first=?, last=? WHERE id=?"
        known = self.files.values()
        rows = [(f.size, f.target, f.described, f.first, f.last, f.id) for f in known]
        self._db.executemany(sql, rows)

    def positions(self, log: str) -> list[tuple[bytes, int, int]]:
        """Return digest and length of the first bytes of each file, and how far it was read."""
        sql = "SELECT head, length, offset FROM positions WHERE log = ? ORDER BY length DESC"
        return self._db.execute(sql, (log,)).fetchall()

    def move(self, log: str, old: bytes, head: bytes, length: int, offset: int) -> None:
        """Keep how far a file was read, in place of what was known of it."""
        self._db.execute("DELETE FROM positions WHERE log = ? AND head = ?", (log, old))
        sql = "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)"
        self._db.execute(sql, (log, head, length, offset))

    def set_demand(self, demand: Mapping[tuple[str, str], int]) -> None:
        """Keep how many clients have an image and want another, or the same, as of today."""
        self._db.execute("DELETE FROM demand")
        rows = [(self.today, source, target, n) for (source, target), n in demand.items()]
        self._db.executemany("INSERT INTO demand VALUES (?, ?, ?, ?)", rows)

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """Return what a question is answered with."""
        return self._db.execute(sql, values).fetchall()


def today() -> str:
    """Return the day in UTC."""
    return datetime.now(UTC).date().isoformat()


def days_before(day: str, days: int) -> str:
    """Return the day that comes so many days before one."""
    return (date.fromisoformat(day) - timedelta(days)).isoformat()


def _day_of(image: str) -> str:
    """Return the day that an image's version names; one long ago where that is none."""
    with suppress(ValueError):
        return date.fromisoformat(image_name(image).version[:10]).isoformat()
    return "1970-01-01"
