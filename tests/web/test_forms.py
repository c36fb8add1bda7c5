"""Pages on which a run is set up: what is refused and how, and which folders are told of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puavo_repository import settings
from puavo_repository.errors import SettingsError
from puavo_repository.language import spoken
from puavo_repository.rollback.changes import Change
from puavo_repository.web import options, rolling
from puavo_repository.web.offered import Generation, Generations
from puavo_repository.web.options import Checked
from web.test_app import FORM

CHANGED = Change(
    series="one",
    now="20261122120000",
    then="20261101120000",
    images=1,
    rdiffs=3,
    images_again=0,
    rdiffs_again=0,
)
OTHER = replace(CHANGED, series="two", now="", images=0, rdiffs=0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an image directory that this installation is set up for."""
    images = tmp_path / "srv" / "images"
    images.mkdir(parents=True)
    monkeypatch.setenv("PUAVO_REPOSITORY_IMAGE_DIR", str(images))
    return images


def refused(**typed: Any) -> dict[str, str]:
    return options.check(FORM, typed, images=True).refused


def test_what_was_typed_becomes_params_of_the_types_that_the_dag_takes(here: Path) -> None:
    typed = {"dry_run": True, "targets": " 2", "max_share": "0.5", "no_config": "true"}
    more = {"mirrors": "www\nfile:///srv/mirror", "image_dir": "", "unknown": "x"}
    assert options.check(FORM, {**typed, **more}, images=True) == Checked(
        {
            "dry_run": True,
            "targets": 2,
            "max_share": 0.5,
            "no_config": True,
            "mirrors": ["www", "file:///srv/mirror"],
        },
        {},
    )
    assert options.check(FORM, {"dry_run": False}, images=True).conf == {}
    blank = dict.fromkeys(("image_dir", "targets", "mirrors"), " \n")
    assert options.check(FORM, blank, images=True) == Checked({}, {}), "as it is set up"


def test_a_value_is_refused_at_its_field_as_the_command_refuses_it(here: Path) -> None:
    found = refused(targets="many", max_share="11", mirrors="http://x")
    assert found.keys() == {"targets", "max_share", "mirrors"}
    with pytest.raises(SettingsError) as said:
        settings.read({"targets": "many"}, {}, command=True)
    assert str(said.value) == f"--targets: {found['targets']}"
    assert found["targets"] == "'many' cannot be used (expected a whole number, 0 or more)"
    with spoken("de"):
        assert "eine ganze Zahl, mindestens 0" in refused(targets="many")["targets"]


def test_a_folder_is_refused_at_its_field(here: Path) -> None:
    assert "no such folder" in refused(image_dir=f"{here}/none")["image_dir"]
    assert "cannot be" in refused(mirror_dir=str(here))["mirror_dir"]
    (here / "file").write_text("")
    assert "not a folder" in refused(mirror_dir=f"{here}/file")["mirror_dir"]


def test_fields_say_what_counts_where_they_stay_empty(here: Path) -> None:
    fields = {one.name: one for _, some in options.sections(FORM) for one in some}
    assert fields.keys() == FORM.keys()
    assert fields["image_dir"].default == str(here)
    assert fields["targets"].default == "3"
    assert (fields["dry_run"].kind, fields["no_config"].kind) == ("flag", "choice")
    assert (fields["mirrors"].kind, fields["image_dir"].kind) == ("lines", "folder")
    with spoken("fi"):
        (title, *_), *_ = [t for t, _ in options.sections(FORM) if t == "missä"], None
        assert title == "missä"


def test_only_folders_beside_those_that_are_set_up_are_told_of(here: Path) -> None:
    srv = here.parent
    (srv / "mirror").mkdir()
    (srv / ".hidden").mkdir()
    (srv / "file").write_text("")
    (srv / "link").symlink_to("/etc")
    told = [str(here), str(srv / "mirror")]
    assert options.folders(f"{srv}/", [here]) == told
    assert options.folders(f"{srv}/m", [here]) == told[1:]
    assert options.folders("/", [here]) == [str(srv)], "where to begin"
    for elsewhere in ("/etc/", f"{srv}/link/", f"{srv}/../../", f"{srv}/images/../../x", "\0"):
        assert options.folders(elsewhere, [here]) == [], elsewhere
    assert options.folders("/etc/", [Path("/images")]) == [], "the root is nobody's parent"
    for number in range(99):
        (here / f"{number:02}").mkdir()
    assert len(options.folders(f"{here}/", [here])) == 50


def test_what_a_rollback_means_is_said_in_words() -> None:
    assert rolling.difference(CHANGED) == (
        "newest goes from 2026-11-22 12:00 to 2026-11-01 12:00; "
        "not offered any more: 1 image, 3 rdiffs"
    )
    assert rolling.difference(OTHER) == "the series is offered again, newest 2026-11-01 12:00"
    with spoken("de"):
        assert "nicht mehr angeboten: 1 Image, 3 Rdiffs" in rolling.difference(CHANGED)


def test_nothing_is_rolled_back_that_was_not_chosen() -> None:
    def generation(number: int, **more: Any) -> Generation:
        there: dict[str, Any] = {
            "at": None,
            "current": False,
            "problem": "",
            "differences": [CHANGED, OTHER],
        }
        return Generation(number=number, **{**there, **more})

    kept = [generation(9, current=True), generation(8), generation(7, problem="lost")]
    there = Generations(mirror="www", generations=kept)

    def chosen(number: int | None, *series: str) -> list[str] | None:
        asked = rolling.Chosen("www", "run", number, series)
        found = rolling.chosen(there, asked)
        return [one.series for one in found.differences] if found else None

    assert chosen(8, "*") == ["one", "two"]
    assert chosen(8, "two") == ["two"]
    for asked in ((None, "*"), (8,), (9, "*"), (7, "*"), (6, "*"), (8, "three"), (8, "one", "x")):
        assert chosen(*asked) is None, asked
