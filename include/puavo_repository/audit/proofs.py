"""Rdiffs applied again: do they still give, byte for byte, the images that clients want?"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from puavo_repository.audit.report import LOCAL, Counts, Finding, error, warning
from puavo_repository.audit.steps import DIGEST_THREADS, Tally, side_by_side
from puavo_repository.errors import DeltaError, RepositoryError
from puavo_repository.formats.metadata import DescribedFile
from puavo_repository.formats.names import source_image
from puavo_repository.mirror.description import Description, take
from puavo_repository.progress import Watcher
from puavo_repository.settings import Settings


class Proofs:
    """Applies rdiffs of the local mirror.

    Args:
        settings: Where it is.
        described: What it describes.
        watcher: Told of the bytes of the targets.
        tally: Told of the same, for the report.
    """

    def __init__(
        self, settings: Settings, described: Description, watcher: Watcher, tally: Tally
    ) -> None:
        self._settings = settings
        self._root = settings.mirror_dir
        self._described = described
        self._watcher = watcher
        self._tally = tally

    def failed(self, paths: Iterable[str], wrong: Collection[str]) -> list[Finding]:
        """Apply rdiffs; return what is wrong.

        Args:
            paths: The rdiffs.
            wrong: Files that are known to be wrong: with those images nothing would be proven.
        """
        known, targets = self._described.files, _targets(self._described)
        jobs = [
            (known[path], source_image(path), targets[path])
            for path in paths
            if not {source_image(path), targets[path]} & set(wrong)
        ]
        total = sum(known[job[2]].size for job in jobs)
        self._progress = self._watcher.begin("rdiffs", total, len(jobs))
        workers = self._settings.cores // DIGEST_THREADS + 1
        results = side_by_side(lambda job: self._proven(*job), jobs, workers)
        if not any(results):
            return []
        now = take(self._root, "auditing").files
        return [
            found
            for (file, *images), found in zip(jobs, results, strict=True)
            if found and all(now.get(p) == known.get(p) for p in (file.path, *images))
        ]

    def _proven(self, file: DescribedFile, source: str, target: str) -> Finding | None:
        from puavo_repository.delta import contained, proof  # compiled code, slow to load

        try:
            basis = self._source(source)
            if basis is None:
                return warning(
                    LOCAL,
                    file.path,
                    f"could not be applied: the image {source} is not here",
                    remedy="Put it back, or take it out of extra_rdiffs and prepare again",
                )
            goal, rdiff = self._root / target, self._root / file.path
            contained.call(
                rdiff,
                "while it proved this rdiff",
                proof.prove,
                *(basis, goal, rdiff),
                progress=self._progress,
            )
        except DeltaError as why:
            return error(
                LOCAL,
                file.path,
                why.problem,
                why.expected,
                why.found,
                "Let the audit repair it: it is removed, and the next run makes it anew",
                repairable=True,
            )
        except (OSError, RepositoryError) as why:
            return error(LOCAL, file.path, "could not be applied", found=str(why))
        self._tally.add(Counts(rdiffs=1))
        self._watcher.finish("rdiffs")
        return None

    def _source(self, name: str) -> Path | None:
        """Return where the image is that an rdiff starts from; an extra one only has a source."""
        places = (self._root / name, self._settings.image_dir / name)
        return next((path for path in places if path.is_file()), None)


def _targets(described: Description) -> dict[str, str]:
    """Return the image that each rdiff gives."""
    return {
        f"rdiffs/{diff['filename']}": image["filename"]
        for document in described.parsed.values()
        for content in document.values()
        for image in content["images"]
        for diff in image.get("diffs", [])
    }
