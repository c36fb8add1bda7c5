from __future__ import annotations

import os
from pathlib import Path

import pytest

from puavo_repository.errors import ConfigError, SettingsError, storage_error
from puavo_repository.mirror import files
from puavo_repository.prepare.configure import Catalogue, configure
from puavo_repository.prepare.discover import discover
from support.repository import AMXA, FREE, V1, V2, V3, Repository, name, snapshot

SERIES = f"{AMXA}-amd64"


def run(repository: Repository, /, **options: object) -> Catalogue:
    settings = repository.settings(**options)
    return configure(settings, discover(settings))


def test_the_configuration_is_made_oldest_first(repository: Repository) -> None:
    for version in (V3, V1, V2):
        (repository.images / name(version)).touch()
    (repository.images / name(V1, FREE)).touch()
    (repository.images / name(V1, "puavo-os-amxa-bullseye")).touch()
    run(repository)
    assert repository.read_config("buster") == {
        SERIES: [name(V1), name(V2), name(V3)],
        f"{FREE}-amd64": [name(V1, FREE)],
    }
    assert list(repository.read_config("bullseye")) == ["puavo-os-amxa-bullseye-amd64"]


def test_defaults_mk_is_written_as_the_old_command_did(repository: Repository) -> None:
    repository.puavo_os.mkdir()
    defaults = repository.puavo_os / "defaults.mk"
    defaults.write_text("debootstrap_suite := buster\nimage_dir := /elsewhere\n")
    run(repository, repository="images.example")
    assert defaults.read_text().splitlines() == [
        "debootstrap_suite := buster",
        f"image_dir               := {repository.images}",
        "images_urlbase          := https://images.example",
        f"mirror_dir              := {repository.mirror}",
    ]


def test_defaults_mk_keeps_its_line_ends(repository: Repository) -> None:
    run(repository)
    defaults = repository.puavo_os / "defaults.mk"
    before = b"# ours\r\n" + defaults.read_bytes().replace(b"\n", b"\r\n")
    defaults.write_bytes(before)
    run(repository)
    assert defaults.read_bytes() == before
    run(repository, repository="other.example")
    after = before.replace(b"https://images.amxa.ch", b"https://other.example")
    assert defaults.read_bytes() == after != before


def test_extra_rdiffs_survive_generation_and_absence(repository: Repository) -> None:
    (repository.images / name(V1)).touch()
    repository.write_config(
        "buster", {SERIES: {"images": [], "extra_rdiffs": {name(V2): ["x-" + name(V1)]}}}
    )
    run(repository)
    kept = {name(V2): ["x-" + name(V1)]}
    assert repository.read_config("buster")[SERIES] == {"images": [name(V1)], "extra_rdiffs": kept}
    (repository.images / name(V1)).unlink()
    run(repository)
    assert os.listdir(repository.config) == ["buster.json.bak"]
    (repository.images / name(V1)).touch()
    run(repository)
    assert repository.read_config("buster")[SERIES] == {"images": [name(V1)], "extra_rdiffs": kept}


def test_setting_aside_overwrites_nothing(repository: Repository) -> None:
    repository.write_config("buster", {SERIES: [name(V1)]})
    (repository.config / "buster.json.bak").write_text("the operator's own")
    run(repository)
    assert snapshot(repository.config).keys() == {"buster.json.bak", "buster.json.bak2"}
    assert (repository.config / "buster.json.bak").read_text() == "the operator's own"


def test_no_config_leaves_every_file_as_it_is(repository: Repository) -> None:
    (repository.images / name(V1)).touch()
    (repository.images / name(V2)).touch()
    repository.write_config("buster", f'{{ "{SERIES}-devel": ["{name(V2)}"]}}')
    before = snapshot(repository.root)
    found = run(repository, no_config=True)
    assert [(one.name, one.images) for one in found.series] == [(f"{SERIES}-devel", (name(V2),))]
    assert snapshot(repository.root) == before


def test_no_config_without_any_configuration_offers_what_there_is(repository: Repository) -> None:
    (repository.images / name(V1)).touch()
    found = run(repository, no_config=True)
    assert [(one.name, one.images) for one in found.series] == [(SERIES, (name(V1),))]
    assert not repository.puavo_os.exists()
    assert "every image that was found is offered" in found.notes[0]


def test_one_unusable_file_stops_before_anything_is_written(repository: Repository) -> None:
    (repository.images / name(V1)).touch()
    repository.write_config("stretch", "{")
    before = snapshot(repository.root)
    with pytest.raises(ConfigError, match=r"stretch\.json: this is not a usable JSON file"):
        run(repository)
    assert snapshot(repository.root) == before


def test_a_series_belongs_into_one_file(repository: Repository) -> None:
    (repository.images / name(V1)).touch()
    repository.write_config("stretch", {SERIES: [name(V1)]})
    with pytest.raises(ConfigError, match=r"is also in buster\.json"):
        run(repository)


def test_a_folder_that_cannot_be_written_names_the_way_out(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository.images / name(V1)).touch()

    def refuse(path: Path, _: bytes) -> bool:
        raise storage_error(path, PermissionError(13, "Permission denied"))

    monkeypatch.setattr(files, "write", refuse)
    with pytest.raises(SettingsError, match="--no-config"):
        run(repository)


def test_unchanged_files_are_not_touched(repository: Repository) -> None:
    (repository.images / name(V1)).touch()
    repository.write_config("buster", f'{{"{SERIES}":   ["{name(V1)}"]}}')
    run(repository)
    times = {path: path.stat().st_mtime_ns for path in Path(repository.puavo_os).rglob("*")}
    run(repository)
    assert {path: path.stat().st_mtime_ns for path in Path(repository.puavo_os).rglob("*")} == times
    assert (repository.config / "buster.json").read_text().startswith(f'{{"{SERIES}":   [')


def test_a_link_stays_one_and_what_it_leads_to_is_written(repository: Repository) -> None:
    """The operator may keep the files elsewhere, as in a checkout."""
    (repository.images / name(V1)).touch()
    run(repository)
    checkout = repository.root / "checkout"
    checkout.mkdir()
    links = [repository.config / "buster.json", repository.puavo_os / "defaults.mk"]
    for link in links:
        link.rename(checkout / link.name)
        link.symlink_to(checkout / link.name)
    times = {path: path.stat().st_mtime_ns for path in checkout.iterdir()}
    run(repository)
    assert {path: path.stat().st_mtime_ns for path in checkout.iterdir()} == times
    (repository.images / name(V2)).touch()
    run(repository, repository="other.example")
    assert all(link.is_symlink() for link in links)
    assert name(V2) in (checkout / "buster.json").read_text()
    assert "other.example" in (checkout / "defaults.mk").read_text()
    assert sorted(os.listdir(checkout)) == ["buster.json", "defaults.mk"]


def test_what_was_set_aside_last_is_what_comes_back(repository: Repository) -> None:
    image = repository.images / name(V3)
    for extra in (V1, V2):
        wanted = {"images": [image.name], "extra_rdiffs": {image.name: [name(extra)]}}
        path = repository.write_config("buster", {SERIES: wanted})
        os.utime(path, (1, 1))  # as copied from elsewhere, with its time
        run(repository)
    image.touch()
    run(repository)
    assert repository.read_config("buster")[SERIES]["extra_rdiffs"] == {image.name: [name(V2)]}
