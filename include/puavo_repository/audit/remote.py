"""A remote tree: its metadata against the journal, its files against its metadata and ours.

No lock is taken there and nothing is changed, so somebody may publish meanwhile. Whatever is
found is therefore looked at again, with the metadata and the journal of then, and only what is
found again is reported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from puavo_repository.audit import steps
from puavo_repository.audit.documents import KINDS, View, of_documents, view
from puavo_repository.audit.local import look_again
from puavo_repository.audit.report import Checked, Counts, Finding, warning
from puavo_repository.errors import PermanentError, PublishError
from puavo_repository.formats.metadata import DescribedFile
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.files import PART, Identity
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.publish.plan import CKSUMS, sha256
from puavo_repository.publish.publisher import Publisher, open_tree
from puavo_repository.publish.run import publish_all
from puavo_repository.publish.survey import same_bytes, samples, sha256_of
from puavo_repository.remote import journal
from puavo_repository.remote.pool import Pool
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Kind
from puavo_repository.retry import with_retries
from puavo_repository.settings import Settings
from puavo_repository.settings.model import Model

_LOOKS = 4  # times that findings are looked at while somebody publishes
_CONNECTIONS = 4  # at most


def remote(
    settings: Settings,
    target: Target,
    turn: int,
    options: Model,
    watcher: Watcher = NO_WATCHER,
) -> Checked:
    """Audit a remote tree; ``turn`` counts the audits. Nothing is changed there.

    The local mirror may lack files that the remote has, or be missing. ``audit_share`` says how
    many of the files there are read in full, of which the watcher is told.
    """

    def check() -> Checked:
        return _look(settings, target, turn, options, watcher)[1]

    return steps.attempted(target.url, lambda: with_retries(check))


def repair_remote(
    settings: Settings,
    target: Target,
    found: Checked,
    options: Model,
    watcher: Watcher = NO_WATCHER,
) -> Checked:
    """Send again what is missing or wrong on a remote and right here, by publishing.

    ``found`` is what ``remote`` found; the result is as that of ``local.repair_local``.
    """
    root = settings.mirror_dir

    def repair(paths: set[str], notes: list[str]) -> set[str]:
        wanted = _right_here(settings, paths)
        absent = (path for path in sorted(paths) if path not in wanted)
        notes += [f"{path}: not sent again, the local one is not right either" for path in absent]
        if wanted:
            # What lies there is not trusted: no image is made from it, its bytes travel. What
            # else waits to be published goes on waiting: this is no night.
            def force_recheck() -> None:
                with Publisher(root, target, options) as publisher, publisher.hold() as held:
                    for path, (size, digest) in wanted.items():
                        held.journal.force_recheck(path, size, digest)
                    held.save()

            with_retries(force_recheck)
            (report,) = publish_all(root, [target], options, watcher=watcher, only=wanted.keys())
            notes += [f"while repairing: {line}" for line in report.lines()[1:]]
        seen, again = _look(settings, target, 0, options, only=paths)
        # What clients are not told of any more is not looked for, and not repaired either.
        told = {CKSUMS, *seen.described.documents, *seen.described.files}
        return {one.file for one in again.findings} | (paths - told)

    return steps.repaired(found, repair)


def _right_here(settings: Settings, paths: set[str]) -> dict[str, tuple[int, str]]:
    """Return size and sha256 of those files that are right here."""
    local = take(settings.mirror_dir, "auditing")
    wrong = {one.file for one in look_again(settings, local, paths, 0)}
    now = take(settings.mirror_dir, "auditing").files  # a night withdraws what it changes
    same = {path: file for path, file in local.files.items() if now.get(path) == file}
    right = {p: (file.size, file.sha256) for p, file in same.items() if p not in wrong}
    for path, content in {CKSUMS: local.cksums, **local.documents}.items():
        if content is not None and path not in local.damaged:
            right[path] = len(content), sha256(content)
    return {path: right[path] for path in paths & right.keys()}


def _look(
    settings: Settings,
    target: Target,
    turn: int,
    options: Model,
    watcher: Watcher = NO_WATCHER,
    only: Collection[str] | None = None,
) -> tuple[View, Checked]:
    """Look at a remote, or ``only`` at these files, which are read in full."""
    workers = min(_CONNECTIONS, options.connections)
    with contextlib.closing(Pool(lambda: open_tree(target), workers)) as pool:
        check = _Remote(settings, target.url, pool, watcher)
        seen, findings = check.look(turn, only)
        for _ in range(_LOOKS - 1):
            if not findings:
                break
            before = seen.described.documents
            seen, findings = check.look(turn, {finding.file for finding in findings})
            if seen.described.documents == before:
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
            seen = self.seen = view(tree)
        local = None
        with contextlib.suppress(PublishError):
            local = take(self.settings.mirror_dir, "auditing")
        self.local = local or Description({})
        findings = [*of_documents(seen, local), *self._strays()]
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
            full = touched | steps.due(there.values(), turn, self.settings.audit_share)
        total = sum(there[path].size for path in full)
        self.progress = self.watcher.begin("remote", total, len(full))

        def content(file: DescribedFile) -> Finding | None:
            try:
                return self._content(file, whole=file.path in full)
            except PermanentError as error:
                return Finding.of(self.where, error, file.path)

        wrong = steps.side_by_side(content, there.values(), self.pool.limit)
        return seen, findings + [finding for finding in wrong if finding]

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
        expected, found = file.digests.get("sha256", "none"), with_retries(read)
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

    def _strays(self) -> Iterator[Finding]:
        """Yield what lies there and neither metadata nor the journal knows; it is never removed."""
        seen = self.seen
        if seen.damage and seen.described.damaged:
            return  # nobody knows what was ours
        known = {CKSUMS, "meta", "rdiffs", journal.FOLDER, *seen.journal.files}
        for one in (seen.described, self.local):
            known |= {*one.files, *one.documents}
        for path, found in sorted(seen.listing.items()):
            name = path.rpartition("/")[2]
            is_part = name.startswith(".") and name.endswith(PART) and found.kind is Kind.FILE
            if path in known or (is_part and steps.is_being_made(name, found.mtime)):
                continue
            what = (
                f"is {KINDS[found.kind]} that is not part of the mirror: neither metadata nor "
                "the journal knows it"
            )
            if is_part:
                what = "was left by a transfer that nobody continued"
            yield warning(path, what, "", f"{found.size} bytes", steps.STRAY)
