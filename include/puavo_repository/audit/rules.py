"""What clients rely on in metadata, beyond what it takes to read it.

The laptop client reads ``filename``, ``size`` and ``sha512`` and computes the names of rdiffs by
itself; the bootserver client needs ``sha256``, ``size`` and ``urls`` everywhere, and for images
``id`` and a ``version`` that is unique in the series.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from puavo_repository.formats.metadata import Document, described_files
from puavo_repository.formats.names import ImageName, image_name, rdiff_name, source_image
from puavo_repository.mirror.description import Description

_DIGESTS = {"cksum": r"[0-9]{1,10}", "sha256": r"[0-9a-f]{64}", "sha512": r"[0-9a-f]{128}"}
_MOST = 20  # problems of one document that are told


def broken_rules(described: Description) -> Iterator[tuple[str, str]]:
    """Yield (path of a document, what breaks the rules in it)."""
    for path, document in described.parsed.items():
        for problem in islice(_problems(document), _MOST):
            yield path, problem
        for file in described_files(document):
            if described.files[file.path] != file:
                yield path, f"{file.path} is described in two ways"


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
