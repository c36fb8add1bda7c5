"""``meta/<series>.json`` and ``CKSUMS``: what the clients read to find images and rdiffs.

The top level holds only the series and the series only ``images``: the laptop client walks it
with jq as ``.[][][]``. Documents stay plain JSON values, so that what an older system wrote
beside our keys survives a partial rewrite.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from puavo_repository.formats import jsonfile
from puavo_repository.formats.names import ImageName, image_name, is_plain_name, source_image

Document = dict[str, dict[str, list[dict[str, Any]]]]
"""Series name to ``{"images": [image, …]}``."""

DIGESTS = ("cksum", "sha256", "sha512")
_CKSUMS_LINE = re.compile(rb"[0-9]* [0-9]+ [^ /]+")


@dataclass(frozen=True, slots=True)
class Digests:
    """Size and checksums of a file, in the order in which metadata writes them.

    One that metadata does not give is empty.
    """

    size: int  # bytes
    cksum: str  # decimal
    sha256: str  # lower-case hex
    sha512: str

    def to_dict(self) -> dict[str, Any]:
        """Return what metadata writes; the general ``asdict`` takes twenty times as long."""
        return {
            "size": self.size,
            "cksum": self.cksum,
            "sha256": self.sha256,
            "sha512": self.sha512,
        }


@dataclass(frozen=True, slots=True)
class DescribedFile(Digests):
    """A file that metadata names."""

    path: str  # in the mirror, such as rdiffs/x.rdiff

    @property
    def name(self) -> str:
        """The file name without folder."""
        return self.path.rpartition("/")[2]


def diff_entry(source: str, rdiff: str, digests: Digests, urlbase: str) -> dict[str, Any]:
    """Describe one rdiff of an image; its version is that of its *source*."""
    return {
        "filename": rdiff,
        "urls": [f"{urlbase}/rdiffs/{rdiff}"],
        "version": image_name(source).number,
        **digests.to_dict(),
    }


def image_entry(
    name: str,
    digests: Digests,
    puavo_conf: dict[str, Any],
    diffs: list[dict[str, Any]],
    urlbase: str,
) -> dict[str, Any]:
    """Describe one image with its rdiffs, in the order of the old system's keys."""
    described = digests.to_dict()
    return {
        "diffs": diffs,
        "filename": name,
        "id": name.removesuffix(".img"),
        "puavo-conf": puavo_conf,
        "size": described.pop("size"),
        "urls": [f"{urlbase}/{name}"],
        "version": image_name(name).number,
        **described,
    }


def render(document: Document) -> bytes:
    """Render a metadata file."""
    return jsonfile.dumps(document)


def parse(data: bytes) -> Document:
    """Read a metadata file, ours or the old system's.

    Raises:
        ValueError: It does not have the shape that clients rely on, or names a file that
            is not one plain file name.
    """
    document = jsonfile.loads(data)
    if not isinstance(document, dict):
        raise ValueError("the top level is not an object")
    for series, content in document.items():
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, list):
            raise ValueError(f"series {series!r} has no list of images")
        for image in images:
            _check_entry(image)
            diffs = image.get("diffs", [])
            if not isinstance(diffs, list):
                raise ValueError(f"the diffs of {image['filename']} are not a list")
            for diff in diffs:
                _check_entry(diff)
    return document


def _check_entry(entry: Any) -> None:
    if not isinstance(entry, dict):
        raise ValueError("an image or diff is not an object")
    name, size = entry.get("filename"), entry.get("size")
    if not isinstance(name, str) or not is_plain_name(name):
        raise ValueError(f"{name!r} is not a plain file name")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"{name} has no size")


def entries(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over every image and rdiff that a document names: its path, and its entry."""
    for content in document.values():
        for image in content["images"]:
            yield image["filename"], image
            for diff in image.get("diffs", []):
                yield f"rdiffs/{diff['filename']}", diff


def described_files(document: Document) -> Iterator[DescribedFile]:
    """Iterate over the same as files."""
    for path, entry in entries(document):
        values = map(entry.get, DIGESTS)  # a line break would forge CKSUMS
        cksum, sha256, sha512 = (
            v if isinstance(v, str) and is_plain_name(v) else "" for v in values
        )
        yield DescribedFile(entry["size"], cksum, sha256, sha512, path)


def without(document: Document, paths: Collection[str]) -> Document:
    """Return a document without the files of these paths.

    An image takes with it the rdiffs to it and those from it: they are of no use without it,
    and wrong when another image comes under its name.
    """
    gone = set(paths)
    images = {path for path in gone if ImageName.parse(path)}
    rdiffs = {path.removeprefix("rdiffs/") for path in gone}

    def stays(diff: dict[str, Any]) -> bool:
        return diff["filename"] not in rdiffs and source_image(diff["filename"]) not in images

    kept: Document = {}
    for series, content in document.items():
        stay = [image for image in content["images"] if image["filename"] not in gone]
        stay = [{**image, "diffs": [*filter(stays, image.get("diffs", []))]} for image in stay]
        kept[series] = {**content, "images": stay}
    return kept


def render_cksums(documents: Iterable[Document]) -> bytes:
    """Render ``CKSUMS``: a line for each file of all series, as ``cksum`` prints it, by name."""
    lines = {
        file.name: f"{file.cksum} {file.size} {file.name}\n"
        for document in documents
        for file in described_files(document)
    }
    return "".join(line for _, line in sorted(lines.items())).encode()


def is_cksums(content: bytes) -> bool:
    """Tell whether this reads like ``CKSUMS``, ours or the old system's."""
    return all(_CKSUMS_LINE.fullmatch(line) for line in content.splitlines())
