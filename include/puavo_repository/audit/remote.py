"""A remote tree: its metadata against the journal, its files against its metadata and ours.

No lock is taken there and nothing is changed, so somebody may publish meanwhile. Whatever is
found is therefore looked at again, with the metadata and the journal of then (``steps.settled``).
"""

import contextlib
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from puavo_repository.audit import steps
from puavo_repository.audit.report import Checked, Counts, Finding, error, turn, warning
from puavo_repository.errors import PermanentError, PublishError, RepositoryError
from puavo_repository.formats.metadata import DescribedFile
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.files import Identity
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.publish.plan import CKSUMS, is_document, sha256
from puavo_repository.publish.survey import listing, same_bytes, samples, sha256_of
from puavo_repository.remote import journal
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.documents import read_whole
from puavo_repository.remote.journal import Journal
from puavo_repository.remote.pool import Pool, open_tree
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Kind, RemoteStat, RemoteTree
from puavo_repository.retry import with_retries
from puavo_repository.settings import Settings

_CONNECTIONS = 4  # at most
_SEE = "See who else writes there, then publish again"
_OR_REPAIR = f"{_SEE} or let the audit repair it"
_NOT_OURS = "It is not ours: see who wrote it there, and remove it or have it mended"


def remote(settings: Settings, target: Target, watcher: Watcher = NO_WATCHER) -> Checked:
    """Audit a remote tree. Nothing is changed there.

    The local mirror may lack files that the remote has, or be missing. ``audit_share`` says how
    many of the files there are read in full, of which the watcher is told; those that something
    was wrong with always are.
    """
    check = RemoteCheck(settings, target, watcher).check
    return steps.attempted(target.name, lambda: with_retries(check))


@dataclass
class RemoteCheck:
    """Looks at a remote."""

    settings: Settings
    target: Target
    watcher: Watcher = NO_WATCHER
    counts: list[Counts] = field(default_factory=list)  # from several threads

    def check(self, only: Collection[str] | None = None) -> Checked:
        """Look at everything, or at some files and those in full."""
        self.counts, name = [], self.target.name
        workers = min(_CONNECTIONS, self.settings.connections)
        with contextlib.closing(Pool(lambda: open_tree(self.target), workers)) as self.pool:
            findings = steps.settled(self._look, only)
        busy = f"{name}: somebody publishes: what that changes is left to a later audit"
        notes, counts = (busy,) if self.seen.publishing else (), sum(self.counts, Counts())
        return Checked(name, counts, tuple(findings), notes=notes)

    def _look(self, only: Collection[str] | None) -> tuple[Mapping[str, bytes], list[Finding]]:
        with self.pool.tree() as tree:
            seen = self.seen = view(tree)
        local = None
        with contextlib.suppress(PublishError):
            local = take(self.settings.mirror_dir, "auditing")
        self.local = local or Description({})
        findings = list(of_documents(seen, local))
        known = {CKSUMS, "meta", "rdiffs", journal.FOLDER, *seen.journal.files}
        for one in (seen.described, self.local):
            known |= {*one.files, *one.documents}
        if not (seen.damage and seen.described.damaged):  # else nobody knows what was ours
            findings += steps.strays(seen.listing, known, "the journal")
        files = list(seen.described.files.values())
        if only is None:
            self.counts.append(Counts(remote_files=len(files)))
        else:
            files = [file for file in files if file.path in only]
            findings = [finding for finding in findings if finding.file in only]
        there, touched = {}, set()
        for file in files:
            found, entry = seen.listing.get(file.path), seen.journal.files.get(file.path)
            if found is None or not found.is_file(file.size):
                size = f"{found.size} bytes" if found and found.kind is Kind.FILE else ""
                problem = seen.absent(file.path) or "has the wrong size"
                findings.append(self._wrong(file, problem, f"{file.size} bytes", size))
                continue
            there[file.path] = file
            if entry and not entry.agrees(found):  # somebody wrote it since it was proven in place
                touched.add(file.path)
        full = set(there)
        if only is None:
            now = turn(self.settings.mirror_dir, self.target.name)
            full = touched | steps.due(there.values(), *now, self.settings.audit_share)
        total = sum(there[path].size for path in full)
        self.progress = self.watcher.begin("remote", total, len(full))

        def content(file: DescribedFile) -> Finding | None:
            try:
                return self._content(file, whole=file.path in full)
            except PermanentError as error:
                return Finding.of(self.target.url, error, file.path)

        wrong = steps.side_by_side(content, there.values(), self.pool.limit)
        return seen.described.documents, findings + [finding for finding in wrong if finding]

    def _content(self, file: DescribedFile, *, whole: bool) -> Finding | None:
        """Read a file in full, or only if it does not have the bytes of the local one somewhere.

        That may be the local file's fault as well.
        """
        path = self.settings.mirror_dir / file.path

        def has_samples() -> bool:
            if Identity.at(path) is None:
                return True  # a night took it away
            with self.pool.tree() as tree:
                return same_bytes(tree, file.path, path, ranges)

        def read() -> str:
            with self.pool.tree() as tree:
                return sha256_of(tree, file.path, file.size, self.progress)

        if not whole:
            if not steps.is_local(file, self.local):
                return None
            ranges = samples(file.size)
            self.counts.append(Counts(ranges=len(ranges)))
            if with_retries(has_samples):
                return None
        expected, found = file.sha256 or "none", with_retries(read)
        self.counts.append(Counts(remote_read=1, remote_bytes=file.size))
        self.watcher.finish("remote")
        problem = "is not the file that the metadata there describes: its sha256 differs"
        return None if found == expected else self._wrong(file, problem, expected, found)

    def _wrong(self, file: DescribedFile, problem: str, expected: str, found: str) -> Finding:
        same = steps.is_same(file, self.local)
        remedy = "The local mirror does not have it: publish, so that clients are not told of it"
        if same:
            remedy = "Let the audit repair it: it is sent again"
        elif file.path in self.local.files:
            remedy = "The local mirror has another one by now: publish"
        return self.seen.wrong(file.path, problem, expected, found, remedy, repairable=same)


@dataclass(frozen=True)
class View:
    """What lies on a remote at one moment."""

    listing: dict[str, RemoteStat]  # everything in the folders of the mirror, by path
    described: Description
    journal: Journal  # what we put there; worked out anew where it cannot be read
    damage: str  # why it cannot be read; empty where it can
    publishing: bool  # whether somebody does at this moment
    lost: int  # the last generation whose record should be there and cannot be read; 0 for none

    def absent(self, path: str) -> str:
        """Say why there is no plain file under a path; empty where there is one."""
        there = self.listing.get(path)
        if there is None:
            return "is missing"
        return "" if there.kind is Kind.FILE else f"is {steps.KINDS[there.kind]}, no plain file"

    def wrong(
        self, path: str, problem: str, expected: str, found: str, remedy: str, *, repairable: bool
    ) -> Finding:
        """Return what is wrong with a file; publishing does not replace a folder in its place."""
        there = self.listing.get(path)
        if there is not None and there.kind is Kind.FOLDER:
            remedy, repairable = "Move it away there, then publish", False
        return error(path, problem, expected, found, remedy, repairable=repairable)


def view(tree: RemoteTree) -> View:
    """Read everything but the files themselves. Nothing is changed, no lock is taken."""
    # First the journal: what is entered in it is there, or on its way, in all that follows.
    content = read_whole(tree, journal.PATH)
    damage = "" if content is not None else "there is none"
    try:
        record = Journal.parse(content) if content is not None else Journal()
    except ValueError as error:
        record, damage = journal.load(tree), str(error)
    found = listing(tree, record.files)
    read = ((path, read_whole(tree, path)) for path in sorted(found) if is_document(path))
    documents = {path: text for path, text in read if text is not None}
    described = Description.of(documents, read_whole(tree, CKSUMS))
    kept = journal.kept_generations(tree)
    numbers = range(max(min(kept, default=record.generation), 1), record.generation + 1)
    # From the last one on, so that a server that claims any number of them holds nobody up.
    lost = (number for number in reversed(numbers) if journal.load_generation(tree, number) is None)
    publishing = False
    if lock := tree.stat(publisher_lock.PATH):  # whoever died left it there, and it grows old
        now = time.time()
        # A file beside it tells the server's time. Where we may only read ours has to do.
        with contextlib.suppress(RepositoryError):
            now = publisher_lock.server_time(tree, secrets.token_hex(8)) or now
        publishing = abs(now - lock.mtime) < publisher_lock.EXPIRY
    return View(found, described, record, damage, publishing, next(lost, 0))


def of_documents(seen: View, local: Description | None) -> Iterator[Finding]:
    """Yield what is wrong with a remote's journal, metadata and CKSUMS.

    ``local`` is what the local mirror describes; None where there is no such thing.
    """
    if seen.damage:
        problem, remedy = "the journal cannot be read", "Publish: it is worked out again"
        yield warning(journal.PATH, problem, found=seen.damage, remedy=remedy)
    elif not seen.journal.verified and not seen.publishing:
        problem = "the last publishing run did not come to its end"
        yield warning(journal.PATH, problem, remedy="Publish again")
    if seen.lost and not seen.damage and not seen.publishing:
        problem = "is missing or damaged: no rollback leads beyond it"
        remedy = "See what happened there; what is published from now on can be gone back to"
        yield warning(f"{journal.GENERATIONS}/{seen.lost}.json", problem, remedy=remedy)
    if not any(map(is_document, [*seen.listing, *seen.journal.files])):
        problem = "there is no metadata: clients find nothing here"
        yield error("meta", problem, remedy="Publish the mirror, or correct the path")
    findings = list(_of_metadata(seen, local.documents if local else {}))
    yield from findings
    wrong, theirs = {finding.file for finding in findings}, seen.described.documents
    settled = not seen.publishing and theirs and not wrong
    if settled and not seen.described.cksums_agree():  # it follows the metadata
        problem = seen.absent(CKSUMS) or "does not say what the metadata there says"
        remedy = _OR_REPAIR if local else _SEE
        yield seen.wrong(CKSUMS, problem, "", "", remedy, repairable=local is not None)
    if local is None:
        return
    for path, content in local.documents.items():
        if path not in wrong and theirs.get(path) != content:
            problem = "is not what the local mirror has: that is not published yet"
            named = local.named.get(path, ())
            back = [f for f in named if seen.journal.rejected.get(f.path) == f.sha256]
            found = f"a rollback, which took {len(back)} files of it from clients" if back else ""
            remedy = "Take the bad image out and prepare again, then publish" if back else "Publish"
            yield warning(path, problem, "", found, remedy)
    for path in theirs:
        if path not in local.documents and path not in wrong:
            problem = "is of a series that the local mirror does not have any more"
            yield warning(path, problem, remedy="Publish; or remove it there, if it was never ours")


def _of_metadata(seen: View, ours: Mapping[str, bytes]) -> Iterator[Finding]:
    described, entries = seen.described, seen.journal.files

    def wrong(path: str, problem: str, found: str = "") -> Finding:
        entry = entries.get(path)
        # What was published is put back, not what waits to be published.
        same = entry is not None and path in ours and entry.sha256 == sha256(ours[path])
        remedy = _OR_REPAIR if same else _SEE if path in ours or entry else _NOT_OURS
        return seen.wrong(path, problem, "", found, remedy, repairable=same)

    entered = {path for path, entry in entries.items() if entry.mtime is not None}
    for path in sorted(filter(is_document, entered | seen.listing.keys())):
        content, absent = described.documents.get(path), seen.absent(path)
        if absent:
            if path in seen.listing or not seen.publishing:
                yield wrong(path, absent)
        elif path in described.damaged:
            yield wrong(path, "is damaged", described.damaged[path])
        elif content is None:
            yield wrong(path, "cannot be read", f"{seen.listing[path].size} bytes")
        elif path in entered and content != ours.get(path):
            # In the middle of a change the journal is written last.
            settled = seen.journal.verified and not seen.publishing
            if settled and entries[path].sha256 != sha256(content):
                yield wrong(path, "was changed on the server")
    yield from (wrong(*broken) for broken in steps.broken_rules(described))
