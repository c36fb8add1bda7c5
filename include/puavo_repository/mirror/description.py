"""What a mirror offers: its metadata, the files that the metadata names, and CKSUMS.

One type, wherever the documents come from::

    Description.of(documents, cksums)    from a remote, a web server, an earlier generation
    take(mirror_dir, holder)             the local mirror as it is, damaged or not (audit)
    publishable(mirror_dir)              the local mirror, refused where anything is damaged
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
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


class Documents(Mapping[str, Document]):
    """Metadata by its path, parsed each time that it is asked for: it takes much more memory."""

    def __init__(self, contents: Mapping[str, bytes], damaged: Mapping[str, str]) -> None:
        self._contents, self._damaged = contents, damaged

    def __getitem__(self, path: str) -> Document:
        if path in self._damaged:
            raise KeyError(path)
        return metadata.parse(self._contents[path])

    def __iter__(self) -> Iterator[str]:
        return (path for path in self._contents if path not in self._damaged)

    def __len__(self) -> int:
        return len(self._contents) - len(self._damaged)


@dataclass(frozen=True)
class Description:
    """What some metadata describes; everything by its path in the mirror."""

    documents: Mapping[str, bytes]  # content of each metadata file
    cksums: bytes | None = None  # content of CKSUMS; None where there is none
    root: Path = Path()  # where the files lie, if they lie on this machine
    damaged: dict[str, str] = field(default_factory=dict)  # why a document cannot be parsed
    files: dict[str, DescribedFile] = field(default_factory=dict)  # all that are described
    named: dict[str, list[DescribedFile]] = field(default_factory=dict)  # the same, by document

    @classmethod
    def of(
        cls, documents: Mapping[str, bytes], cksums: bytes | None = None, root: Path = Path()
    ) -> Description:
        """Parse documents."""
        found = cls(documents, cksums, root)
        for path, content in documents.items():
            try:
                document = metadata.parse(content)
            except ValueError as error:
                found.damaged[path] = str(error)
                continue
            found.named[path] = list(metadata.described_files(document))
            for file in found.named[path]:
                found.files.setdefault(file.path, file)
        return found

    @property
    def parsed(self) -> Documents:
        """The metadata, without what is damaged."""
        return Documents(self.documents, self.damaged)

    @cached_property
    def recipes(self) -> Recipes:
        """What each image can be made from."""
        found: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for document in self.parsed.values():
            for series in document.values():
                for image in series["images"]:
                    rdiffs = (diff["filename"] for diff in image.get("diffs", []))
                    ways = ((f"rdiffs/{rdiff}", source_image(rdiff)) for rdiff in rdiffs)
                    found[image["filename"]].update(ways)
        return found

    def digests(self) -> dict[str, str]:
        """Return the sha256 of every described file, by path; empty where it is not given."""
        return {path: file.sha256 for path, file in self.files.items()}

    def cksums_agree(self) -> bool:
        """Say whether CKSUMS says exactly what the metadata says."""
        return self.cksums == metadata.render_cksums(self.parsed.values())

    def check_digests(self) -> None:
        """Refuse a file that is described without a sha256, or in two ways."""
        for named in self.named.values():
            for file in named:
                known = self.files[file.path]
                if len(file.sha256) != 64 or (file.size, file.sha256) != (known.size, known.sha256):
                    text = "has no sha256, or two, in the metadata"
                    raise PublishError(file.path, text, remedy="Prepare the mirror again")


def take(mirror_dir: Path, holder: str) -> Description:
    """Read the local mirror's description, also in the middle of a night: it is true there, too."""
    mirror = _mirror(mirror_dir)
    with mirror.metadata_locked(holder):
        contents = mirror.contents()
    return Description.of(contents, contents.pop("CKSUMS", None), mirror_dir)


def publishable(mirror_dir: Path) -> Description:
    """Read the local mirror's description for publishing, while it is not being prepared."""
    mirror = _mirror(mirror_dir)
    with mirror.locked("publishing", shared=True), mirror.metadata_locked("publishing"):
        contents = mirror.contents()
        changed = mirror.changed_since_written(contents)
    found = Description.of(contents, contents.pop("CKSUMS", None), mirror_dir)
    problems = dict.fromkeys(changed, "is not as it was written")
    if found.cksums is None:
        problems.setdefault("CKSUMS", "is missing")
    problems |= {path: f"the metadata is damaged: {why}" for path, why in found.damaged.items()}
    for path, problem in problems.items():
        raise PublishError(mirror_dir / path, problem, remedy="Prepare again: it is made anew")
    found.check_digests()
    if not found.files:
        remedy = "an empty mirror is not published, since every client would lose its images"
        text = "the mirror describes no file"
        raise PublishError(mirror_dir, text, remedy=f"Prepare it; {remedy}")
    return found


def _mirror(mirror_dir: Path) -> Mirror:
    mirror = Mirror(mirror_dir)
    if not mirror.meta.is_dir():
        raise PublishError(mirror_dir, "there is no mirror", remedy="Prepare one first")
    return mirror
