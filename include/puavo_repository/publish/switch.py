"""Telling clients of the new files: the steps that clients see.

In this order, so that the metadata that a client finds is true at every moment: what is to
change its content under a name that clients know is withdrawn, then renamed; then the metadata
of each series whose files are all in place; then CKSUMS. What no metadata names any more goes
later (``prune``). Before each of these writes the remote's lock is looked at: whoever lost it
writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from time import sleep, time

from puavo_repository.errors import StorageError
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.mirror.description import Description
from puavo_repository.publish.clean import guard
from puavo_repository.publish.locked import LockedRemote
from puavo_repository.publish.options import RemovalPolicy
from puavo_repository.publish.plan import Presence, Transfer
from puavo_repository.publish.survey import CKSUMS, Facts, sha256
from puavo_repository.publish.transfer import rename_into_place
from puavo_repository.remote import generations
from puavo_repository.remote.generations import LOST, Generation, Restored
from puavo_repository.remote.tree import read_whole, write_whole

logger = logging.getLogger(__name__)


@dataclass
class Switched:
    """What switching did.

    Attributes:
        documents: Metadata files that were written.
        dropped: Metadata files that were removed.
        withdrawn: Files that were taken out of the metadata before they were replaced.
        waiting_for: Metadata files that stay as they are, and the files they wait for.
    """

    documents: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    waiting_for: dict[str, list[str]] = field(default_factory=dict)


class Switch:
    """Makes the remote's metadata say what the local mirror's says, as far as that is true.

    Args:
        held: The remote.
        local: What the mirror describes.
        facts: What the remote has; brought up to date here.
        removal: When and how much may be removed.
        restored: What ``local`` puts back, if it does.
        only: The metadata files of ``local`` that are written, among other paths; None for all.
    """

    def __init__(
        self,
        held: LockedRemote,
        local: Description,
        facts: Facts,
        removal: RemovalPolicy,
        restored: Restored | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        every = local.documents
        self._ours = list(every) if only is None else [path for path in every if path in only]
        self._whole = only is None
        self._restored = restored
        self._held = held
        self._tree = held.tree
        self._local = local
        self._facts = facts
        self._removal = removal
        self._result = Switched()
        self._before: dict[str, tuple[bytes, Document]] = {}  # of what is withdrawn

    def run(self, waiting: Collection[Transfer]) -> Switched:
        """Do all of it.

        Args:
            waiting: Transfers that replace a file clients know. Those that are proven under their
                part names get their place here.

        Raises:
            LockedError: The lock was lost; nothing more was written.
            MassDeleteError: Too many files would lose their description.
        """
        self._guard_dropped()
        proven = {item.path: (item, part) for item in waiting if (part := self._proven(item))}
        self._begin_generation(set(proven))
        if proven:
            self._withdraw(set(proven), self._removal.pause)
            for path, (item, _) in proven.items():
                self._facts.journal.intend(path, item.size, item.sha256)
            self._held.save()
        for path, (item, part) in proven.items():
            self._held.check()
            placed = rename_into_place(self._tree, item, part, item.how)
            self._facts.journal.placed(path, item.size, item.sha256, placed.mtime or 0)
            self._facts.presence[path] = Presence.PRESENT
        for path in self._ours:
            self._describe(path)
        for path in self._dropped():
            self._drop(path)
        self._restore(proven)
        if not self._facts.has_cksums(self._local):
            self._write(CKSUMS, self._facts.cksums(self._local))
        return self._result

    def withdraw(self, paths: set[str]) -> None:
        """Take files that the mirror does not describe any more out of the metadata, to make room.

        Raises:
            LockedError: The lock was lost; nothing more was written.
            MassDeleteError: Too many files would lose their description.
        """
        guard(self._tree.name, self._facts, paths, self._removal)
        self._ours = []
        self._begin_generation(paths)
        self._withdraw(paths, 0.0)

    def _proven(self, item: Transfer) -> str:
        """Return where a file waits for its name, proven; empty if it does not."""
        part = self._held.parts.get(item.path)
        if part is None or not part.proven or part.sha256 != item.sha256:
            return ""
        found = self._tree.stat(part.name)
        return part.name if found is not None and found.size == item.size else ""

    def _begin_generation(self, withdrawn: set[str]) -> None:
        """Keep what is about to be replaced, so that a rollback is possible."""
        ready = [path for path in self._ours if not self._absent(path, withdrawn)]
        changing = {path for path in ready if path not in self._facts.current}
        changing.update(self._dropped())
        for path, document in self._facts.documents.items():
            if metadata.without(document, withdrawn) != document:
                changing.add(path)
        if not changing:
            return
        record = self._facts.journal
        last = generations.load(self._tree, record.generation)
        ours = last.written if last else {}
        new = Generation(
            record.generation + 1,
            int(time()),
            {path: self._published(path, ours.get(path, "")) for path in sorted(changing)},
            record.rejected,
            self._restored,
            {path: sha256(self._local.documents[path]) for path in ready},
            frozenset(path for path, entry in record.files.items() if not entry.ours),
            record.mirror,
        )
        generations.save(self._tree, new, self._removal.generations, self._held.check)
        # Only now: a generation without a record would cut off the way back behind it.
        record.generation, record.verified = new.number, False
        self._held.save()

    def _published(self, path: str, written: str) -> str | None:
        """Return a document as it was published; ``LOST`` where somebody changed it since.

        Args:
            path: The document.
            written: The sha256 that the last generation was to give it, if it was.
        """
        content, entry = read_whole(self._tree, path), self._facts.journal.files.get(path)
        found = "" if content is None else sha256(content)
        if entry is not None and found not in {entry.sha256, written}:
            ours = self._local.documents.get(path)
            content = ours if ours is not None and sha256(ours) == entry.sha256 else LOST
        return None if content is None else content.decode("utf-8", "replace")

    def _absent(self, path: str, coming: Collection[str] = ()) -> list[str]:
        """Return the files that a document of ours names and the remote has not."""
        described = (
            file.path for file in metadata.described_files(self._local.parsed.get(path, {}))
        )
        here = Presence.PRESENT
        return [p for p in described if self._facts.presence.get(p) is not here and p not in coming]

    def _withdraw(self, paths: set[str], pause: float) -> None:
        for path, document in self._facts.documents.items():
            kept = metadata.without(document, paths)
            if kept != document:
                self._before[path] = read_whole(self._tree, path) or b"", document
                self._write_document(path, metadata.render(kept), kept)
                self._facts.current.discard(path)
        self._write(CKSUMS, self._facts.cksums(self._local))
        self._result.withdrawn = sorted(paths)
        logger.info("not described any more: %s", ", ".join(sorted(paths)))
        sleep(pause)

    def _restore(self, withdrawn: Collection[str]) -> None:
        """Describe again what was withdrawn only for a moment, where ours does not say it."""
        files = self._facts.journal.files
        for path, (content, document) in self._before.items():
            if path in self._facts.current or path not in self._facts.documents:
                continue
            other = {
                file.path
                for file in metadata.described_files(document)
                if file.path in withdrawn and files[file.path].sha256 != file.digests.get("sha256")
            }
            kept = metadata.without(document, other)
            if kept != self._facts.documents[path]:
                content = content if kept == document else metadata.render(kept)
                self._write_document(path, content, kept)
                if content == self._local.documents.get(path):
                    self._facts.current.add(path)

    def _describe(self, path: str) -> None:
        document = self._local.parsed.get(path, {})
        if path in self._facts.problems:
            return  # which say why
        absent = self._absent(path)
        if absent:
            self._result.waiting_for[path] = absent
        elif path not in self._facts.current:
            self._write_document(path, self._local.documents[path], document)
            self._facts.current.add(path)
            self._result.documents.append(path)

    def _drop(self, path: str) -> None:
        self._held.check()
        self._tree.remove(path)
        del self._facts.documents[path]
        del self._facts.journal.files[path]
        self._result.dropped.append(path)

    def _dropped(self) -> list[str]:
        gone = [path for path in self._facts.documents if path not in self._local.documents]
        return [path for path in gone if self._facts.is_ours(path) and self._whole]

    def _guard_dropped(self) -> None:
        """Series that vanish locally are like a mass deletion, only quicker for the clients."""
        dropped = set(self._dropped())
        kept = {
            file.path
            for path, document in self._facts.documents.items()
            if path not in dropped
            for file in metadata.described_files(document)
        }
        lost = self._facts.named() - kept - set(self._local.files)
        guard(self._tree.name, self._facts, lost, self._removal)

    def _write_document(self, path: str, content: bytes, document: Document) -> None:
        self._tree.make_folder("meta")
        self._write(path, content)
        self._facts.documents[path] = document

    def _write(self, path: str, content: bytes) -> None:
        write_whole(self._tree, path, content, self._held.check)
        found = self._tree.stat(path)
        if found is None:
            raise StorageError(f"{self._tree.name}/{path}", "was removed while it was published")
        self._facts.journal.placed(path, len(content), sha256(content), found.mtime)
        self._facts.listing[path] = found
