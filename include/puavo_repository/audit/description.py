"""What metadata describes, and what clients rely on in it beyond what it takes to read it.

The laptop client reads ``filename``, ``size`` and ``sha512`` and computes the names of rdiffs by
itself; the bootserver client needs ``sha256``, ``size`` and ``urls`` everywhere, and for images
``id`` and a ``version`` that is unique in the series.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from puavo_repository.errors import PublishError
from puavo_repository.formats import cksums, metadata
from puavo_repository.formats.metadata import DescribedFile, Document
from puavo_repository.formats.names import ImageName, image_name, rdiff_name, source_image
from puavo_repository.mirror.mirror import Mirror

_DIGESTS = {"cksum": r"[0-9]{1,10}", "sha256": r"[0-9a-f]{64}", "sha512": r"[0-9a-f]{128}"}
_MOST = 20  # problems of one document that are told


@dataclass(frozen=True)
class Description:
    """What some metadata describes, local, on a remote or as it is served.

    Attributes:
        documents: Content of each metadata file by its path, such as ``meta/x.json``.
        parsed: The same, parsed; without those that cannot be.
        damaged: Why a document cannot be read, by path.
        files: Every file that is described, by path.
        cksums: Content of CKSUMS; None where there is none.
    """

    documents: Mapping[str, bytes]
    parsed: dict[str, Document] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    files: dict[str, DescribedFile] = field(default_factory=dict)
    cksums: bytes | None = None

    @classmethod
    def of(cls, documents: Mapping[str, bytes], content: bytes | None = None) -> Description:
        """Parse documents; ``content`` is that of CKSUMS."""
        found = cls(documents, cksums=content)
        for path, content in documents.items():
            try:
                found.parsed[path] = metadata.parse(content)
            except ValueError as error:
                found.damaged[path] = str(error)
                continue
            for file in metadata.described_files(found.parsed[path]):
                found.files.setdefault(file.path, file)
        return found

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (path of a document, what breaks the rules in it)."""
        for path, document in self.parsed.items():
            for problem in islice(_problems(document), _MOST):
                yield path, problem
            for file in metadata.described_files(document):
                if self.files[file.path] != file:
                    yield path, f"{file.path} is described in two ways"

    def cksums_agree(self) -> bool:
        """Say whether CKSUMS says exactly what the metadata says."""
        return self.cksums == cksums.render(self.parsed.values())

    def named_by(self, path: str) -> list[str]:
        """Return the documents that describe a file."""
        return [
            document
            for document, content in self.parsed.items()
            if any(file.path == path for file in metadata.described_files(content))
        ]


def take(mirror_dir: Path) -> Description:
    """Read the local mirror's description, in a moment in which nobody rewrites it.

    The lock is the one that is held while metadata is rewritten, not the one that a whole night
    holds: a description is true in the middle of a night as well, and a night that begins just
    now is not turned away.

    Raises:
        PublishError: There is no mirror.
        StorageError, StorageRefusedError: It cannot be read.
    """
    mirror = Mirror(mirror_dir)
    if not mirror.meta.is_dir():
        raise PublishError(mirror_dir, "there is no mirror", remedy="Prepare one first")
    with mirror.metadata_locked("auditing"):
        documents = mirror.contents()
    content = documents.pop(mirror.cksums.name, None)
    return Description.of(documents, content)


def _problems(document: Document) -> Iterator[str]:
    for series, content in document.items():
        if content.keys() != {"images"}:
            yield f"series {series} has keys beside images, which breaks every client"
        versions: set[str] = set()
        for image in content["images"]:
            yield from _image_problems(image)
            version = str(image.get("version"))
            if version in versions:
                yield f"{image['filename']}: its version is there twice in series {series}"
            versions.add(version)


def _image_problems(image: dict[str, Any]) -> Iterator[str]:
    name = image["filename"]
    parsed = ImageName.parse(name)
    if parsed is None:
        yield f"{name} is no image's name"
        return
    yield from _entry_problems(image, name, parsed.number)
    if image.get("id") != name.removesuffix(".img"):
        yield f"{name}: its id is not its name without .img"
    if not isinstance(image.get("puavo-conf"), dict):
        yield f"{name} has no puavo-conf"
    for diff in image.get("diffs", []):
        source = source_image(diff["filename"])
        if not source or rdiff_name(source, name) != diff["filename"]:
            yield f"{diff['filename']} is not how clients call an rdiff to {name}"
            continue
        yield from _entry_problems(diff, diff["filename"], image_name(source).number)


def _entry_problems(entry: dict[str, Any], name: str, version: str) -> Iterator[str]:
    if entry.get("version") != version:
        yield f"{name}: its version is not {version}"
    urls = entry.get("urls")
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
        yield f"{name} has no urls"
    for key, form in _DIGESTS.items():
        if not isinstance(entry.get(key), str) or not re.fullmatch(form, entry[key]):
            yield f"{name} has no usable {key}"
