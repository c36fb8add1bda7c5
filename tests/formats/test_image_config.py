from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.errors import ConfigError
from puavo_repository.formats import image_config, names
from puavo_repository.formats.image_config import SeriesConfig

PATH = Path("/puavo-os/config/images/buster.json")
A, B, C = (f"puavo-os-amxa-buster-2022-01-0{day}-120000-amd64.img" for day in (1, 2, 3))
SERIES = "puavo-os-amxa-buster-amd64"


def parse(value: object) -> tuple[SeriesConfig, ...]:
    text = value if isinstance(value, str) else json.dumps(value)
    return image_config.parse(text.encode(), PATH)


def test_both_shapes_stand_in_one_file() -> None:
    value = {
        SERIES: [A, B],
        f"{SERIES}-devel": {"images": [A, C], "extra_rdiffs": {C: [B]}},
    }
    first, second = parse(value)
    assert (first.images, first.as_object) == ((A, B), False)
    assert (second.images, second.extra_rdiffs, second.as_object) == ((A, C), {C: (B,)}, True)
    assert json.loads(image_config.render((first, second))) == value


def test_foreign_keys_of_a_series_survive() -> None:
    value = {SERIES: {"images": [A], "comment": "ours"}}
    assert json.loads(image_config.render(parse(value))) == value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("{", "not a usable JSON file"),
        ("[]", "wrong type"),
        ('{"a": null}', "wrong type"),
        ('{"a": {"images": "x"}}', "wrong type"),
        ('{"a": {}}', "no 'images'"),
        ('{"a": [1]}', "wrong type"),
        ('{"a": ["../x"]}', "'../x'"),
        ('{"a": ["/etc/x-2022-01-01-120000-amd64.img"]}', "not the file name of an image"),
        ('{"a": ["d/x-2022-01-01-120000-amd64.img"]}', "without any folder"),
        ('{"../a": []}', "series name"),
        ('{"a/b": []}', "series name"),
        ('{"a": [], "a": []}', "defined twice"),
        ('{"a": {"images": [], "extra_rdiffs": []}}', "wrong type"),
        ('{"a": {"images": [], "extra_rdiffs": {"../x": []}}}', "'../x'"),
        ("[" * 100_000, "not a usable JSON file"),
    ],
)
def test_bad_input_names_the_file_and_what_was_expected(value: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(value)
    assert str(PATH) in str(caught.value)
    assert says in str(caught.value)


def test_no_name_is_longer_than_what_is_made_of_it_can_be() -> None:
    def image(length: int) -> str:
        return "x" * (length - len(A)) + A

    longest_series, longest_image = "s" * names.LONGEST_SERIES, image(names.LONGEST_IMAGE)
    assert parse({longest_series: [longest_image]})[0].images == (longest_image,)
    with pytest.raises(ConfigError, match="cannot be a file name"):
        parse({f"{longest_series}s": []})
    for length in (names.LONGEST_IMAGE + 1, names.LONGEST + 1):
        with pytest.raises(ConfigError, match="that is too long"):
            parse({SERIES: [image(length)]})


def test_a_series_without_images_stays_for_what_an_operator_wrote_there() -> None:
    present = parse({SERIES: {"images": [A], "comment": "ours"}})
    kept = image_config.generate(present, "buster", {})
    assert [(one.images, one.others) for one in kept] == [((), {"comment": "ours"})]


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a usable JSON file"):
        image_config.parse(b'{"\xff": []}', PATH)


def test_generation_writes_lists_and_keeps_what_an_operator_made() -> None:
    present = parse(
        {
            SERIES: {"images": [A], "extra_rdiffs": {B: [A]}},
            f"{SERIES}-devel": [A],
            "puavo-os-free-buster-amd64": [],
        }
    )
    wanted = image_config.generate(present, "buster", {SERIES: (A, B), "x-os-y-buster-i386": (C,)})
    assert json.loads(image_config.render(wanted)) == {
        SERIES: {"images": [A, B], "extra_rdiffs": {B: [A]}},
        f"{SERIES}-devel": [A],
        "x-os-y-buster-i386": [C],
    }


def test_a_series_without_images_goes_unless_it_holds_extra_rdiffs() -> None:
    present = parse({SERIES: [A], "a-os-b-buster-amd64": {"images": [], "extra_rdiffs": {B: [A]}}})
    assert [one.name for one in image_config.generate(present, "buster", {})] == [
        "a-os-b-buster-amd64"
    ]
