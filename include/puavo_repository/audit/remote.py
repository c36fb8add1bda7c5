"""A remote tree: its metadata against the journal, its files against its metadata and ours.

No lock is taken there and nothing is changed, so somebody may publish meanwhile. Whatever is
found is therefore looked at again, with the metadata and the journal of then, and only what is
found again is reported.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from puavo_repository.audit.documents import MOVE_AWAY, View, no_file, of_documents, view
from puavo_repository.audit.report import Checked, Counts, Finding, error
from puavo_repository.audit.steps import Tally, attempted, due, side_by_side
from puavo_repository.audit.strays import remote_strays
from puavo_repository.errors import PermanentError, PublishError
from puavo_repository.formats.metadata import DescribedFile
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.files import Identity
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.publish.compare import every_range, same_bytes, samples
from puavo_repository.publish.options import Options
from puavo_repository.publish.publisher import open_tree
from puavo_repository.remote.pool import Pool
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Kind
from puavo_repository.retry import with_retries
from puavo_repository.settings import DEFAULTS

_LOOKS = 4  # times that findings are looked at while somebody publishes
_CONNECTIONS = 4  # at most


def remote(
    mirror_dir: Path,
    target: Target,
    turn: int,
    options: Options | None = None,
    *,
    share: float = DEFAULTS.audit_share,
    watcher: Watcher = NO_WATCHER,
) -> Checked:
    """Audit a remote tree. Nothing is changed there.

    Args:
        mirror_dir: The local mirror; it may lack files that the remote has, or be missing.
        target: The remote.
        turn: Counts the audits.
        options: How to reach it.
        share: Share of its files that are read in full.
        watcher: Told of the bytes that are read in full.
    """

    def check() -> Checked:
        return look(mirror_dir, target, turn, share, options, watcher)[1]

    return attempted(target.url, lambda: with_retries(check))


def look(
    mirror_dir: Path,
    target: Target,
    turn: int,
    share: float,
    options: Options | None = None,
    watcher: Watcher = NO_WATCHER,
    only: Collection[str] | None = None,
) -> tuple[View, Checked]:
    """Do the same once; see ``remote``. Returns what lies there as well.

    Args:
        mirror_dir: The local mirror.
        target: The remote.
        turn: Counts the audits.
        share: Share of its files that are read in full.
        options: How to reach it.
        watcher: Told of the bytes that are read in full.
        only: Look at these files alone, and read them in full.

    Raises:
        RepositoryError: It could not be done.
    """
    workers = min(_CONNECTIONS, (options or Options()).connections)
    with contextlib.closing(Pool(lambda: open_tree(target), workers)) as pool:
        check = _Remote(mirror_dir, target.url, pool, watcher)
        seen, findings = check.look(turn, share, only)
        for _ in range(_LOOKS - 1):
            if not findings:
                break
            before = seen
            seen, findings = check.look(turn, share, {finding.file for finding in findings})
            if seen.described.documents == before.described.documents:
                break
        busy = f"{target.url}: somebody publishes: what that changes is left to a later audit"
        notes = (busy,) if seen.publishing else ()
        return seen, Checked(target.url, check.tally.counts, tuple(findings), notes=notes)


class _Remote:
    """One audit of a remote.

    Args:
        mirror_dir: The local mirror.
        where: The remote's URL, without password.
        pool: Connections to it.
        watcher: Told of the bytes that are read in full.
    """

    def __init__(self, mirror_dir: Path, where: str, pool: Pool, watcher: Watcher) -> None:
        self.tally = Tally()
        self._root = mirror_dir
        self._where = where
        self._pool = pool
        self._watcher = watcher

    def look(
        self, turn: int, share: float, only: Collection[str] | None
    ) -> tuple[View, list[Finding]]:
        """Look at everything, or at some files and those in full."""
        with self._pool.tree() as tree:
            seen = view(tree)
        local = self._local()
        described = seen.described.files
        known = {*described, *seen.described.documents, *seen.journal.files}
        findings = list(of_documents(self._where, seen, local))
        if local is not None:
            known |= {*local.files, *local.documents}
        if not (seen.damage and seen.described.damaged):  # else nobody knows what was ours
            findings += remote_strays(self._where, seen.listing, known, time.time())
        files = [file for path, file in described.items() if only is None or path in only]
        if only is not None:
            findings = [finding for finding in findings if finding.file in only]
        else:
            self.tally.add(Counts(remote_files=len(files)))
        there, absent = self._places(files, seen, local)
        full = {file.path for file in there}
        if only is None:
            full = due(there, turn, share) | _touched(there, seen)
        total = sum(f.size for f in there if f.path in full)
        self._progress = self._watcher.begin("remote", total, len(full))

        def content(file: DescribedFile) -> Finding | None:
            try:
                if file.path not in full and self._samples_agree(file, local):
                    return None
                return self._whole(file, local)
            except PermanentError as error:
                return Finding.of(self._where, error, file.path)

        found = side_by_side(content, there, self._pool.limit)
        return seen, [*findings, *absent, *(finding for finding in found if finding)]

    def _local(self) -> Description | None:
        with contextlib.suppress(PublishError):
            return take(self._root, "auditing")
        return None

    def _places(
        self, files: list[DescribedFile], seen: View, local: Description | None
    ) -> tuple[list[DescribedFile], list[Finding]]:
        """Return the files that are there with their size, and findings about the others."""
        there, absent = [], []
        for file in files:
            found = seen.listing.get(file.path)
            if found is not None and found.is_file(file.size):
                there.append(file)
                continue
            problem = "has the wrong size" if found else "is missing"
            if found is not None and found.kind is not Kind.FILE:
                problem = no_file(found.kind)
            size = f"{found.size} bytes" if found and found.kind is Kind.FILE else ""
            finding = self._finding(file, local, problem, f"{file.size} bytes", size)
            if found is not None and found.kind is Kind.FOLDER:
                finding = replace(finding, remedy=MOVE_AWAY, repairable=False)
            absent.append(finding)
        return there, absent

    def _samples_agree(self, file: DescribedFile, local: Description | None) -> bool:
        """Compare some ranges with the local file, if there is one that should be the same."""
        ours = local.files.get(file.path) if local else None
        path = self._root / file.path
        identity = Identity.at(path)
        same = ours is not None and ours.digests.get("sha256") == file.digests.get("sha256")
        if not same or identity is None or identity.size != file.size:
            return True
        ranges = samples(file.size)

        def compare() -> bool:
            if Identity.at(path) is None:
                return True  # a night took it away
            with self._pool.tree() as tree:
                return same_bytes(tree, file.path, path, ranges)

        self.tally.add(Counts(ranges=len(ranges)))
        return with_retries(compare)

    def _whole(self, file: DescribedFile, local: Description | None) -> Finding | None:
        """Read a file in full. Samples that differ may be the local file's fault as well."""
        expected, found = (
            file.digests.get("sha256", "none"),
            with_retries(lambda: self._sha256(file)),
        )
        self.tally.add(Counts(remote_read=1, remote_bytes=file.size))
        self._watcher.finish("remote")
        if found == expected:
            return None
        problem = "is not the file that the metadata there describes: its sha256 differs"
        return self._finding(file, local, problem, expected, found)

    def _sha256(self, file: DescribedFile) -> str:
        digest = hashlib.sha256()
        with self._pool.tree() as tree:
            for block in self._blocks(tree.read(file.path, every_range(file.size))):
                digest.update(block)
        return digest.hexdigest()

    def _blocks(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self._progress(len(block))
            yield block

    def _finding(
        self,
        file: DescribedFile,
        local: Description | None,
        problem: str,
        expected: str,
        found: str,
    ) -> Finding:
        ours = local.files.get(file.path) if local else None
        same = ours is not None and ours.digests.get("sha256") == file.digests.get("sha256")
        remedy = "The local mirror does not have it: publish, so that clients are not told of it"
        if ours is not None:
            remedy = "The local mirror has another one by now: publish"
        if same:
            remedy = "Let the audit repair it: it is sent again"
        return error(self._where, file.path, problem, expected, found, remedy, repairable=same)


def _touched(files: Iterable[DescribedFile], seen: View) -> set[str]:
    """Return files that somebody wrote since they were proven in place, by size and time."""
    entries, listing = seen.journal.files, seen.listing
    return {
        file.path
        for file in files
        if file.path in entries and not entries[file.path].agrees(listing[file.path])
    }
