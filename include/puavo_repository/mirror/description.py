"""What a mirror offers: its metadata, the files that the metadata names, and CKSUMS.

One type, wherever the documents come from::

    Description.of(documents, cksums)    from a remote, a web server, an earlier generation
    take(mirror_dir, holder)             the local mirror as it is, damaged or not (audit)
    publishable(mirror_dir)              the local mirror, refused where anything is damaged

``documents`` holds the bytes, ``parsed`` the same as JSON values, ``damaged`` why some could not
be parsed, ``files`` every file that is described, ``recipes`` what an image can be made from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from puavo_repository.errors import PublishError
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import DescribedFile, Document
from puavo_repository.formats.names import source_image
from puavo_repository.mirror.mirror import Mirror

Recipes = Mapping[str, set[tuple[str, str]]]
"""By path of an image: (path of an rdiff, path of the image that it starts from)."""


@dataclass(frozen=True)
class Description:
    """What some metadata describes.

    Attributes:
        documents: Content of each metadata file by its path, such as ``meta/x.json``.
        cksums: Content of CKSUMS; None where there is none.
        root: Where the files lie, if they lie on this machine.
        parsed: The documents, parsed; without those that cannot be.
        damaged: Why a document cannot be parsed, by path.
        files: Every file that is described, by path.
    """

    documents: Mapping[str, bytes]
    cksums: bytes | None = None
    root: Path = Path()
    parsed: dict[str, Document] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    files: dict[str, DescribedFile] = field(default_factory=dict)

    @classmethod
    def of(
        cls, documents: Mapping[str, bytes], cksums: bytes | None = None, root: Path = Path()
    ) -> Description:
        """Parse documents."""
        found = cls(documents, cksums, root)
        for path, content in documents.items():
            try:
                found.parsed[path] = metadata.parse(content)
            except ValueError as error:
                found.damaged[path] = str(error)
                continue
            for file in metadata.described_files(found.parsed[path]):
                found.files.setdefault(file.path, file)
        return found

    @cached_property
    def recipes(self) -> Recipes:
        """What each image can be made from."""
        found: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for document in self.parsed.values():
            for series in document.values():
                for image in series["images"]:
                    rdiffs = (diff["filename"] for diff in image.get("diffs", []))
                    found[image["filename"]].update(
                        (f"rdiffs/{r}", source_image(r)) for r in rdiffs
                    )
        return found

    def digests(self) -> dict[str, str]:
        """Return the sha256 of every described file, by path; empty where it is not given."""
        return {path: file.sha256 for path, file in self.files.items()}

    def cksums_agree(self) -> bool:
        """Say whether CKSUMS says exactly what the metadata says."""
        return self.cksums == metadata.render_cksums(self.parsed.values())

    def check_digests(self) -> None:
        """Make sure that every file is described with a sha256, and in one way.

        Raises:
            PublishError: One is not.
        """
        for document in self.parsed.values():
            for file in metadata.described_files(document):
                known = self.files[file.path]
                if len(file.sha256) != 64 or (file.size, file.sha256) != (known.size, known.sha256):
                    raise PublishError(
                        file.path,
                        "has no sha256, or two, in the metadata",
                        remedy="Prepare the mirror again",
                    )


def take(mirror_dir: Path, holder: str) -> Description:
    """Read the local mirror's description, while it is not being rewritten.

    The lock is the one that is held while metadata is rewritten, not the one that a whole night
    holds: a description is true in the middle of a night as well.

    Args:
        mirror_dir: The mirror.
        holder: Who reads, in words for the person who finds it locked.

    Raises:
        PublishError: There is no mirror.
        StorageError, StorageRefusedError: It cannot be read.
    """
    mirror = _mirror(mirror_dir)
    with mirror.metadata_locked(holder):
        contents = mirror.contents()
    return _described(mirror_dir, contents)


def publishable(mirror_dir: Path) -> Description:
    """Read the local mirror's description for publishing, while it is not being prepared.

    Raises:
        LockedError: The mirror is being prepared.
        PublishError: It describes nothing, or something is damaged.
    """
    mirror = _mirror(mirror_dir)
    with mirror.locked("publishing", shared=True), mirror.metadata_locked("publishing"):
        contents = mirror.contents()
        changed = mirror.changed_since_written(contents)
    again = "Prepare again: it is made anew"
    if changed:
        raise PublishError(mirror_dir / changed[0], "is not as it was written", remedy=again)
    found = _described(mirror_dir, contents)
    if found.cksums is None:
        raise PublishError(mirror.cksums, "is missing", remedy=again)
    for path, why in found.damaged.items():
        raise PublishError(
            mirror_dir / path, f"the metadata is damaged: {why}", remedy="Prepare again"
        )
    found.check_digests()
    if not found.files:
        raise PublishError(
            mirror_dir,
            "the mirror describes no file",
            remedy="Prepare it; an empty mirror is "
            "not published, since every client would lose its images",
        )
    return found


def _mirror(mirror_dir: Path) -> Mirror:
    mirror = Mirror(mirror_dir)
    if not mirror.meta.is_dir():
        raise PublishError(mirror_dir, "there is no mirror", remedy="Prepare one first")
    return mirror


def _described(root: Path, contents: dict[str, bytes]) -> Description:
    content = contents.pop("CKSUMS", None)
    return Description.of(contents, content, root)
