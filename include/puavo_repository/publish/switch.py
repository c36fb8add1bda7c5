"""The step ``switch``: clients are told of the new files.

In this order, so that the metadata that a client finds is true at every moment:

1. ``_begin_generation`` keeps what is about to be replaced, as a way back.
2. ``_withdraw`` takes out of the metadata what is to change its content under a known name. Then
   there is a pause for the clients that have just read it.
3. The new content gets that name.
4. ``_describe`` writes the metadata of each series whose files are all in place, removes that of a
   series that is gone, and describes again what was withdrawn only for a moment.
5. CKSUMS follows.

Before each of these writes the remote's lock is looked at: whoever lost it writes nothing. What no
metadata names any more is removed later (``clean``).
"""

import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from time import sleep, time

from puavo_repository.errors import RepositoryError, StorageError
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import DescribedFile, Document
from puavo_repository.publish.clean import guard
from puavo_repository.publish.plan import CKSUMS, FileState, RemoteState, Row, Transfer, sha256
from puavo_repository.publish.publisher import LockedRemote, Publisher
from puavo_repository.publish.survey import listing
from puavo_repository.publish.transfer import proven_part, rename_into_place
from puavo_repository.remote import journal
from puavo_repository.remote.documents import read_whole
from puavo_repository.remote.tree import RemoteTree

logger = logging.getLogger(__name__)


def switch(publisher: Publisher) -> None:
    """Tell clients of what is in place, and look whether all of it is.

    Raises:
        LockedError: Somebody else publishes, or has taken over: nothing more was written.
        MassDeleteError: Too many files would lose their description.
        StorageError: A file that clients are told of is missing or wrong.
    """
    with publisher.step() as (remote, state):
        try:
            Switch(remote, state).run(publisher.plan(remote.tree, state).transfers)
            _check_published(remote.tree, state, publisher.only)
        except BaseException:
            with suppress(RepositoryError):  # the first error is what counts
                remote.save()
            raise
        remote.save()


class Switch:
    """Makes the remote's metadata say what the local mirror's says, as far as that is true.

    It brings ``state`` up to date. ``restored`` is what ``state.local`` puts back, if it does.
    """

    def __init__(
        self, remote: LockedRemote, state: RemoteState, restored: journal.Restored | None = None
    ) -> None:
        self._remote = remote
        self._tree, self._journal, self._state = remote.tree, remote.journal, state
        self._options, self._report = remote.publisher.options, remote.publisher.report
        self._restored = restored
        only, ours = remote.publisher.only, state.local.documents
        self._ours = [state.row(path) for path in ours if only is None or path in only]
        gone = (row for row in state.documents() if row.path not in ours)
        self._gone = [row for row in gone if row.is_ours and only is None]
        self._before: dict[str, tuple[bytes, Document]] = {}  # of what is withdrawn

    def run(self, waiting: Collection[Transfer]) -> None:
        """Do all of it; what waits as a proven part gets its name.

        It does as well where a switch that was cut short has withdrawn it already.
        """
        if self._restored is None:  # else it takes what was agreed on when it was asked for
            # Series that vanish locally are like a mass deletion, only quicker for the clients.
            stay = set(self._state.documents()).difference(self._gone)
            kept = {file.path for row in stay for file in row.names}
            lost = self._state.published().keys() - kept - self._state.local.files.keys()
            guard(self._remote, self._state, lost)
        parts = {item: proven_part(self._tree, self._remote.parts, item) for item in waiting}
        proven = {item: part for item, part in parts.items() if part}
        paths = {item.path for item in proven}
        self._begin_generation(paths)
        if proven:
            self._withdraw(paths)
            sleep(self._options.replace_pause)
            self._report.withdrawn = sorted(paths)
            for item in proven:
                self._journal.intend(item.path, item.size, item.sha256)
            self._remote.save()
        for item, part in proven.items():
            self._remote.lock.check()
            mtime = rename_into_place(self._tree, item, part)
            self._journal.placed(item.path, item.size, item.sha256, mtime)
            self._state.row(item.path).state = FileState.PRESENT
        self._describe(paths)
        if not self._state.has_cksums():
            self._write(self._state.row(CKSUMS), self._state.cksums())

    def withdraw(self, paths: set[str]) -> None:
        """Take files out of the metadata that the mirror does not describe any more."""
        guard(self._remote, self._state, paths)
        self._ours = []
        self._begin_generation(paths)
        self._withdraw(paths)

    def _begin_generation(self, withdrawn: set[str]) -> None:
        """Keep what is about to be replaced, so that a rollback is possible."""
        known, ours = self._journal, (row for row in self._ours if not row.problem)
        ready = [row for row in ours if not self._absent(row) - withdrawn]
        changing = {row.path for row in ready if row.state is not FileState.PRESENT}
        changing |= {row.path for row in self._gone}
        for row in self._state.documents() if withdrawn else ():
            kept = metadata.without(document := row.document, withdrawn)
            if kept != document and not _is_others(row):
                changing.add(row.path)
        if not changing:
            return
        last = journal.load_generation(self._tree, known.generation)
        written = last.written if last else {}
        new = journal.Generation(
            known.generation + 1,
            int(time()),
            self._restored,
            known.rejected,
            {path: self._as_published(path, written.get(path, "")) for path in sorted(changing)},
            {row.path: row.sha256 for row in ready},
            frozenset(path for path, entry in known.files.items() if not entry.ours),
            known.mirror,
        )
        journal.save_generation(self._tree, new, self._options.generations, self._remote.lock)
        # Only now: a generation without a record would cut off the way back behind it.
        known.generation, known.verified = new.number, False
        self._remote.save()

    def _as_published(self, path: str, written: str) -> str | None:
        """Return a document as it was published; ``LOST`` where somebody changed it since.

        ``written`` is the sha256 that the last generation was to give it, or empty.
        """
        content, row = read_whole(self._tree, path), self._state.row(path)
        found = "" if content is None else sha256(content)
        if row.entry is not None and found not in {row.entry.sha256, written}:
            ours = self._state.local.documents if row.sha256 == row.entry.sha256 else {}
            content = ours.get(path, journal.LOST)
        return None if content is None else content.decode("utf-8", "replace")

    def _absent(self, row: Row) -> set[str]:
        """Return the files that a document of ours names and the remote has not."""
        files = self._state.local.named.get(row.path, ())
        named = (self._state.row(file.path) for file in files)
        return {one.path for one in named if one.state is not FileState.PRESENT}

    def _withdraw(self, paths: set[str]) -> None:
        for row in self._state.documents():
            document = row.document
            kept = metadata.without(document, paths)
            if kept != document:
                self._before[row.path] = read_whole(self._tree, row.path) or b"", document
                self._write(row, metadata.render(kept), metadata.described_files(kept))
        self._write(self._state.row(CKSUMS), self._state.cksums())
        logger.info("not described any more: %s", ", ".join(sorted(paths)))

    def _describe(self, withdrawn: Collection[str]) -> None:
        """Write what is true now: ours where its files are in place, else what was there before."""
        local, report, entries = self._state.local, self._report, self._journal.files
        report.waiting_for = {}
        for row in self._ours:
            if row.problem:
                continue  # which says why
            if absent := self._absent(row):
                report.waiting_for[row.path] = sorted(absent)
            elif row.state is not FileState.PRESENT:
                self._write(row, local.documents[row.path], local.named.get(row.path, ()))
                report.switched.append(row.path)
        for row in self._gone:
            self._remote.lock.remove(row.path)
            row.content = row.found = None
            del entries[row.path]
            report.switched.append(row.path)
        for path, (content, document) in self._before.items():
            row = self._state.row(path)
            if row.state is FileState.PRESENT or row.content is None:
                continue
            files = (f for f in metadata.described_files(document) if f.path in withdrawn)
            kept = metadata.without(
                document, {f.path for f in files if entries[f.path].sha256 != f.sha256}
            )
            if kept != row.document:
                whole = content if kept == document else metadata.render(kept)
                self._write(row, whole, metadata.described_files(kept))

    def _write(
        self, row: Row, content: bytes, names: Iterable[DescribedFile] | None = None
    ) -> None:
        """Write metadata with the files that it names, or CKSUMS."""
        if names is not None:
            self._tree.make_folder("meta")
        self._remote.lock.write(row.path, content)
        row.found = found = self._tree.stat(row.path)
        if found is None:
            where = f"{self._tree.name}/{row.path}"
            raise StorageError(where, "was removed while it was published")
        if row.path == CKSUMS or not _is_others(row):  # else it stays theirs, without some files
            self._journal.placed(row.path, len(content), sha256(content), found.mtime)
        if names is None:
            return
        row.content, row.names = content, list(names)
        if row.sha256:
            same = content == self._state.local.documents[row.path]
            row.state = FileState.PRESENT if same else FileState.WRONG


def _is_others(row: Row) -> bool:
    """Say whether others put metadata there, of a series that the local mirror does not have."""
    return not (row.is_ours or row.sha256)


def _check_published(tree: RemoteTree, state: RemoteState, only: Collection[str] | None) -> None:
    """Look whether every file that our metadata there names is there, with its size."""
    there, complete = listing(tree, state.published()), True
    for file in (file for row in state.documents() if row.is_ours for file in row.names):
        found = there.get(file.path)
        if found is None or not found.is_file(file.size):
            complete, where = False, f"{tree.name}/{file.path}"
            if only is None or file.path in only:
                raise StorageError(where, "is not as the metadata there says")
    state.journal.verified = complete
