"""The local tree: metadata, CKSUMS, every described file read in full, rdiffs applied again.

No lock is held while files are read, so a night may prepare meanwhile. It withdraws a
description before it changes a file, so what is found counts only where the same is described
before the file was read and after (``steps.settled``).
"""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from puavo_repository.audit import steps
from puavo_repository.audit.report import LOCAL, Checked, Counts, Finding, error, turn, warning
from puavo_repository.delta import contained, work
from puavo_repository.errors import DeltaError, RepositoryError
from puavo_repository.formats.metadata import DescribedFile
from puavo_repository.mirror import files
from puavo_repository.mirror.description import Description, take
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.store import FOLDER
from puavo_repository.progress import NO_WATCHER, Watcher
from puavo_repository.remote.tree import RemoteStat
from puavo_repository.retry import with_retries
from puavo_repository.settings import Settings

_DIGEST_THREADS = 2  # cores that the digests of one file, or one proof, keep busy
_AGAIN = "Prepare again: it is made anew from the files"
_ANEW = "Let the audit repair it: it is removed, and the next run makes it anew"
_STATE = {FOLDER, ".checksums", ".signatures"}  # our folder, and the old system's


def local(settings: Settings, watcher: Watcher = NO_WATCHER) -> Checked:
    """Audit the local tree. Nothing is changed, no run is held up.

    The rdiffs that something was wrong with are applied whosever turn it is.
    """
    check = LocalCheck(settings, watcher).check
    return steps.attempted(LOCAL, lambda: with_retries(check))


@dataclass
class LocalCheck:
    """Looks at the local tree."""

    settings: Settings
    watcher: Watcher = NO_WATCHER
    counts: list[Counts] = field(default_factory=list)  # from several threads

    def __post_init__(self) -> None:
        self.root = self.settings.mirror_dir
        self.workers = self.settings.cores // _DIGEST_THREADS + 1

    def check(self) -> Checked:
        """Look at everything."""
        self.counts = []
        findings = steps.settled(self.look)
        return Checked(LOCAL, sum(self.counts, Counts()), tuple(findings))

    def look(
        self, only: Collection[str] | None = None, *, prove: bool = True
    ) -> tuple[Mapping[str, bytes], list[Finding]]:
        """Look at everything, or at some files alone and apply those of them that are rdiffs.

        Returns the metadata that it read, and what is wrong.
        """
        mirror, described = Mirror(self.root), take(self.root, "auditing")
        damaged = {path: f"is damaged: {why}" for path, why in described.damaged.items()}
        problems = [*damaged.items(), *steps.broken_rules(described)]
        strays: list[Finding] = []
        wanted = {p: f for p, f in described.files.items() if only is None or p in only}
        total = sum(file.size for file in wanted.values())
        self.progress = self.watcher.begin("local", total, len(wanted))
        results = steps.side_by_side(self._read, wanted.values(), self.workers)
        wrong = {path: found for path, found in zip(wanted, results, strict=True) if found}
        if prove:
            rdiffs = [file for path, file in wanted.items() if path.startswith("rdiffs/")]
            share = self.settings.audit_share if only is None else 1
            due = steps.due(rdiffs, *turn(self.root, LOCAL), share)
            wrong |= self._proven(described, due, wrong.keys())
        if not damaged:  # what is not described could not be told from what was
            if not described.cksums_agree():
                problems.append(("CKSUMS", "does not say what the metadata says"))
            with mirror.metadata_locked("auditing"):
                changed = mirror.changed_since_written(mirror.contents())
            # It may break no rule: a wrong address, say.
            told = {path for path, _ in problems}
            problems += [(path, "is not as it was written") for path in changed if path not in told]
            strays = list(self._strays(mirror, described))
        findings = [error(path, problem, remedy=_AGAIN) for path, problem in problems]
        every = [*findings, *wrong.values(), *strays]
        found = [one for one in every if only is None or one.file in only]
        return described.documents, found

    def _proven(
        self, described: Description, rdiffs: set[str], wrong: Collection[str]
    ) -> dict[str, Finding]:
        """Apply rdiffs; with an image or rdiff that is wrong nothing is proven."""
        every = ((*way, image) for image, ways in described.recipes.items() for way in ways)
        jobs = [job for job in sorted(every) if job[0] in rdiffs and not {*job}.intersection(wrong)]
        total = sum(described.files[target].size for *_, target in jobs)
        self.progress = self.watcher.begin("rdiffs", total, len(jobs))
        results = steps.side_by_side(lambda job: self._prove(*job), jobs, self.workers)
        return {job[0]: found for job, found in zip(jobs, results, strict=True) if found}

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
                found = digest_file(path, self.progress).to_dict()
                self.counts.append(Counts(local_files=1, local_bytes=file.size))
                self.watcher.finish("local")
        except OSError as why:
            return _wrong(file, "cannot be read", found=why.strerror or str(why))
        described = file.to_dict()
        for key, value in found.items():
            expected = described[key] or "none"
            if value != expected:
                problem = f"is not the file that the metadata describes: its {key} differs"
                return _wrong(file, problem, str(expected), str(value))
        return None

    def _prove(self, path: str, source: str, target: str) -> Finding | None:
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

    def _strays(self, mirror: Mirror, described: Description) -> Iterator[Finding]:
        """Yield what lies in the local mirror and neither metadata nor a record knows."""
        listing = {}
        for folder in (self.root, mirror.meta, mirror.rdiffs):
            for name, stat in files.scan(folder, "*") if folder.is_dir() else ():
                path = (folder / name).relative_to(self.root).as_posix()
                listing[path] = RemoteStat.of(stat.st_mode, stat.st_size, stat.st_mtime)
        # Listed first, looked up later: what a night was adding then is on record by now.
        known = {"CKSUMS", "meta", "rdiffs", *_STATE, *described.documents, *described.files}
        known.update(mirror.state.images.names())
        known.update(f"rdiffs/{name}" for name in mirror.state.rdiffs.names())
        return steps.strays(listing, known, "a record")


def _wrong(file: DescribedFile, problem: str, expected: str = "", found: str = "") -> Finding:
    """Return what is wrong with a file: an rdiff can be made anew, an image cannot."""
    if file.path.startswith("rdiffs/"):
        return error(file.path, problem, expected, found, _ANEW, repairable=True)
    remedy = (
        "Restore it from a backup or from a published mirror, its sha512 is "
        f"{file.sha512 or 'not known'}; then prepare again"
    )
    return error(file.path, problem, expected, found, remedy)
