"""Telling clients of the new files, and removing the old: the steps that clients see.

In this order, so that the metadata that a client finds is true at every moment: what is to
change its content under a name that clients know is withdrawn, then renamed; then the metadata
of each series whose files are all in place; then CKSUMS; and only then, after a grace, the
files that no metadata names go.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from puavo_repository.errors import MassDeleteError, StorageError
from puavo_repository.formats import cksums, metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.stages.publish_plan import Presence, Transfer, mega
from puavo_repository.stages.publish_survey import CKSUMS, Facts, Snapshot, sha256
from puavo_repository.stages.transfer import Placed, settle
from puavo_repository.storage import journal
from puavo_repository.storage.journal import Moment
from puavo_repository.storage.remote import Kind, RemoteTree, read_whole, write_whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cleaning:
    """When and how much may be removed.

    Attributes:
        grace: Seconds a file stays after the last metadata named it: a client may be in the
            middle of it.
        share: Largest share of our bytes there that may go at once.
        allow_mass_delete: Whether more may go this once.
        pause: Seconds between withdrawing a file from the metadata and replacing it, for the
            clients that have just read the metadata.
    """

    grace: float = 3 * 24 * 3600.0
    share: float = 0.3
    allow_mass_delete: bool = False
    pause: float = 30.0


@dataclass
class Switched:
    """What switching did.

    Attributes:
        documents: Metadata files that were written.
        dropped: Metadata files that were removed.
        withdrawn: Files that were taken out of the metadata before they were replaced.
        held: Metadata files that stay as they are, and the files they wait for.
    """

    documents: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    held: dict[str, list[str]] = field(default_factory=dict)


class Switch:
    """Makes the remote's metadata say what the local mirror's says, as far as that is true.

    Args:
        tree: The remote; its lock is held.
        local: What the mirror describes.
        facts: What the remote has; brought up to date here.
        cleaning: When and how much may be removed.
        check: Called before each step that clients see; raises where the lock was lost.
    """

    def __init__(
        self,
        tree: RemoteTree,
        local: Snapshot,
        facts: Facts,
        cleaning: Cleaning,
        check: Callable[[], None],
    ) -> None:
        self._tree = tree
        self._local = local
        self._facts = facts
        self._cleaning = cleaning
        self._check = check
        self._result = Switched()

    def run(self, waiting: Collection[Transfer], done: Collection[Placed]) -> Switched:
        """Do all of it.

        Args:
            waiting: Transfers that replace a file clients know, proven under their part names.
            done: What is proven; those among ``waiting`` get their place here.

        Raises:
            MassDeleteError: Too many files would lose their description.
        """
        self._guard_dropped()
        how = {placed.path: placed.how for placed in done}
        proven = [i for i in waiting if i.path in how and i.part in self._facts.listing]
        withdrawn = {item.path for item in proven}
        self._begin_generation(withdrawn)
        if proven:
            self._withdraw(withdrawn)
        for item in proven:
            self._check()
            self._take_note(settle(self._tree, item, how[item.path]))
        for path in self._local.documents:
            self._describe(path)
        for path in self._dropped():
            self._drop(path)
        if self._cksums_differ():
            self._write(CKSUMS, self._cksums())
        return self._result

    def _begin_generation(self, withdrawn: set[str]) -> None:
        """Keep what is about to be replaced, so that a step back is possible."""
        ready = [path for path in self._local.documents if not self._absent(path, withdrawn)]
        changing = {path for path in ready if path not in self._facts.current}
        changing.update(self._dropped())
        for path, document in self._facts.documents.items():
            if metadata.without(document, withdrawn) != document:
                changing.add(path)
        if not changing:
            return
        self._check()
        record = self._facts.journal
        record.generation += 1
        record.verified = False
        old = {path: read_whole(self._tree, path) for path in sorted({*changing, CKSUMS})}
        journal.save_generation(
            self._tree,
            record.generation,
            {p: None if c is None else c.decode("utf-8", "replace") for p, c in old.items()},
        )
        journal.save(self._tree, record)

    def _take_note(self, placed: Placed) -> None:
        if placed.mtime is not None:
            self._facts.journal.placed(placed.path, placed.size, placed.sha256, placed.mtime)
            self._facts.presence[placed.path] = Presence.PRESENT

    def _absent(self, path: str, coming: Collection[str] = ()) -> list[str]:
        """Return the files that a document of ours names and the remote has not."""
        described = (file.path for file in metadata.described_files(self._local.parsed[path]))
        here = Presence.PRESENT
        return [p for p in described if self._facts.presence.get(p) is not here and p not in coming]

    def _withdraw(self, paths: set[str]) -> None:
        for path, document in self._facts.documents.items():
            kept = metadata.without(document, paths)
            if kept != document:
                self._write_document(path, metadata.render(kept), kept)
                self._facts.current.discard(path)
        self._write(CKSUMS, self._cksums())
        self._result.withdrawn = sorted(paths)
        logger.info("withdrawn before they are replaced: %s", ", ".join(sorted(paths)))
        time.sleep(self._cleaning.pause)

    def _describe(self, path: str) -> None:
        document = self._local.parsed[path]
        absent = self._absent(path)
        if absent:
            self._result.held[path] = absent
        elif path not in self._facts.current:
            self._write_document(path, self._local.documents[path], document)
            self._facts.current.add(path)
            self._result.documents.append(path)

    def _drop(self, path: str) -> None:
        self._check()
        self._tree.remove(path)
        del self._facts.documents[path]
        del self._facts.journal.files[path]
        self._result.dropped.append(path)

    def _dropped(self) -> list[str]:
        ours = self._facts.journal.files
        gone = [path for path in self._facts.documents if path not in self._local.documents]
        return [path for path in gone if path in ours]

    def _guard_dropped(self) -> None:
        """Series that vanish locally are like a mass deletion, only quicker for the clients."""
        dropped = set(self._dropped())
        kept = {
            file.path
            for path, document in self._facts.documents.items()
            if path not in dropped
            for file in metadata.described_files(document)
        }
        lost = self._facts.named() - kept - set(self._local.wanted)
        guard(self._tree.name, self._facts, lost, self._cleaning)

    def _write_document(self, path: str, content: bytes, document: Document) -> None:
        self._tree.make_folder("meta")
        self._write(path, content)
        self._facts.documents[path] = document

    def _write(self, path: str, content: bytes) -> None:
        self._check()
        write_whole(self._tree, path, content)
        found = self._tree.stat(path)
        if found is None:
            raise StorageError(f"{self._tree.name}/{path}", "was removed while it was published")
        self._facts.journal.placed(path, len(content), sha256(content), found.mtime)
        self._facts.listing[path] = found

    def _cksums(self) -> bytes:
        """Render CKSUMS for the metadata that the remote has now."""
        documents = self._facts.documents
        if self._facts.current == set(documents) == set(self._local.documents):
            return self._local.cksums
        return cksums.render(
            (file.name, file.digests.get("cksum", ""), file.size)
            for document in documents.values()
            for file in metadata.described_files(document)
        )

    def _cksums_differ(self) -> bool:
        entry = self._facts.journal.files.get(CKSUMS)
        same = entry is not None and entry.sha256 == sha256(self._cksums())
        return not (same and entry and entry.agrees(self._facts.listing.get(CKSUMS)))


@dataclass
class Pruned:
    """What cleaning did.

    Attributes:
        removed: Files that are gone, with their bytes.
        waiting: Files whose grace is not over.
    """

    removed: dict[str, int] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)


def prune(
    tree: RemoteTree,
    facts: Facts,
    keep: Collection[str],
    cleaning: Cleaning,
    now: Moment,
    check: Callable[[], None],
) -> Pruned:
    """Remove what we put there and no metadata names, when its grace is over.

    Args:
        tree: The remote; its lock is held.
        facts: What it has; the journal in it is brought up to date.
        keep: Files that the local metadata names: some may be there before the remote's do.
        cleaning: When and how much may be removed.
        now: The moment, on both clocks.
        check: Called before each removal; raises where the lock was lost.

    Raises:
        MassDeleteError: More would go than was agreed on. Nothing was removed.
    """
    named, record, result = facts.named().union(keep), facts.journal, Pruned()
    due = []
    for path, entry in list(record.files.items()):
        if path == CKSUMS or path.startswith("meta/"):
            continue
        if path in named:
            record.name(path, None)
        elif facts.listing.get(path) is None and entry.mtime is not None:
            del record.files[path]  # somebody removed it
        elif entry.unnamed is None:
            record.name(path, now)
            result.waiting.append(path)
            if cleaning.grace <= 0:
                due.append(path)
        elif entry.unnamed.age(now) >= cleaning.grace:
            due.append(path)
        else:
            result.waiting.append(path)
    guard(tree.name, facts, set(due), cleaning)
    for path in due:
        check()
        _remove(tree, facts, path, result)
    _sweep(tree, facts, now, cleaning, check)
    return result


def _remove(tree: RemoteTree, facts: Facts, path: str, result: Pruned) -> None:
    entry = facts.journal.files.pop(path)
    found = tree.stat(path)
    if path in result.waiting:
        result.waiting.remove(path)
    if found is None:
        return
    if found.kind is not Kind.FILE or (entry.mtime is not None and not entry.agrees(found)):
        logger.warning("%s/%s: somebody changed it, so it is left there", tree.name, path)
        return
    tree.remove(path)
    result.removed[path] = entry.size
    logger.info("%s/%s: removed, %s", tree.name, path, mega(entry.size))


def _sweep(
    tree: RemoteTree, facts: Facts, now: Moment, cleaning: Cleaning, check: Callable[[], None]
) -> None:
    """Remove parts of ours that nobody continued for as long as the grace."""
    for path, found in facts.listing.items():
        name = path.rpartition("/")[2]
        words = name.rsplit(".", 2)
        ours = len(words) == 3 and words[2] == "part" and len(words[1]) == 16
        old = now.server - found.mtime >= max(cleaning.grace, 3600.0)
        if name.startswith(".") and ours and found.kind is Kind.FILE and old:
            check()
            tree.remove(path)


def guard(remote: str, facts: Facts, paths: set[str], cleaning: Cleaning) -> None:
    """Stop where more would be lost than was agreed on.

    Raises:
        MassDeleteError: That is so.
    """
    sizes = {path: entry.size for path, entry in facts.journal.files.items()}
    every = sum(size for path, size in sizes.items() if path in facts.listing)
    lost = sum(sizes.get(path, 0) for path in paths)
    if lost > cleaning.share * every and not cleaning.allow_mass_delete:
        raise MassDeleteError(
            remote,
            f"{len(paths)} files would go, {mega(lost)} of {mega(every)} there",
            expected=f"at most {cleaning.share:.0%} at once",
            remedy="If that is meant, publish once with allow_mass_delete",
        )
