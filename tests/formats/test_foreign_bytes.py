"""Whatever bytes come: a right result or the error that is documented, nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from delta.fuzz import applied
from puavo_repository.delta.librsync import patch
from puavo_repository.delta.work import prove
from puavo_repository.errors import ConfigError, DeltaError, StorageError
from puavo_repository.formats import defaults_mk, image_config, jsonfile, metadata
from puavo_repository.formats.names import ImageName, is_plain_name, is_rdiff_name
from puavo_repository.formats.rdiff import MAGIC, command_blocks
from support.foreign import changed_bytes, changed_json, examples

V1, V2 = (f"puavo-os-test-bookworm-2026-01-0{day}-120000-amd64.img" for day in (1, 2))
RDIFF = "puavo-os-test-bookworm-2026-01-01-120000--2026-01-02-120000-amd64.rdiff"
CONFIG = {
    "puavo-os-test-bookworm-amd64": [V1, V2],
    "series": {"images": [V1], "extra_rdiffs": {V1: [V2]}, "note": 1.5},
}
DIGESTS = {"cksum": "1", "sha256": "a" * 64, "sha512": "b" * 128}
DIFF = {"filename": RDIFF, "urls": ["u"], "version": "20260101120000", "size": 3, **DIGESTS}
METADATA = {
    "series": {
        "images": [
            {"filename": V1, "id": "x", "puavo-conf": {}, "size": 4, "diffs": [], **DIGESTS},
            {"filename": V2, "version": "2", "size": 5, "urls": [], "diffs": [DIFF], **DIGESTS},
        ]
    }
}
DEFAULTS = "# ours\nimage_dir := /srv\nmirror_dir = $(image_dir)/mirror\nother ?= $$x \\# y\n"
OLD = bytes(range(256)) * 40
NEW_RDIFF = MAGIC + bytes([3]) + b"new" + bytes([0x46, 0, 0x10, 0x20, 0x45, 9, 0x80, 2]) + b"xy\0"


@given(changed_json(CONFIG))
def test_a_configuration_is_understood_or_refused_by_name(content: bytes) -> None:
    try:
        series = image_config.parse(content, Path("buster.json"))
    except ConfigError as error:
        if error.subject != "buster.json":
            raise
        return
    for one in series:
        names = [*one.images, *one.extra_rdiffs, *(n for s in one.extra_rdiffs.values() for n in s)]
        assert is_plain_name(one.name)
        assert all(is_plain_name(name) and ImageName.parse(name) for name in names)
    assert image_config.parse(image_config.render(series), Path()) == series


@given(changed_json(METADATA))
@example(b'{"s": {"images": [{"filename": "a", "size": 1, "diffs": 5}]}}')
@example(b'{"s": {"images": [{"filename": "a", "size": 1, "puavo-conf": 1e999}]}}')
def test_metadata_is_understood_or_refused(content: bytes) -> None:
    try:
        document = metadata.parse(content)
    except ValueError:
        return
    for file in metadata.described_files(document):
        assert is_plain_name(file.path.removeprefix("rdiffs/"))
        assert file.size >= 0
    assert metadata.parse(metadata.render(document)) == document
    without = metadata.without(document, {V1, f"rdiffs/{RDIFF}"})
    assert V1 not in {file.path for file in metadata.described_files(without)}


@given(changed_json(METADATA))
@example(b"1e999")
@example(b"[" * 49 + b"]" * 49)
@example(b"[" * 800 + b"]" * 800)
def test_json_that_is_read_can_be_written(content: bytes) -> None:
    try:
        value = jsonfile.loads(content, jsonfile.DEEPEST // 2)
    except ValueError:
        return
    around = {"inside": {"another": value}}
    assert jsonfile.loads(jsonfile.dumps(around)) == around


@given(changed_json(METADATA) | changed_bytes(jsonfile.dumps_sealed(METADATA)))
def test_what_is_not_sealed_is_refused(content: bytes) -> None:
    try:
        values: Any = jsonfile.loads_sealed(content)
    except ValueError:
        return
    assert content == jsonfile.dumps_sealed(values)


LINES = st.text(st.characters(codec="utf-8"), max_size=30)


@given(changed_bytes(DEFAULTS.encode()).map(lambda data: data.decode("utf-8", "replace")) | LINES)
@example("image_dir := a\x1cmirror_dir := b\n")
@example("image_dir :=\nmirror_dir = $(image_dir)/mirror\n")
def test_any_defaults_can_be_read_and_set(text: str) -> None:
    values = {"image_dir": "/a $b #c", "mirror_dir": "/mirror"}
    set_so = defaults_mk.update(text, values)
    assert values.items() <= defaults_mk.parse(set_so).items()
    assert defaults_mk.update(set_so, values) == set_so


@given(st.binary(max_size=300))
def test_a_name_is_one_of_ours_or_not(raw: bytes) -> None:
    name = raw.decode("utf-8", "surrogateescape")
    assert "/" not in name or not (is_plain_name(name) or ImageName.parse(name))
    assert not is_rdiff_name(name) or is_plain_name(name) or len(name) > 200


@examples(0.7)
@given(changed_bytes(NEW_RDIFF) | st.binary(max_size=60).map(lambda data: MAGIC + data))
@example(
    MAGIC + b"\x44" + (2**62 - 1).to_bytes(8, "big") + b"\x44" + (2**62 - 1).to_bytes(8, "big")
)
@example(MAGIC + b"\x54" + bytes([127] * 8) + bytes([0] * 7) + b"\x05\0")
@example(MAGIC + b"\x48" + b"\x00" + bytes([63] + [255] * 7) + b"\0")
def test_an_rdiff_gives_what_it_says_or_is_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        source, target, rdiff = (Path(folder, name) for name in ("old", "new", "rdiff"))
        source.write_bytes(OLD)
        rdiff.write_bytes(data)
        try:
            pieces = list(command_blocks(rdiff))
            given_back = bytearray()
            patch(source, rdiff, given_back.extend)
        except (DeltaError, StorageError):
            return
        assert pieces
        assert given_back == applied(rdiff, OLD)
        target.write_bytes(given_back)
        prove(source, target, rdiff)


@examples(0.3)
@given(changed_bytes(NEW_RDIFF))
def test_librsync_bears_what_our_reader_would_refuse(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        source, rdiff = Path(folder, "old"), Path(folder, "rdiff")
        source.write_bytes(OLD)
        rdiff.write_bytes(data)
        try:
            patch(source, rdiff, lambda _block: None)
        except (DeltaError, StorageError):
            return
