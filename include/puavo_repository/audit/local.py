"""The local tree: metadata, CKSUMS, every described file read in full, rdiffs applied again.

No lock is held while files are read, so a night may prepare meanwhile. It withdraws a
description before it changes a file, so a mismatch counts only where the file is described in
the same way before it was read and after.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from puavo_repository.audit.report import LOCAL, Checked, Counts, Finding, error, warning
from puavo_repository.audit.steps import DAY, STRAY, attempted, broken_rules, due, side_by_side
from puavo_repository.errors import DeltaError, RepositoryError
from puavo_repository.formats.metadata import DIGESTS, DescribedFile
from puavo_repository.formats.names import source_image
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.files import PART, Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import FOLDER
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.retry import with_retries
from puavo_repository.settings import Settings

_LOOKS = 3  # times that a file is looked at whose description changes meanwhile
_DIGEST_THREADS = 2  # cores that the digests of one file, or one proof, keep busy
_AGAIN = "Prepare again: it is made anew from the files"
_STATE = {FOLDER, ".checksums", ".signatures"}  # our folder, and the old system's


def local(settings: Settings, turn: int, watcher: Watcher = NO_WATCHER) -> Checked:
    """Audit the local tree; ``turn`` counts the audits. Nothing is changed, no run is held up."""
    return attempted(LOCAL, lambda: with_retries(lambda: _Local(settings, watcher).check(turn)))


def look_again(
    settings: Settings, described: Description, paths: Collection[str], share: int
) -> list[Finding]:
    """Look at some described files again, and apply a share of the rdiffs; return what is wrong.

    Raises:
        RepositoryError: It could not be done.
    """
    wanted = {path: file for path, file in described.files.items() if path in paths}
    # What is described anew meanwhile is noted in a copy: it may not have been read as that.
    own = replace(described, files=dict(described.files))
    return _Local(settings, NO_WATCHER).files(own, wanted, 0, share)


@dataclass
class _Local:
    """One audit of the local tree."""

    settings: Settings
    watcher: Watcher
    counts: list[Counts] = field(default_factory=list)  # from several threads

    def __post_init__(self) -> None:
        self.root = self.settings.mirror_dir
        self.workers = self.settings.cores // _DIGEST_THREADS + 1

    def check(self, turn: int) -> Checked:
        described = take(self.root, "auditing")
        findings = [
            error(path, f"is damaged: {problem}", remedy=_AGAIN)
            for path, problem in described.damaged.items()
        ]
        findings += broken_rules(described, _AGAIN)
        wanted, share = dict(described.files), self.settings.audit_share
        findings += self.files(described, wanted, turn, share)
        now = take(self.root, "auditing")
        if not now.damaged:  # what is not described could not be told from what was
            if not now.cksums_agree():
                problem = "does not say what the metadata says"
                findings.append(error("CKSUMS", problem, remedy=_AGAIN))
            told = {finding.file for finding in findings}
            others = [*_changed_since_written(self.root), *_strays(self.root)]
            findings += [one for one in others if one.file not in told]
        return Checked(LOCAL, sum(self.counts, Counts()), tuple(findings))

    def files(
        self, described: Description, wanted: dict[str, DescribedFile], turn: int, share: float
    ) -> list[Finding]:
        """Read files in full, and apply the rdiffs among them whose turn it is."""
        total = sum(file.size for file in wanted.values())
        self.progress = self.watcher.begin("local", total, len(wanted))
        wrong = self._read(described, wanted)
        rdiffs = [f for f in wanted.values() if f.path.startswith("rdiffs/")]
        applied = due(rdiffs, turn, share).difference(wrong)
        return [*wrong.values(), *self._apply(described, sorted(applied), set(wrong))]

    def _read(self, described: Description, wanted: dict[str, DescribedFile]) -> dict[str, Finding]:
        """Read files in full; return what is wrong, by path."""
        wrong: dict[str, Finding] = {}
        for _ in range(_LOOKS):
            results = side_by_side(self._file, wanted.values(), self.workers)
            suspects = {f.path: r for f, r in zip(wanted.values(), results, strict=True) if r}
            if not suspects:
                break
            now = take(self.root, "auditing").files
            wrong |= {p: f for p, f in suspects.items() if now.get(p) == wanted[p]}
            # Described anew meanwhile: what lies there must be what is described now.
            wanted = {p: now[p] for p in suspects if p not in wrong and p in now}
            described.files.update(wanted)
        return wrong

    def _file(self, file: DescribedFile) -> Finding | None:
        path = self.root / file.path
        try:
            identity = Identity.at(path)
            if identity is None:
                return _missing(file, path)
            if identity.size != file.size:
                return _differs(file, "size", str(file.size), str(identity.size))
            found = vars(digest_file(path, self.progress))
        except OSError as why:
            return _wrong(file, "cannot be read", found=why.strerror or str(why))
        self.counts.append(Counts(local_files=1, local_bytes=file.size))
        self.watcher.finish("local")
        for key in DIGESTS:
            expected = file.digests.get(key, "none")
            if expected != found[key]:
                return _differs(file, key, expected, str(found[key]))
        return None

    def _apply(
        self, described: Description, paths: Collection[str], wrong: set[str]
    ) -> list[Finding]:
        """Apply rdiffs; return what is wrong. With an image that is wrong nothing is proven."""
        known = described.files
        targets = {r: image for image, recipes in described.recipes.items() for r, _ in recipes}
        every = [(known[path], source_image(path), targets[path]) for path in paths]
        jobs = [job for job in every if not wrong & {*job[1:]}]
        total = sum(known[target].size for _, _, target in jobs)
        self.progress = self.watcher.begin("rdiffs", total, len(jobs))
        results = side_by_side(lambda job: self._prove(*job), jobs, self.workers)
        if not any(results):
            return []
        now = take(self.root, "auditing").files
        return [
            found
            for (file, *images), found in zip(jobs, results, strict=True)
            if found and all(now.get(p) == known.get(p) for p in (file.path, *images))
        ]

    def _prove(self, file: DescribedFile, source: str, target: str) -> Finding | None:
        from puavo_repository.delta import contained, work  # compiled code, slow to load

        # An image that only extra rdiffs start from is not in the mirror.
        places = (self.root / source, self.settings.image_dir / source)
        rdiff = self.root / file.path
        try:
            basis = next((path for path in places if path.is_file()), None)
            if basis is None:
                problem = f"could not be applied: the image {source} is not here"
                remedy = "Put it back, or take it out of extra_rdiffs and prepare again"
                return warning(file.path, problem, remedy=remedy)
            paths = basis, self.root / target, rdiff
            doing = "while it proved this rdiff"
            contained.call(rdiff, doing, work.prove, *paths, progress=self.progress)
        except DeltaError as why:
            return _wrong(file, why.problem, why.expected, why.found)
        except (OSError, RepositoryError) as why:
            return error(file.path, "could not be applied", found=str(why))
        self.counts.append(Counts(rdiffs=1))
        self.watcher.finish("rdiffs")
        return None


def _missing(file: DescribedFile, path: Path) -> Finding:
    problem = "is no plain file" if os.path.lexists(path) else "is missing"
    expected = f"{file.size} bytes"
    if path.is_dir() and not path.is_symlink():
        return error(file.path, problem, expected, "a folder", "Move it away, and prepare again")
    return _wrong(file, problem, expected)


def _differs(file: DescribedFile, key: str, expected: str, found: str) -> Finding:
    problem = f"is not the file that the metadata describes: its {key} differs"
    return _wrong(file, problem, expected, found)


def _wrong(file: DescribedFile, problem: str, expected: str = "", found: str = "") -> Finding:
    """Return what is wrong with a file: an rdiff can be made anew, an image cannot."""
    if is_rdiff := file.path.startswith("rdiffs/"):
        remedy = "Let the audit repair it: it is removed, and the next run makes it anew"
    else:
        remedy = (
            "Restore it from a backup or from a published mirror, its sha512 is "
            f"{file.digests.get('sha512', 'not known')}; then prepare again"
        )
    return error(file.path, problem, expected, found, remedy, repairable=is_rdiff)


def _changed_since_written(root: Path) -> list[Finding]:
    """Return what was rewritten by anybody else; it may break no rule: a wrong address, say."""
    mirror = Mirror(root)
    with mirror.metadata_locked("auditing"):
        changed = mirror.changed_since_written(mirror.contents())
    return [error(path, "is not as it was written", remedy=_AGAIN) for path in changed]


def _strays(root: Path) -> Iterator[Finding]:
    """Yield what lies in the local mirror and neither metadata nor a record knows.

    It is looked for twice: what a night adds meanwhile is described or on record by then. It is
    named, never removed.
    """
    suspects = _unknown(root)
    for path in sorted(suspects & _unknown(root) if suspects else ()):
        found = "a folder" if (root / path).is_dir() else "a file"
        found = "a link" if (root / path).is_symlink() else found
        problem = "is not part of the mirror: no metadata describes it, and no record knows it"
        yield warning(path, problem, "", found, STRAY)


def _unknown(root: Path) -> set[str]:
    mirror = Mirror(root)
    found = {
        path.relative_to(root).as_posix()
        for folder in (root, mirror.meta, mirror.rdiffs)
        if folder.is_dir()
        for path in folder.iterdir()
        if not _is_ours(path)
    }
    # Listed first, looked up later: what a night was adding then is on record by now.
    described = take(root, "auditing")
    return found - {
        *("CKSUMS", "meta", "rdiffs"),
        *described.documents,
        *described.files,
        *mirror.state.images.names(),
        *(f"rdiffs/{name}" for name in mirror.state.rdiffs.names()),
    }


def _is_ours(path: Path) -> bool:
    """Say whether this is a folder of state, or a file that is being made."""
    if path.name in _STATE:
        return True
    try:
        age = time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return True
    return path.name.startswith(".") and path.name.endswith(PART) and age < DAY
