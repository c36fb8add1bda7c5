"""What the local mirror describes, at one moment and free of damage: what is to be published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from puavo_repository.errors import PublishError
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.mirror import files, vouched
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.publish.plan import Wanted, source_image


@dataclass(frozen=True)
class Snapshot:
    """What the local mirror describes at one moment.

    Attributes:
        root: The mirror.
        documents: Content of each metadata file by its path, such as ``meta/x.json``.
        parsed: The same, parsed.
        cksums: Content of CKSUMS.
        wanted: Every file that the metadata describes, by path.
    """

    root: Path
    documents: dict[str, bytes]
    parsed: dict[str, Document]
    cksums: bytes
    wanted: dict[str, Wanted]


def snapshot(mirror_dir: Path) -> Snapshot:
    """Read the local mirror's description, while nobody rewrites it.

    Raises:
        LockedError: The mirror is being prepared.
        PublishError: It describes nothing, or cannot be read.
    """
    mirror = Mirror(mirror_dir)
    if not mirror.meta.is_dir():
        raise PublishError(mirror_dir, "there is no mirror", remedy="Prepare one first")
    with files.locked(mirror.state.lock, "publishing", shared=True), mirror.at_rest("publishing"):
        documents = mirror.contents()
        changed = vouched.strangers(mirror.state, documents)
    if changed:
        raise PublishError(
            mirror_dir / changed[0],
            "is not as it was written",
            remedy="Prepare again: it is made anew",
        )
    cksums = documents.pop(mirror.cksums.name, None)
    if cksums is None:
        raise PublishError(mirror.cksums, "is missing", remedy="Prepare again: it is made anew")
    parsed = {path: _parse(mirror_dir / path, text) for path, text in documents.items()}
    wanted = wanted_files(parsed)
    if not wanted:
        raise PublishError(
            mirror_dir,
            "the mirror describes no file",
            remedy="Prepare it; an empty mirror is "
            "not published, since every client would lose its images",
        )
    return Snapshot(mirror_dir, documents, parsed, cksums, wanted)


def _parse(path: Path, content: bytes) -> Document:
    try:
        return metadata.parse(content)
    except ValueError as error:
        raise PublishError(
            path, f"the metadata is damaged: {error}", remedy="Prepare again"
        ) from error


def wanted_files(parsed: Mapping[str, Document]) -> dict[str, Wanted]:
    """Return every file that some documents describe, by path.

    Raises:
        PublishError: One is described without a digest, or in two ways.
    """
    recipes: dict[str, set[tuple[str, str]]] = {}
    for document in parsed.values():
        for series in document.values():
            for image in series["images"]:
                pairs = recipes.setdefault(image["filename"], set())
                names = (diff["filename"] for diff in image.get("diffs", []))
                pairs.update((f"rdiffs/{name}", source_image(name)) for name in names)
    wanted: dict[str, Wanted] = {}
    for document in parsed.values():
        for file in metadata.described_files(document):
            digest = file.digests.get("sha256", "")
            ways = tuple(sorted(recipes.get(file.path, ())))
            made = Wanted(file.path, file.size, digest, ways)
            if len(digest) != 64 or wanted.setdefault(file.path, made) != made:
                raise PublishError(
                    file.path,
                    "has no sha256, or two, in the metadata",
                    remedy="Prepare the mirror again",
                )
    return wanted
