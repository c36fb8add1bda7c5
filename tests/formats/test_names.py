from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puavo_repository.formats.names import (
    ImageName,
    distribution_of,
    image_name,
    is_plain_name,
    is_rdiff_name,
    rdiff_name,
    source_image,
)


def test_an_image_name_has_its_parts() -> None:
    found = image_name("puavo-os-amxa-buster-2022-01-17-120001-amd64.img")
    assert found == ImageName("puavo-os-amxa-buster", "2022-01-17-120001", "amd64")
    assert found.series == "puavo-os-amxa-buster-amd64"
    assert distribution_of(found.series) == "buster"
    assert found.number == "20220117120001"
    assert str(found) == "puavo-os-amxa-buster-2022-01-17-120001-amd64.img"


@pytest.mark.parametrize("arch", ["amd64", "i386", "arm64"])
def test_every_architecture_has_series_of_its_own(arch: str) -> None:
    assert image_name(f"a-os-b-c-2022-01-17-120001-{arch}.img").series == f"a-os-b-c-{arch}"


def test_a_manual_name_is_an_image_without_distribution() -> None:
    found = image_name("ltsp-x-trusty-2016-01-21-120716-i386.img")
    assert found.series == "ltsp-x-trusty-i386"
    assert distribution_of(found.series) is None


@pytest.mark.parametrize(
    "name",
    [
        "ltsp.img",
        "puavo-os-amxa-buster-2022-01-17-120001-amd64.img.tmp",
        "puavo-os-amxa-buster-2022-01-17-120001-amd64.img\n",
        "puavo-os-amxa-buster-2022-01-17-12001-amd64.img",
        "puavo-os-amxa-buster-amd64.img",
        "../puavo-os-amxa-buster-2022-01-17-120001-amd64.img",
        "x/puavo-os-amxa-buster-2022-01-17-120001-amd64.img",
        ".puavo-os-amxa-buster-2022-01-17-120001-amd64.img",
        "puavo-os-amxa-buster-2022-01-17-120001-.img",
        "puavo os-amxa-buster-2022-01-17-120001-amd64.img",
        "puavo-os-amxa-buster-٢٠٢٢-01-17-120001-amd64.img",
    ],
)
def test_anything_else_is_no_image(name: str) -> None:
    assert ImageName.parse(name) is None


def test_an_rdiff_is_named_as_the_laptop_client_computes_it() -> None:
    assert (
        rdiff_name(
            "puavo-os-amxa-buster-2021-04-13-192449-amd64.img",
            "puavo-os-amxa-buster-2021-04-13-193910-amd64.img",
        )
        == "puavo-os-amxa-buster-2021-04-13-192449--2021-04-13-193910-amd64.rdiff"
    )


def test_rdiff_names_are_told_from_others() -> None:
    assert is_rdiff_name("a-b-2021-04-13-192449--2021-04-13-193910-amd64.rdiff")
    assert not is_rdiff_name("a-b-2021-04-13-192449-amd64.rdiff")
    assert not is_rdiff_name("../a-2021-04-13-192449--2021-04-13-193910-amd64.rdiff")


def test_only_discoverable_series_have_a_distribution() -> None:
    assert distribution_of("puavo-os-amxa-buster-amd64") == "buster"
    assert distribution_of("puavo-os-amxa-buster-amd64-devel") is None
    assert distribution_of("ltsp-x-trusty-i386") is None


@given(st.text())
def test_no_plain_name_leaves_its_folder(text: str) -> None:
    if is_plain_name(text):
        assert "/" not in text
        assert "\0" not in text
        assert not text.startswith(".")
        assert text.isascii()
        assert text.isprintable()
        assert not any(c.isspace() for c in text)


@pytest.mark.parametrize("prefix", ["puavo-os-amxa-buster", "a--b", "a-2022-01-17-120001--b"])
def test_the_name_of_an_rdiff_tells_its_source(prefix: str) -> None:
    source, target = (f"{prefix}-2022-01-1{day}-120001-amd64.img" for day in (7, 8))
    assert source_image(rdiff_name(source, target)) == source
    assert source_image(f"rdiffs/{rdiff_name(source, target)}") == source
    assert source_image("nonsense") == ""
