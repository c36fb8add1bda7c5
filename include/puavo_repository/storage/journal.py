"""The journal of a remote mirror: what we put there, and which generation it is.

It lies on the remote itself, so that it survives the loss of the machine that publishes::

    .puavo-publish/
        journal.json            this
        publisher.lock          held by the run that publishes (``publisher_lock``)
        generations/<n>.json    what generation n replaced: the way back

A file is entered *before* it is sent: whatever happens, what we put there is known to be ours,
and nothing else is ever removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from puavo_repository.errors import PublishError
from puavo_repository.formats import jsonfile
from puavo_repository.storage.remote import Kind, RemoteStat, RemoteTree, read_whole, write_whole

FOLDER = ".puavo-publish"
PATH = f"{FOLDER}/journal.json"
GENERATIONS = f"{FOLDER}/generations"
GENERATIONS_KEPT = 30


@dataclass(frozen=True)
class Moment:
    """One moment on two clocks, because either may be far off.

    Attributes:
        server: Seconds on the server's clock.
        local: Seconds on this machine's.
    """

    server: int
    local: int

    def age(self, now: Moment) -> int:
        """Return the seconds passed until ``now``: the fewer that the two clocks tell."""
        return min(now.server - self.server, now.local - self.local)


@dataclass(frozen=True)
class Entry:
    """One file that we put on the remote.

    Attributes:
        size: Bytes.
        sha256: Of its content.
        mtime: What the server said after it was proven in place; None before.
        unnamed: Since when no metadata names it; None while some does.
    """

    size: int
    sha256: str
    mtime: int | None = None
    unnamed: Moment | None = None

    def agrees(self, found: RemoteStat | None) -> bool:
        """Say whether what the server shows is the file as we left it."""
        return (
            found is not None
            and found.kind is Kind.FILE
            and (found.size, found.mtime) == (self.size, self.mtime)
        )

    def to_list(self) -> list[Any]:
        """Return it as JSON carries it."""
        since = [self.unnamed.server, self.unnamed.local] if self.unnamed else None
        return [self.size, self.sha256, self.mtime, since]

    @classmethod
    def from_list(cls, values: list[Any]) -> Entry:
        """Read what ``to_list`` returned."""
        size, sha256, mtime, since = values
        return cls(int(size), str(sha256), mtime, Moment(*since) if since else None)


@dataclass
class Journal:
    """What we put on one remote mirror.

    Attributes:
        generation: Counts the changes of what clients see.
        verified: Whether that generation was found complete after it was made.
        files: Entries by path.
    """

    generation: int = 0
    verified: bool = False
    files: dict[str, Entry] = field(default_factory=dict)

    def intend(self, path: str, size: int, sha256: str) -> None:
        """Enter a file that is about to be sent, unless it is known with this content."""
        known = self.files.get(path)
        if known is None or (known.size, known.sha256) != (size, sha256):
            self.files[path] = Entry(size, sha256)

    def placed(self, path: str, size: int, sha256: str, mtime: int) -> None:
        """Enter a file that is proven to be in place."""
        known = self.files.get(path)
        same = known is not None and (known.size, known.sha256) == (size, sha256)
        self.files[path] = Entry(size, sha256, mtime, known.unnamed if known and same else None)

    def name(self, path: str, since: Moment | None) -> None:
        """Note that metadata names a file (None), or since when none does."""
        entry = self.files.get(path)
        if entry is not None:
            self.files[path] = replace(entry, unnamed=since)

    def render(self) -> bytes:
        """Return the document."""
        return jsonfile.dumps(
            {
                "version": 1,
                "generation": self.generation,
                "verified": self.verified,
                "files": {path: self.files[path].to_list() for path in sorted(self.files)},
            }
        )

    @classmethod
    def parse(cls, content: bytes) -> Journal:
        """Read a document.

        Raises:
            ValueError: It is not one of ours.
        """
        try:
            found = jsonfile.loads(content)
            entries = {path: Entry.from_list(values) for path, values in found["files"].items()}
            return cls(int(found["generation"]), bool(found["verified"]), entries)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a journal: {error!r}") from error


def load(tree: RemoteTree) -> Journal:
    """Read the journal of a remote; a remote without one is new to us.

    Raises:
        PublishError: There is one and it cannot be read. It is replaced whole, so this is
            somebody's hand; without it we would no longer know which files are ours.
    """
    content = read_whole(tree, PATH)
    if content is None:
        return Journal()
    try:
        return Journal.parse(content)
    except ValueError as error:
        raise PublishError(
            f"{tree.name}/{PATH}",
            f"the journal is damaged: {error}",
            remedy="Remove it: the files will be compared with the mirror again; those that no "
            "metadata names any more are then left for you to remove",
        ) from error


def save(tree: RemoteTree, journal: Journal) -> None:
    """Replace the journal on the remote."""
    write_whole(tree, PATH, journal.render())


def save_generation(tree: RemoteTree, number: int, replaced: dict[str, str | None]) -> None:
    """Keep what a generation replaces, so that a step back is possible, and drop the oldest.

    Args:
        tree: The remote.
        number: The new generation.
        replaced: Old content of metadata files and CKSUMS by path; None where there was none.
    """
    tree.make_folder(GENERATIONS)
    write_whole(tree, f"{GENERATIONS}/{number}.json", jsonfile.dumps({"replaced": replaced}))
    for name in tree.list(GENERATIONS):
        stem = name.removesuffix(".json")
        if stem.isdigit() and int(stem) <= number - GENERATIONS_KEPT:
            tree.remove(f"{GENERATIONS}/{name}")
