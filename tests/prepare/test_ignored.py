"""What looks like an image and is none is named with the reason; nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from puavo_repository.prepare.ignored import MOST, ignored, reason

PREFIX, DATE = "puavo-os-amxa-bookworm", "2026-11-22-120000"
GOOD = f"{PREFIX}-{DATE}-amd64.img"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{PREFIX}-2026-11-22-amd64.img", "not of the form"),
        (f"{PREFIX}-20261122120000-amd64.img", "not of the form"),
        (f"{PREFIX}-{DATE}.img", "not of the form"),
        (f"{GOOD}.part", "not whole yet"),
        (f"{GOOD}~", "not whole yet"),
        (f".{GOOD}.aB12Cd", "not whole yet"),
        (f"{GOOD}.xz", "packed"),
        (f"{PREFIX}-{DATE}-amd64.IMG", "not of the form"),
        (f"{PREFIX}-{DATE}-amd64 (1).img", "not of the form"),
        ("floppy.img", "not of the form"),
        (f"mine-{DATE}-amd64.img", "not of the form"),
    ],
)
def test_a_near_miss_says_what_is_wrong_with_its_name(name: str, said: str) -> None:
    assert said in reason(name)


@pytest.mark.parametrize(
    "name",
    [GOOD, "notes.txt", f"{GOOD}.sha256", f"{GOOD}.backup", ".hidden.img", "mirror", "x.iso"],
)
def test_an_image_and_what_is_far_from_one_are_not_named(name: str) -> None:
    assert reason(name) == ""


def test_what_a_configuration_names_is_no_near_miss() -> None:
    assert reason(f"mine-{DATE}-amd64.img", listed=True) == ""


def test_a_folder_is_looked_through_within_bounds_and_no_file_is_opened(tmp_path: Path) -> None:
    for number in range(MOST + 5):
        (tmp_path / f"{number:02}.img").touch(mode=0)
    assert [name for name, _ in ignored(tmp_path, ())] == [f"{n:02}.img" for n in range(MOST)]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / GOOD).mkdir()
    (tmp_path / "images" / "other").mkdir()
    assert ignored(tmp_path / "images", ()) == [(GOOD, "it is a folder")]
    assert ignored(tmp_path / "none", ()) == []
