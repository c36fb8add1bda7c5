from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from puavo_repository import settings
from puavo_repository.delta.anchor_engine import AnchorEngine
from puavo_repository.errors import SettingsError
from puavo_repository.settings import Policy


def load(images: Path, environment: dict[str, str] | None = None, **options: Any) -> Any:
    return settings.load({"image_dir": images, **options}, environment or {})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_the_defaults_are_those_of_the_old_command(images: Path) -> None:
    found = load(images)
    assert found.mirror_dir == images / "mirror"
    assert found.urlbase == "https://images.amxa.ch"
    assert found.puavo_os == images / "puavo-os"
    assert found.write_config
    assert found.policy == Policy(targets=3, sources="all", max_share=0.9)


def test_later_sources_win(images: Path, tmp_path: Path) -> None:
    (images / "puavo-os").mkdir()
    (images / "puavo-os" / "defaults.mk").write_text(
        f"image_dir := {images}\nimages_urlbase := https://file\nmirror_dir := {tmp_path}/file\n"
    )
    assert load(images).urlbase == "https://file"
    assert load(images).mirror_dir == tmp_path / "file"
    environment = {"PUAVO_REPOSITORY_REPOSITORY": "environment"}
    assert load(images, environment).urlbase == "https://environment"
    assert load(images, environment, repository="option").urlbase == "https://option"


def test_the_mirror_of_other_images_is_not_taken_from_defaults_mk(
    images: Path, tmp_path: Path
) -> None:
    (images / "puavo-os").mkdir()
    (images / "puavo-os" / "defaults.mk").write_text(
        f"image_dir := {tmp_path}/others\nmirror_dir := {tmp_path}/theirs\n"
    )
    assert load(images).mirror_dir == images / "mirror"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("host.example", "https://host.example"),
        ("https://host.example/pool/", "https://host.example/pool"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    ],
)
def test_a_host_or_a_url_names_the_repository(images: Path, given: str, url: str) -> None:
    assert load(images, repository=given).urlbase == url


@pytest.mark.parametrize(
    "options",
    [
        {"repository": "ftp://x"},
        {"repository": "https://"},
        {"repository": "a b"},
        {"repository": "host:99999"},
        {"repository": "https://[::1"},
        {"repository": "https://u:secret@host/"},
        {"sources": "newest"},
        {"targets": "-1"},
        {"jobs": "-1"},
        {"memory": "0"},
        {"targets": "x"},
        {"max_share": "-0.5"},
        {"no_config": "perhaps"},
        {"audit_share": "1.1"},
        {"audit_share": "-0.1"},
        {"audit_share": "nan"},
        {"audit_https": "perhaps"},
    ],
)
def test_a_value_that_cannot_be_used_is_refused(images: Path, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(images, **options)
    assert caught.value.exit_status == 2
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mirror", [".", "..", "link", "../.."])
def test_a_mirror_that_would_feed_on_its_images_is_refused(images: Path, mirror: str) -> None:
    (images / "link").symlink_to(images)
    with pytest.raises(SettingsError, match="cannot be, or lie around"):
        load(images, mirror_dir=images / mirror)


def test_a_missing_image_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere: there is no such folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("sources", "target", "count", "indexes"),
    [
        ("all", 1, 4, [0, 2, 3]),
        ("older", 2, 4, [0, 1]),
        ("older", 0, 4, []),
        ("nearest:2", 3, 5, [2, 4]),
        ("nearest:3", 4, 5, [1, 2, 3]),
        ("nearest:9", 0, 3, [1, 2]),
        ("nearest:0", 0, 3, []),
    ],
)
def test_a_policy_chooses_sources(
    sources: str, target: int, count: int, indexes: list[int]
) -> None:
    assert Policy(sources=sources).sources_of(target, count) == indexes


def test_the_engine_keeps_to_the_cores_and_the_memory_that_are_set(images: Path) -> None:
    environment = {"PUAVO_REPOSITORY_JOBS": "1", "PUAVO_REPOSITORY_MEMORY": "64"}
    engine = load(images, environment, engine="anchors:fast").delta_engine()
    assert engine == AnchorEngine("fast", threads=1, memory=64 << 20)


def test_what_an_audit_looks_at_is_set_by_the_environment_too(images: Path) -> None:
    found = load(images)
    assert (found.audit_share, found.audit_https, found.ca_file) == (0.1, True, "")
    environment = {
        "PUAVO_REPOSITORY_AUDIT_SHARE": "0.5",
        "PUAVO_REPOSITORY_AUDIT_HTTPS": "false",
        "PUAVO_REPOSITORY_CA_FILE": "/etc/ca.pem",
    }
    found = load(images, environment)
    assert (found.audit_share, found.audit_https, found.ca_file) == (0.5, False, "/etc/ca.pem")
    assert load(images, environment, audit_share="0").audit_share == 0


def test_how_much_may_be_removed_at_once_is_a_setting_of_every_run(images: Path) -> None:
    found = load(images)
    assert (found.max_delete, found.allow_mass_delete) == (0.3, False)
    environment = {
        "PUAVO_REPOSITORY_MAX_DELETE": "0.5",
        "PUAVO_REPOSITORY_ALLOW_MASS_DELETE": "true",
    }
    found = load(images, environment)
    assert (found.max_delete, found.allow_mass_delete) == (0.5, True)
    with pytest.raises(SettingsError, match="allow_mass_delete"):
        load(images, allow_mass_delete="ture")
