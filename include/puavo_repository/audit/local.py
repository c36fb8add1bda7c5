"""The local tree: metadata, CKSUMS, every described file read in full, rdiffs applied again.

No lock is held while files are read, so a night may prepare meanwhile. It withdraws a
description before it changes a file, so a mismatch counts only where the file is described in
the same way before it was read and after.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from puavo_repository.audit.proofs import Proofs
from puavo_repository.audit.report import LOCAL, Checked, Counts, Finding, error
from puavo_repository.audit.rules import broken_rules
from puavo_repository.audit.steps import DIGEST_THREADS, Tally, attempted, due, side_by_side
from puavo_repository.audit.strays import local_strays
from puavo_repository.formats.metadata import DIGESTS, DescribedFile, described_files
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.retry import with_retries
from puavo_repository.settings import Settings

_LOOKS = 3  # times that a file is looked at whose description changes meanwhile
_AGAIN = "Prepare again: it is made anew from the files"


def local(
    settings: Settings,
    series: Collection[str] | None,
    turn: int,
    watcher: Watcher = NO_WATCHER,
) -> Checked:
    """Audit the local tree. Nothing is changed, and no run is held up.

    Args:
        settings: Where it is; ``audit_share`` says how many rdiffs are applied again.
        series: Only the files of these; CKSUMS and stray files are left to an audit of all,
            which None stands for.
        turn: Counts the audits.
        watcher: Told of the bytes that are read.
    """

    def check() -> Checked:
        return _Local(settings, watcher).check(series, turn)

    return attempted(LOCAL, lambda: with_retries(check))


def still_wrong(settings: Settings, rdiffs: Collection[str]) -> dict[str, Finding]:
    """Look at some described rdiffs again, and apply each; return what is wrong, by path.

    Raises:
        RepositoryError: It could not be done.
    """
    described = take(settings.mirror_dir, "auditing")
    wanted = {path: file for path, file in described.files.items() if path in rdiffs}
    check = _Local(settings.model_copy(update={"audit_share": 1}), NO_WATCHER)
    found = check.files(described, wanted, 0)
    return {finding.file: finding for finding in found}


class _Local:
    """One audit of the local tree.

    Args:
        settings: Where it is.
        watcher: Told of the bytes that are read.
    """

    def __init__(self, settings: Settings, watcher: Watcher) -> None:
        self._settings = settings
        self._root = settings.mirror_dir
        self._watcher = watcher
        self._tally = Tally()

    def check(self, series: Collection[str] | None, turn: int) -> Checked:
        described = take(self._root, "auditing")
        findings = list(_of_documents(described, series))
        findings += self.files(described, _files_of(described, series), turn)
        if series is None:
            now = take(self._root, "auditing")
            if not now.damaged:  # what is not described could not be told from what was
                findings += [] if now.cksums_agree() else [_cksums()]
                findings += self._changed_since_written({finding.file for finding in findings})
                told = {finding.file for finding in findings}
                findings += [one for one in local_strays(self._root) if one.file not in told]
        return Checked(LOCAL, self._tally.counts, tuple(findings))

    def _changed_since_written(self, told: Collection[str]) -> Iterator[Finding]:
        """Yield what was rewritten by anybody else, and breaks no rule: a wrong address, say."""
        mirror = Mirror(self._root)
        with mirror.metadata_locked("auditing"):
            changed = mirror.changed_since_written(mirror.contents())
        for path in changed:
            if path not in told:
                yield error(LOCAL, path, "is not as it was written", remedy=_AGAIN)

    def files(
        self, described: Description, wanted: dict[str, DescribedFile], turn: int
    ) -> list[Finding]:
        total = sum(file.size for file in wanted.values())
        self._progress = self._watcher.begin("local", total, len(wanted))
        wrong = self._read(described, wanted)
        rdiffs = [f for f in wanted.values() if f.path.startswith("rdiffs/")]
        applied = due(rdiffs, turn, self._settings.audit_share).difference(wrong)
        proofs = Proofs(self._settings, described, self._watcher, self._tally)
        return [*wrong.values(), *proofs.failed(sorted(applied), wrong)]

    def _read(self, described: Description, wanted: dict[str, DescribedFile]) -> dict[str, Finding]:
        """Read files in full; return what is wrong, by path."""
        wrong: dict[str, Finding] = {}
        for _ in range(_LOOKS):
            workers = self._settings.cores // DIGEST_THREADS + 1
            results = side_by_side(self._file, wanted.values(), workers)
            suspects = {f.path: r for f, r in zip(wanted.values(), results, strict=True) if r}
            if not suspects:
                break
            now = take(self._root, "auditing").files
            wrong |= {p: f for p, f in suspects.items() if now.get(p) == wanted[p]}
            # Described anew meanwhile: what lies there must be what is described now.
            wanted = {p: now[p] for p in suspects if p not in wrong and p in now}
            described.files.update(wanted)
        return wrong

    def _file(self, file: DescribedFile) -> Finding | None:
        path = self._root / file.path
        try:
            identity = Identity.at(path)
            if identity is None:
                return _missing(file, path)
            if identity.size != file.size:
                return _differs(file, "size", str(file.size), str(identity.size))
            found = digest_file(path, self._progress).to_dict()
        except OSError as why:
            return error(
                LOCAL,
                file.path,
                "cannot be read",
                found=why.strerror or str(why),
                remedy=_remedy(file),
                repairable=_is_rdiff(file),
            )
        self._tally.add(Counts(local_files=1, local_bytes=file.size))
        self._watcher.finish("local")
        for key in DIGESTS:
            expected = file.digests.get(key, "none")
            if expected != found[key]:
                return _differs(file, key, expected, str(found[key]))
        return None


def _files_of(described: Description, series: Collection[str] | None) -> dict[str, DescribedFile]:
    """Return the files that some series describe, each once."""
    if series is None:
        return dict(described.files)
    chosen = (
        {name: content for name, content in document.items() if name in series}
        for document in described.parsed.values()
    )
    paths = {file.path for document in chosen for file in described_files(document)}
    return {path: file for path, file in described.files.items() if path in paths}


def _of_documents(described: Description, series: Collection[str] | None) -> Iterator[Finding]:
    for path, problem in described.damaged.items():
        yield error(LOCAL, path, f"is damaged: {problem}", remedy=_AGAIN)
    for path, problem in broken_rules(described):
        if series is None or set(described.parsed[path]) & set(series):
            yield error(LOCAL, path, f"breaks what clients rely on: {problem}", remedy=_AGAIN)


def _cksums() -> Finding:
    return error(LOCAL, "CKSUMS", "does not say what the metadata says", remedy=_AGAIN)


def _missing(file: DescribedFile, path: Path) -> Finding:
    folder = path.is_dir() and not path.is_symlink()
    return error(
        LOCAL,
        file.path,
        "is no plain file" if os.path.lexists(path) else "is missing",
        expected=f"{file.size} bytes",
        found="a folder" if folder else "",
        remedy="Move it away, and prepare again" if folder else _remedy(file),
        repairable=_is_rdiff(file) and not folder,
    )


def _differs(file: DescribedFile, key: str, expected: str, found: str) -> Finding:
    return error(
        LOCAL,
        file.path,
        f"is not the file that the metadata describes: its {key} differs",
        expected,
        found,
        _remedy(file),
        repairable=_is_rdiff(file),
    )


def _remedy(file: DescribedFile) -> str:
    if _is_rdiff(file):
        return "Let the audit repair it: it is removed, and the next run makes it anew"
    known = file.digests.get("sha512", "not known")
    return (
        f"Restore it from a backup or from a published mirror, its sha512 is {known}; then "
        "prepare again"
    )


def _is_rdiff(file: DescribedFile) -> bool:
    return file.path.startswith("rdiffs/")
