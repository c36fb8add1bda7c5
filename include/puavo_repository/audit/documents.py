"""What a remote says of itself: its journal, metadata and CKSUMS, and how far behind they are."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from puavo_repository.audit.report import Finding, error, warning
from puavo_repository.audit.steps import broken_rules
from puavo_repository.errors import RepositoryError
from puavo_repository.formats.metadata import described_files
from puavo_repository.mirror.description import Description
from puavo_repository.publish.plan import CKSUMS, is_document, sha256
from puavo_repository.publish.survey import listing
from puavo_repository.remote import journal
from puavo_repository.remote import lock as publisher_lock
from puavo_repository.remote.journal import Journal
from puavo_repository.remote.tree import Kind, RemoteStat, RemoteTree, read_whole

KINDS = {
    Kind.FILE: "a file",
    Kind.FOLDER: "a folder",
    Kind.LINK: "a link",
    Kind.OTHER: "a pipe or device",
}
_SEE = "See who else writes there, then publish again"
_OR_REPAIR = f"{_SEE} or let the audit repair it"
_NOT_OURS = "It is not ours: see who wrote it there, and remove it or have it mended"


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
        return "" if there.kind is Kind.FILE else f"is {KINDS[there.kind]}, no plain file"

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
    lost = [number for number in numbers if journal.load_generation(tree, number) is None]
    return View(found, described, record, damage, _is_published_to(tree), max(lost, default=0))


def _is_published_to(tree: RemoteTree) -> bool:
    """Say whether a publisher's lock shows signs of life; whoever died left it there.

    A file is made beside it for that and removed: only that tells the server's time.
    """
    lock, now = tree.stat(publisher_lock.PATH), None
    if lock is None:
        return False
    with contextlib.suppress(RepositoryError):  # it may be only for reading: then ours has to do
        now = publisher_lock.server_time(tree, secrets.token_hex(8))
    return abs((now or time.time()) - lock.mtime) < publisher_lock.EXPIRY


def of_documents(seen: View, local: Description | None) -> Iterator[Finding]:
    """Yield what is wrong with a remote's journal, metadata and CKSUMS.

    ``local`` is what the local mirror describes; None where there is no such thing.
    """
    yield from _of_journal(seen)
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
            named = described_files(local.parsed.get(path, {}))
            back = [f for f in named if seen.journal.rejected.get(f.path) == f.sha256]
            found = f"a rollback, which took {len(back)} files of it from clients" if back else ""
            remedy = "Take the bad image out and prepare again, then publish" if back else "Publish"
            yield warning(path, problem, "", found, remedy)
    for path in theirs:
        if path not in local.documents and path not in wrong:
            problem = "is of a series that the local mirror does not have any more"
            yield warning(path, problem, remedy="Publish; or remove it there, if it was never ours")


def _of_journal(seen: View) -> Iterator[Finding]:
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
    yield from (wrong(*broken) for broken in broken_rules(described))
