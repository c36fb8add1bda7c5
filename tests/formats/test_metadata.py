from __future__ import annotations

import json
from typing import Any

import pytest

from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Digests

A = "puavo-os-amxa-buster-2022-01-17-120001-amd64.img"
B = "puavo-os-amxa-buster-2022-01-20-173248-amd64.img"
RDIFF = "puavo-os-amxa-buster-2022-01-17-120001--2022-01-20-173248-amd64.rdiff"
DIGESTS = Digests(7, "123", "ab", "cd")


def document() -> metadata.Document:
    diff = metadata.diff_entry(A, RDIFF, DIGESTS, "https://h")
    images = [
        metadata.image_entry(A, DIGESTS, {}, [], "https://h"),
        metadata.image_entry(B, DIGESTS, {"k": {"default": "v"}}, [diff], "https://h"),
    ]
    return {"puavo-os-amxa-buster-amd64": {"images": images}}


def test_an_image_is_described_as_the_old_system_did() -> None:
    assert json.loads(metadata.render(document()))["puavo-os-amxa-buster-amd64"]["images"][1] == {
        "diffs": [
            {
                "filename": RDIFF,
                "urls": [f"https://h/rdiffs/{RDIFF}"],
                "version": "20220117120001",
                "size": 7,
                "cksum": "123",
                "sha256": "ab",
                "sha512": "cd",
            }
        ],
        "filename": B,
        "id": B.removesuffix(".img"),
        "puavo-conf": {"k": {"default": "v"}},
        "size": 7,
        "urls": [f"https://h/{B}"],
        "version": "20220120173248",
        "cksum": "123",
        "sha256": "ab",
        "sha512": "cd",
    }


def test_described_files_are_named_by_their_place() -> None:
    paths = [entry.path for entry in metadata.described_files(document())]
    assert paths == [A, B, f"rdiffs/{RDIFF}"]


def test_an_image_that_is_taken_out_takes_the_rdiffs_to_and_from_it() -> None:
    without = metadata.without(document(), {A})
    assert [entry.path for entry in metadata.described_files(without)] == [B]
    without = metadata.without(document(), {B})
    assert [entry.path for entry in metadata.described_files(without)] == [A]
    without = metadata.without(document(), {f"rdiffs/{RDIFF}"})
    assert [entry.path for entry in metadata.described_files(without)] == [A, B]


def test_many_files_are_taken_out_in_one_pass() -> None:
    class Searched(tuple[str, ...]):
        def __contains__(self, _path: object) -> bool:
            raise AssertionError("each of these would be compared with each of those")

    without = metadata.without(document(), Searched([A]))
    assert [entry.path for entry in metadata.described_files(without)] == [B]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"s": []}',
        '{"s": {"images": [1]}}',
        '{"s": {"images": [{"filename": "../x", "size": 1}]}}',
        '{"s": {"images": [{"filename": "x", "size": "1"}]}}',
        '{"s": {"images": [{"filename": "x", "size": true}]}}',
        '{"s": {"images": [{"filename": "x", "size": 1, "diffs": [{"filename": "a/b"}]}]}}',
        '{"s": {"images": [{"filename": "x", "size": 1, "diffs": null}]}}',
        '{"s": {"images": [{"filename": "x", "size": 1, "diffs": 5}]}}',
    ],
)
def test_metadata_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        metadata.parse(text.encode())


def test_cksums_lists_each_file_once_sorted_by_name() -> None:
    def entry(name: str, cksum: str, size: int, **more: Any) -> dict[str, Any]:
        return {"filename": name, "cksum": cksum, "size": size, **more}

    shared = entry("b", "2", 20)
    found = metadata.render_cksums(
        [
            {"one": {"images": [shared, entry("a", "1", 10, diffs=[entry("a-c", "3", 30)])]}},
            {"two": {"images": [shared]}},
        ]
    )
    assert found == b"1 10 a\n3 30 a-c\n2 20 b\n"
    assert metadata.render_cksums([]) == b""


@pytest.mark.parametrize("cksum", ["\\ud800", "1\\n2 3 other", "1 2"])
def test_a_checksum_that_is_no_word_is_as_good_as_none(cksum: str) -> None:
    text = f'{{"s": {{"images": [{{"filename": "a", "size": 1, "cksum": "{cksum}"}}]}}}}'
    assert metadata.render_cksums([metadata.parse(text.encode())]) == b" 1 a\n"
