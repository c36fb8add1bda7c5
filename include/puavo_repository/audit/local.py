"""The local tree: metadata, CKSUMS, every described file read in full, rdiffs applied again.

No lock is held while files are read, so a night may prepare meanwhile. It withdraws a
description before it changes a file, so a mismatch counts only where the file is described in
the same way before it was read and after.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from puavo_repository.audit import steps
from puavo_repository.audit.report import LOCAL, Checked, Counts, Finding, error, warning
from puavo_repository.errors import DeltaError, RepositoryError
from puavo_repository.formats.metadata import DescribedFile
from puavo_repository.formats.names import source_image
from puavo_repository.mirror import files
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import FOLDER
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.retry import with_retries
from puavo_repository.settings import Settings

_LOOKS = 3  # times that a file is looked at whose description changes meanwhile
_DIGEST_THREADS = 2  # cores that the digests of one file, or one proof, keep busy
_AGAIN = "Prepare again: it is made anew from the files"
_ANEW = "Let the audit repair it: it is removed, and the next run makes it anew"
_STATE = {FOLDER, ".checksums", ".signatures"}  # our folder, and the old system's


def local(settings: Settings, turn: int, watcher: Watcher = NO_WATCHER) -> Checked:
    """Audit the local tree; ``turn`` counts the audits. Nothing is changed, no run is held up."""
    check = _Local(settings, watcher).check
    return steps.attempted(LOCAL, lambda: with_retries(lambda: check(turn)))


def look_again(
    settings: Settings, described: Description, paths: Collection[str], share: int
) -> list[Finding]:
    """Read some described files again, and apply a share of the rdiffs; return what is wrong."""
    return _Local(settings, NO_WATCHER).files(described, paths, 0, share)


def repair_local(settings: Settings, found: Checked, holder: str) -> Checked:
    """Remove wrong local rdiffs and their description, so that the next run makes them anew.

    ``found`` is what ``local`` found, and ``holder`` who takes the mirror's lock. Returns the same
    with what was repaired as such; why something could not be is in the notes.
    """
    mirror = Mirror(settings.mirror_dir)

    def still_wrong(paths: set[str]) -> list[Finding]:
        return look_again(settings, take(mirror.root, "auditing"), paths, 1)

    def repair(paths: set[str], notes: list[str]) -> set[str]:
        with mirror.locked(holder):
            # Under the lock nobody makes it anew at the same time; somebody may have before.
            for one in sorted(still_wrong(paths), key=lambda finding: finding.file):
                if not one.repairable:  # it may be right: its proof was killed, say
                    notes.append(f"not repaired: {replace(one, where=LOCAL)}")
                    continue
                name = one.file.removeprefix("rdiffs/")
                mirror.remove_from_metadata({one.file})
                mirror.state.rdiffs.remove(name)
                files.remove(mirror.rdiffs / name)
                notes.append(f"{one.file}: removed; the next run makes it anew")
        return {one.file for one in still_wrong(paths)}

    return steps.repaired(found, repair)


@dataclass
class _Local:
    """Looks at the local tree."""

    settings: Settings
    watcher: Watcher
    counts: list[Counts] = field(default_factory=list)  # from several threads

    def __post_init__(self) -> None:
        self.root = self.settings.mirror_dir
        self.workers = self.settings.cores // _DIGEST_THREADS + 1

    def check(self, turn: int) -> Checked:
        """Look at everything."""
        self.counts = []
        described = take(self.root, "auditing")
        damaged = {path: f"is damaged: {why}" for path, why in described.damaged.items()}
        problems = [*damaged.items(), *steps.broken_rules(described)]
        findings = [error(path, problem, remedy=_AGAIN) for path, problem in problems]
        share = self.settings.audit_share
        findings += self.files(described, described.files.keys(), turn, share)
        now, mirror = take(self.root, "auditing"), Mirror(self.root)
        if not now.damaged:  # what is not described could not be told from what was
            if not now.cksums_agree():
                problem = "does not say what the metadata says"
                findings.append(error("CKSUMS", problem, remedy=_AGAIN))
            with mirror.metadata_locked("auditing"):
                changed = mirror.changed_since_written(mirror.contents())
            # It may break no rule: a wrong address, say.
            others = [error(path, "is not as it was written", remedy=_AGAIN) for path in changed]
            told = {finding.file for finding in findings}
            findings += [o for o in (*others, *self._strays(mirror)) if o.file not in told]
        return Checked(LOCAL, sum(self.counts, Counts()), tuple(findings))

    def files(
        self, described: Description, paths: Collection[str], turn: int, share: float
    ) -> list[Finding]:
        """Read files in full, and apply the rdiffs among them whose turn it is."""
        # What is described anew meanwhile is noted in a copy: it may not have been read as that.
        known = dict(described.files)
        wrong: dict[str, Finding] = {}
        wanted = {path: file for path, file in known.items() if path in paths}
        rdiffs = [file for path, file in wanted.items() if path.startswith("rdiffs/")]
        total = sum(file.size for file in wanted.values())
        self.progress = self.watcher.begin("local", total, len(wanted))
        for _ in range(_LOOKS):
            results = steps.side_by_side(self._read, wanted.values(), self.workers)
            suspects = {p: found for p, found in zip(wanted, results, strict=True) if found}
            if not suspects:
                break
            now = take(self.root, "auditing").files
            wrong |= {p: f for p, f in suspects.items() if now.get(p) == wanted[p]}
            # Described anew meanwhile: what lies there must be what is described now.
            wanted = {p: now[p] for p in suspects if p not in wrong and p in now}
            known |= wanted
        targets = {r: image for image, recipes in described.recipes.items() for r, _ in recipes}
        applied = steps.due(rdiffs, turn, share)
        every = [(path, source_image(path), targets[path]) for path in sorted(applied)]
        jobs = [job for job in every if not wrong.keys() & {*job}]  # with those nothing is proven
        total = sum(known[target].size for *_, target in jobs)
        self.progress = self.watcher.begin("rdiffs", total, len(jobs))
        results = steps.side_by_side(lambda job: self._prove(*job), jobs, self.workers)
        now = take(self.root, "auditing").files if any(results) else {}
        for job, found in zip(jobs, results, strict=True):
            if found and all(now.get(path) == known.get(path) for path in job):
                wrong[job[0]] = found
        return list(wrong.values())

    def _read(self, file: DescribedFile) -> Finding | None:
        path, size = self.root / file.path, f"{file.size} bytes"
        try:
            identity = Identity.at(path)
            if identity is None:
                problem = "is no plain file" if os.path.lexists(path) else "is missing"
                if path.is_dir() and not path.is_symlink():
                    remedy = "Move it away, and prepare again"
                    return error(file.path, problem, size, "a folder", remedy)
                return _wrong(file, problem, size)
            found: dict[str, int | str] = {"size": identity.size}
            if identity.size == file.size:
                found = vars(digest_file(path, self.progress))
                self.counts.append(Counts(local_files=1, local_bytes=file.size))
                self.watcher.finish("local")
        except OSError as why:
            return _wrong(file, "cannot be read", found=why.strerror or str(why))
        described = {"size": file.size, **file.digests}
        for key, value in found.items():
            expected = described.get(key, "none")
            if value != expected:
                problem = f"is not the file that the metadata describes: its {key} differs"
                return _wrong(file, problem, str(expected), str(value))
        return None

    def _prove(self, path: str, source: str, target: str) -> Finding | None:
        from puavo_repository.delta import contained, work  # compiled code, slow to load

        # An image that only extra rdiffs start from is not in the mirror.
        places = (self.root / source, self.settings.image_dir / source)
        rdiff = self.root / path
        try:
            basis = next((place for place in places if place.is_file()), None)
            if basis is None:
                problem = f"could not be applied: the image {source} is not here"
                remedy = "Put it back, or take it out of extra_rdiffs and prepare again"
                return warning(path, problem, remedy=remedy)
            given, doing = (basis, self.root / target, rdiff), "while it proved this rdiff"
            contained.call(rdiff, doing, work.prove, *given, progress=self.progress)
        except DeltaError as why:
            return error(path, why.problem, why.expected, why.found, _ANEW, repairable=True)
        except (OSError, RepositoryError) as why:
            return error(path, "could not be applied", found=str(why))
        self.counts.append(Counts(rdiffs=1))
        self.watcher.finish("rdiffs")
        return None

    def _strays(self, mirror: Mirror) -> Iterator[Finding]:
        """Yield what lies in the local mirror and neither metadata nor a record knows.

        It is looked for twice: what a night adds meanwhile is described or on record by then. It
        is named, never removed.
        """
        suspects = self._unknown(mirror)
        for path in sorted(suspects & self._unknown(mirror) if suspects else ()):
            found = "a folder" if (self.root / path).is_dir() else "a file"
            found = "a link" if (self.root / path).is_symlink() else found
            problem = "is not part of the mirror: no metadata describes it, and no record knows it"
            yield warning(path, problem, "", found, steps.STRAY)

    def _unknown(self, mirror: Mirror) -> set[str]:
        found = set()
        for folder in (self.root, mirror.meta, mirror.rdiffs):
            for path in folder.iterdir() if folder.is_dir() else ():
                age = Identity.at(path)
                is_new = age is not None and steps.is_being_made(path.name, age.mtime / 1e9)
                if path.name not in _STATE and not is_new:
                    found.add(path.relative_to(self.root).as_posix())
        # Listed first, looked up later: what a night was adding then is on record by now.
        described, state = take(self.root, "auditing"), mirror.state
        rdiffs = {f"rdiffs/{name}" for name in state.rdiffs.names()}
        known = {"CKSUMS", "meta", "rdiffs", *described.documents, *described.files}
        return found - known - rdiffs - {*state.images.names()}


def _wrong(file: DescribedFile, problem: str, expected: str = "", found: str = "") -> Finding:
    """Return what is wrong with a file: an rdiff can be made anew, an image cannot."""
    if file.path.startswith("rdiffs/"):
        return error(file.path, problem, expected, found, _ANEW, repairable=True)
    remedy = (
        "Restore it from a backup or from a published mirror, its sha512 is "
        f"{file.digests.get('sha512', 'not known')}; then prepare again"
    )
    return error(file.path, problem, expected, found, remedy)
