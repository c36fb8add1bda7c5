"""A remote tree: its metadata against the journal, its files against its metadata and ours.

No lock is taken there and nothing is changed, so somebody may publish meanwhile. Whatever is
found is therefore looked at again, with the metadata and the journal of then, and only what is
found again is reported.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from puavo_repository.audit.documents import FOLDER, KINDS, View, of_documents, view
from puavo_repository.audit.report import Checked, Counts, Finding, error, warning
from puavo_repository.audit.steps import (
    DAY,
    STRAY,
    attempted,
    due,
    is_local,
    is_same,
    side_by_side,
)
from puavo_repository.errors import PermanentError, PublishError
from puavo_repository.formats.metadata import DescribedFile
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.files import PART, Identity
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.publish.publisher import Options, open_tree
from puavo_repository.publish.survey import same_bytes, samples, sha256_of
from puavo_repository.remote import journal
from puavo_repository.remote.pool import Pool
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Kind
from puavo_repository.retry import with_retries
from puavo_repository.settings import Settings

_LOOKS = 4  # times that findings are looked at while somebody publishes
_CONNECTIONS = 4  # at most


def remote(
    settings: Settings,
    target: Target,
    turn: int,
    options: Options,
    watcher: Watcher = NO_WATCHER,
) -> Checked:
    """Audit a remote tree; ``turn`` counts the audits. Nothing is changed there.

    The local mirror may lack files that the remote has, or be missing. ``audit_share`` says how
    many of the files there are read in full, of which the watcher is told.
    """

    def check() -> Checked:
        return look(settings, target, turn, options, watcher)[1]

    return attempted(target.url, lambda: with_retries(check))


def look(
    settings: Settings,
    target: Target,
    turn: int,
    options: Options,
    watcher: Watcher = NO_WATCHER,
    only: Collection[str] | None = None,
) -> tuple[View, Checked]:
    """Do the same once, or ``only`` for these files, read in full. Returns what lies there as well.

    Raises:
        RepositoryError: It could not be done.
    """
    workers = min(_CONNECTIONS, options.connections)
    with contextlib.closing(Pool(lambda: open_tree(target), workers)) as pool:
        check = _Remote(settings, target.url, pool, watcher)
        seen, findings = check.look(turn, only)
        for _ in range(_LOOKS - 1):
            if not findings:
                break
            before = seen
            seen, findings = check.look(turn, {finding.file for finding in findings})
            if seen.described.documents == before.described.documents:
                break
    busy = f"{target.url}: somebody publishes: what that changes is left to a later audit"
    notes, counts = (busy,) if seen.publishing else (), sum(check.counts, Counts())
    return seen, Checked(target.url, counts, tuple(findings), notes=notes)


@dataclass
class _Remote:
    """One audit of a remote."""

    settings: Settings
    where: str  # its URL without password
    pool: Pool
    watcher: Watcher
    counts: list[Counts] = field(default_factory=list)  # from several threads

    def look(self, turn: int, only: Collection[str] | None) -> tuple[View, list[Finding]]:
        """Look at everything, or at some files and those in full."""
        with self.pool.tree() as tree:
            seen = view(tree)
        local = None
        with contextlib.suppress(PublishError):
            local = take(self.settings.mirror_dir, "auditing")
        self.local = local or Description({})
        findings = [*of_documents(seen, local), *_strays(seen, self.local)]
        files = list(seen.described.files.values())
        if only is None:
            self.counts.append(Counts(remote_files=len(files)))
        else:
            files = [file for file in files if file.path in only]
            findings = [finding for finding in findings if finding.file in only]
        there: list[DescribedFile] = []
        for file in files:
            found = seen.listing.get(file.path)
            if found is not None and found.is_file(file.size):
                there.append(file)
                continue
            size = f"{found.size} bytes" if found and found.kind is Kind.FILE else ""
            problem = seen.absent(file.path) or "has the wrong size"
            findings.append(self._wrong(file, problem, f"{file.size} bytes", size))
        full = {file.path for file in there}
        if only is None:
            full = due(there, turn, self.settings.audit_share) | _touched(full, seen)
        findings = [_by_hand(one) if one.problem == FOLDER else one for one in findings]
        return seen, [*findings, *self._contents(there, full)]

    def _contents(self, files: Collection[DescribedFile], full: set[str]) -> Iterator[Finding]:
        """Yield which files are wrong: some are read in full, of the others samples at first."""
        total = sum(f.size for f in files if f.path in full)
        self.progress = self.watcher.begin("remote", total, len(full))

        def content(file: DescribedFile) -> Finding | None:
            try:
                if file.path not in full and self._samples_agree(file):
                    return None
                return self._whole(file)
            except PermanentError as error:
                return Finding.of(self.where, error, file.path)

        found = side_by_side(content, files, self.pool.limit)
        return (finding for finding in found if finding)

    def _samples_agree(self, file: DescribedFile) -> bool:
        """Compare some ranges with the local file, if there is one that should be the same."""
        if not is_local(self.settings.mirror_dir, file, self.local):
            return True
        path, ranges = self.settings.mirror_dir / file.path, samples(file.size)

        def compare() -> bool:
            if Identity.at(path) is None:
                return True  # a night took it away
            with self.pool.tree() as tree:
                return same_bytes(tree, file.path, path, ranges)

        self.counts.append(Counts(ranges=len(ranges)))
        return with_retries(compare)

    def _whole(self, file: DescribedFile) -> Finding | None:
        """Read a file in full. Samples that differ may be the local file's fault as well."""

        def read() -> str:
            with self.pool.tree() as tree:
                return sha256_of(tree, file.path, file.size, self.progress)

        expected, found = file.digests.get("sha256", "none"), with_retries(read)
        self.counts.append(Counts(remote_read=1, remote_bytes=file.size))
        self.watcher.finish("remote")
        if found == expected:
            return None
        problem = "is not the file that the metadata there describes: its sha256 differs"
        return self._wrong(file, problem, expected, found)

    def _wrong(self, file: DescribedFile, problem: str, expected: str, found: str) -> Finding:
        same = is_same(file, self.local)
        remedy = "The local mirror does not have it: publish, so that clients are not told of it"
        if same:
            remedy = "Let the audit repair it: it is sent again"
        elif file.path in self.local.files:
            remedy = "The local mirror has another one by now: publish"
        return error(file.path, problem, expected, found, remedy, repairable=same)


def _by_hand(finding: Finding) -> Finding:
    """Return the same for a folder in the place of a file: publishing does not replace it."""
    return replace(finding, remedy="Move it away there, then publish", repairable=False)


def _touched(paths: set[str], seen: View) -> set[str]:
    """Return files that somebody wrote since they were proven in place, by size and time."""
    entries = seen.journal.files
    known = paths & entries.keys()
    return {path for path in known if not entries[path].agrees(seen.listing[path])}


def _strays(seen: View, local: Description) -> Iterator[Finding]:
    """Yield what lies there and neither metadata nor the journal knows; it is never removed."""
    if seen.damage and seen.described.damaged:
        return  # nobody knows what was ours
    known = {"CKSUMS", "meta", "rdiffs", journal.FOLDER, *seen.journal.files}
    for one in (seen.described, local):
        known |= {*one.files, *one.documents}
    for path, found in sorted(seen.listing.items()):
        name = path.rpartition("/")[2]
        what = (
            f"is {KINDS[found.kind]} that is not part of the mirror: neither metadata nor "
            "the journal knows it"
        )
        if name.startswith(".") and name.endswith(PART) and found.kind is Kind.FILE:
            if time.time() - found.mtime < DAY:
                continue  # on its way
            what = "was left by a transfer that nobody continued"
        if path not in known:
            yield warning(path, what, "", f"{found.size} bytes", STRAY)
