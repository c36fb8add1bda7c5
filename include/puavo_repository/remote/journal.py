"""The journal of a remote mirror: what we put there, which generation it is, and the way back.

It lies on the remote itself, so that it survives the loss of the machine that publishes::

    .puavo-publish/
        journal.json            this
        publisher.lock          held by the run that publishes (``lock``)
        parts.json              what is on its way, and how far
        generations/<n>.json    what generation n replaced

A file is entered *before* it is sent: whatever happens, what we put there is known to be ours,
and nothing else is ever removed. A journal that is damaged is worked out again from the metadata
there, of now and of the generations before.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import Field, PlainSerializer, TypeAdapter, ValidationError

from puavo_repository.formats import jsonfile, metadata
from puavo_repository.remote import lock
from puavo_repository.remote.documents import read_whole
from puavo_repository.remote.tree import Kind, RemoteStat, RemoteTree

logger = logging.getLogger(__name__)

FOLDER = lock.FOLDER
PATH = f"{FOLDER}/journal.json"
GENERATIONS = f"{FOLDER}/generations"
PARTS = f"{FOLDER}/parts.json"
LOST = b"lost"  # stands for a document that was not as we had published it any more
_NO_TIME = -1  # seconds; no server has a file from before the epoch
# What a document of ours may hold: whoever wrote it, its paths stay in the tree.
OwnPath = Annotated[str, Field(pattern=r"^((meta|rdiffs)/)?[^/\x00.][^/\x00]*$")]
MetaPath = Annotated[str, Field(pattern=r"^meta/[^/\x00.][^/\x00]*$")]
PartPath = Annotated[str, Field(pattern=r"^((meta|rdiffs)/)?\.[^/\x00.][^/\x00]*\.part$")]
Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
Time = Annotated[int, Field(strict=True, ge=_NO_TIME, lt=1 << 63)]  # seconds


class Moment(NamedTuple):
    """One moment on two clocks, because either may be far off."""

    server: Time  # on the server's clock
    local: Time  # on this machine's

    def age(self, now: Moment) -> int:
        """Return the seconds passed until ``now``: the fewer that the two clocks tell."""
        return min(now.server - self.server, now.local - self.local)


class Entry(NamedTuple):
    """One file that we put on the remote; its fields in this order are its JSON."""

    size: Count  # bytes
    sha256: str  # of its content
    mtime: Time | None  # what the server said after it was proven in place; None before
    unnamed: Moment | None  # since when no metadata names it; None while some does
    ours: bool = True  # whether we put it there (then not in the JSON); others' is never removed

    def agrees(self, found: RemoteStat | None) -> bool:
        """Say whether what the server shows is the file as we left it."""
        return found is not None and found.is_file(self.size) and found.mtime == self.mtime


@dataclass
class Journal:
    """What we put on one remote mirror; its fields in this order are its JSON."""

    generation: Count = 0  # counts the changes of what clients see
    verified: bool = False  # whether that generation was found complete after it was made
    # Files that a rollback took from clients, sha256 by path: not published again by themselves.
    rejected: dict[str, str] = field(default_factory=dict)
    mirror: str = ""  # id of the mirror it is published from; empty where nobody said so yet
    files: dict[OwnPath, Entry] = field(default_factory=dict)  # by path

    def intend(self, path: str, size: int, sha256: str) -> None:
        """Enter a file that is about to be sent, unless it is known as ours with this content."""
        known = self._entry(path, size, sha256)
        self.files[path] = known if known.ours else Entry(size, sha256, None, None)

    def placed(self, path: str, size: int, sha256: str, mtime: int) -> None:
        """Enter a file that we put in place, proven."""
        self.files[path] = self._entry(path, size, sha256)._replace(mtime=mtime, ours=True)

    def found(self, path: str, size: int, sha256: str, mtime: int) -> None:
        """Enter a file that is there and was read whole; it is ours if it was known as that."""
        known = self.files.get(path)
        ours = known is not None and known.ours and known.sha256 == sha256
        self.files[path] = self._entry(path, size, sha256)._replace(mtime=mtime, ours=ours)

    def force_recheck(self, path: str, size: int, sha256: str) -> None:
        """Have the next survey compare a file of ours byte for byte, whatever its time says.

        An entry with a time that the server does not show counts as touched by somebody: data is
        compared whole, a document is read, CKSUMS is written again.
        """
        self.files[path] = self._entry(path, size, sha256)._replace(mtime=_NO_TIME)
        self.verified = False  # a run that finds nothing new must not end before it looked

    def _entry(self, path: str, size: int, sha256: str) -> Entry:
        known = self.files.get(path)
        return known if known and known[:2] == (size, sha256) else Entry(size, sha256, None, None)

    def set_unnamed(self, path: str, since: Moment | None) -> None:
        """Note that metadata names a file (None), or since when none does."""
        if path in self.files:
            self.files[path] = self.files[path]._replace(unnamed=since)

    def render(self) -> bytes:
        """Return the document."""
        entries = sorted(self.files.items())
        files = {path: entry[:-1] if entry.ours else entry for path, entry in entries}
        return jsonfile.dumps_sealed({"version": 1, **vars(self), "files": files})

    @classmethod
    def parse(cls, content: bytes) -> Journal:
        """Read a document; a ``ValueError`` where it is not one of ours."""
        found = jsonfile.loads_sealed(content)
        if missing := {"generation", "verified", "files", "rejected"} - found.keys():
            raise ValueError(f"not a journal: {min(missing)} is missing")
        try:
            return _JOURNAL.validate_python(found)
        except ValidationError as error:
            raise ValueError(f"not a journal: {error.errors()[0]['msg']}") from error


@dataclass(frozen=True)
class Restored:
    """What makes a generation a rollback."""

    restores: Count  # the generation whose metadata it puts back
    # The metadata files that were asked for; empty for all. The same again is no new generation.
    series: tuple[MetaPath, ...] = ()


@dataclass(frozen=True)
class Generation:
    """The record of one generation."""

    number: int
    # When it was published, since the epoch on the publisher's clock; before the year 10000.
    at: Annotated[Time, Field(lt=253_402_300_800)]
    restored: Annotated[Restored | None, Field(alias="step_back")]  # what a rollback puts back
    rejected: Mapping[str, str]  # the journal's since then
    # The metadata before it, by path, as far as it changed; None where there was none.
    replaced: Mapping[MetaPath, str | None]
    # sha256 of each metadata file that it writes, by path: so it is known as ours where whoever
    # wrote it was killed before the journal said so.
    written: Mapping[str, str] = field(default_factory=dict)
    # Files that others put there and our metadata names.
    others: Annotated[frozenset[OwnPath], PlainSerializer(sorted)] = frozenset()
    mirror: str = ""  # id of the mirror that it is published from


@dataclass(frozen=True)
class Part:
    """A file that has not got its name yet."""

    name: PartPath  # where it lies, hidden
    sha256: str  # of the whole file
    synced: Count = 0  # so many bytes from its begin are on the server's disk
    proven: bool = False  # whether it is whole and proven, and waits until it may have its name


_JOURNAL, _GENERATION = TypeAdapter(Journal), TypeAdapter(Generation)
_PARTS = TypeAdapter(dict[OwnPath, Part])


def load(tree: RemoteTree) -> Journal:
    """Read the journal of a remote; a remote without one is new to us."""
    content = read_whole(tree, PATH)
    try:
        if content is not None:
            return Journal.parse(content)
        problem = "is missing"
    except ValueError as error:
        problem = f"is damaged ({error})"
    kept = kept_generations(tree)
    if content is None and not kept:
        return Journal()
    logger.warning("%s/%s %s: it is worked out again", tree.name, PATH, problem)
    return _worked_out(tree, kept)


def _worked_out(tree: RemoteTree, kept: list[int]) -> Journal:
    """Make a journal anew from the records of the generations and the metadata that is there.

    What our metadata names, or named a while ago, is ours, but for what the last record says that
    others put there. Nothing counts as proven: the next survey reads the files.
    """
    records = [record for n in kept if (record := load_generation(tree, n)) is not None]
    journal, others = Journal(generation=kept[-1] if kept else 0), frozenset[str]()
    if records:
        last = records[-1]
        journal.rejected, journal.mirror, others = dict(last.rejected), last.mirror, last.others
    replaced = [(path, text) for record in records for path, text in record.replaced.items()]
    documents = [(p, text.encode("utf-8", "replace")) for p, text in replaced if text is not None]
    ours = {path for record in records for path in (*record.replaced, *record.written)}
    for name, found in tree.list("meta").items():  # what clients see now comes last, and counts
        if found.kind is Kind.FILE and (path := f"meta/{name}") in ours:
            documents.append((path, read_whole(tree, path) or b""))
    for path, content in documents:
        journal.files[path] = Entry(len(content), hashlib.sha256(content).hexdigest(), None, None)
        try:
            for file in metadata.described_files(metadata.parse(content)):
                is_ours = file.path not in others
                journal.files[file.path] = Entry(file.size, file.sha256, None, None, is_ours)
        except ValueError as error:
            logger.warning("%s/%s is damaged: %s", tree.name, path, error)
    # What is gone by now would stay in the journal until a night with news. A server may leave out
    # of a list what is there all the same.
    listed = {
        f"{at}{name}" for at in ("", "meta/", "rdiffs/") for name in tree.list(at.rstrip("/"))
    }
    for path in journal.files.keys() - listed:
        if tree.stat(path) is None:
            del journal.files[path]
    return journal


def save_generation(
    tree: RemoteTree, new: Generation, before: int, held: lock.PublisherLock
) -> None:
    """Keep what a new generation replaces, so that a rollback is possible, and drop the oldest.

    ``before`` is how many before it can be gone back to; after a rollback one more, or it could
    not be ended once it was killed.
    """
    tree.make_folder(GENERATIONS)
    values = _GENERATION.dump_python(new, by_alias=True, exclude={"number"})
    held.write(f"{GENERATIONS}/{new.number}.json", jsonfile.dumps_sealed(values))
    for number in kept_generations(tree):
        if number <= new.number - before - (new.restored is not None):
            held.remove(f"{GENERATIONS}/{number}.json")


def load_generation(tree: RemoteTree, number: int) -> Generation | None:
    """Read the record of a generation; None where there is none, or none that can be read."""
    content = read_whole(tree, f"{GENERATIONS}/{number}.json")
    try:
        values = jsonfile.loads_sealed(content or b"")
        return _GENERATION.validate_python({**values, "number": number})
    except ValueError:
        return None


def kept_generations(tree: RemoteTree) -> list[int]:
    """Return the numbers of the generations that there are records of, ascending."""
    stems = (name.removesuffix(".json") for name in tree.list(GENERATIONS))
    return sorted(int(n) for n in stems if n.isascii() and n.isdigit() and len(n) < 19)


class Parts:
    """The parts on a remote whose lock is ours, by the paths that their files will have.

    One is gone on with from where the server had put it on its disk when this was written, never
    from its length: after a power cut a file may be long and have holes. A damaged record counts
    as none: all is sent anew. For several threads; only ``put`` and ``forget`` change ``known``.
    """

    def __init__(self, tree: RemoteTree, held: lock.PublisherLock) -> None:
        self._lock = held
        self.known: dict[str, Part] = {}
        with contextlib.suppress(ValueError, KeyError):
            found = jsonfile.loads_sealed(read_whole(tree, PARTS) or b"")
            self.known = _PARTS.validate_python(found["parts"])

    def put(self, path: str, part: Part) -> None:
        """Note how far a part is."""
        with self._lock.using:
            if part != self.known.get(path):
                self.known[path] = part
                self._save()

    def forget(self, paths: Collection[str]) -> None:
        """Forget parts that have their names, or are gone."""
        with self._lock.using:
            if gone := self.known.keys() & set(paths):
                for path in gone:
                    del self.known[path]
                self._save()

    def _save(self) -> None:
        if not self.known:
            self._lock.remove(PARTS)
            return
        parts = {"parts": _PARTS.dump_python(dict(sorted(self.known.items())))}
        self._lock.write(PARTS, jsonfile.dumps_sealed(parts))
