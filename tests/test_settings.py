from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from puavo_repository import settings
from puavo_repository.delta import ENGINES, AnchorEngine
from puavo_repository.errors import SettingsError
from puavo_repository.settings import Model, table
from puavo_repository.settings.model import about
from support.repository import ROOT


def load(images: Path, environment: dict[str, str] | None = None, **options: Any) -> Any:
    return settings.load({"image_dir": images, **options}, environment or {})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_the_defaults_are_those_of_the_old_command(images: Path) -> None:
    found = load(images)
    assert found.mirror_dir == images / "mirror"
    assert found.repository == "https://images.amxa.ch"
    assert found.puavo_os == images / "puavo-os"
    assert not found.no_config
    assert (found.targets, found.sources, found.max_share) == (3, "all", 0.9)


def test_later_sources_win(images: Path, tmp_path: Path) -> None:
    (images / "puavo-os").mkdir()
    (images / "puavo-os" / "defaults.mk").write_text(
        f"image_dir := {images}\nimages_urlbase := https://file\nmirror_dir := {tmp_path}/file\n"
    )
    assert load(images).repository == "https://file"
    assert load(images).mirror_dir == tmp_path / "file"
    environment = {"PUAVO_REPOSITORY_REPOSITORY": "environment"}
    assert load(images, environment).repository == "https://environment"
    assert load(images, environment, repository="option").repository == "https://option"


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
    assert load(images, repository=given).repository == url


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


def test_a_link_in_the_place_of_the_mirror_is_looked_at_where_it_leads(images: Path) -> None:
    (images / "mirror").symlink_to("..")
    with pytest.raises(SettingsError, match="cannot be, or lie around"):
        load(images)
    (images / "mirror").unlink()
    (images / "mirror").symlink_to("mirror")
    with suppress(SettingsError):  # newer Pythons see nothing there
        load(images)


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
    assert Model(sources=sources).sources_of(target, count) == indexes


def test_the_engine_keeps_to_the_cores_and_the_memory_that_are_set(images: Path) -> None:
    environment = {"PUAVO_REPOSITORY_JOBS": "1", "PUAVO_REPOSITORY_MEMORY": "64"}
    engine = load(images, environment, engine="anchors:fast").delta_engine()
    assert engine == AnchorEngine("anchors:fast", threads=1, memory=64 << 20)


def test_every_engine_is_known_by_its_name_and_no_other(images: Path) -> None:
    for name in ENGINES:
        engine = load(images, {}, engine=name).delta_engine()
        assert engine.name == name
        assert isinstance(engine, AnchorEngine) == (name != "librsync")
    for name in ("anchors:tiny", "other", "librsync:fast", "librsync\n"):
        with pytest.raises(SettingsError, match="one of anchors, "):
            load(images, {}, engine=name)


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


@pytest.fixture
def production(tmp_path: Path, images: Path) -> dict[str, str]:
    """Return the environment of an installation with folders of its own."""
    for name in ("mirror", "puavo-os", "others"):
        (tmp_path / name).mkdir()
    return {
        "PUAVO_REPOSITORY_IMAGE_DIR": str(images),
        "PUAVO_REPOSITORY_MIRROR_DIR": str(tmp_path / "mirror"),
        "PUAVO_REPOSITORY_PUAVO_OS": str(tmp_path / "puavo-os"),
    }


def test_other_images_take_neither_the_mirror_nor_the_configuration_of_these(
    production: dict[str, str], tmp_path: Path
) -> None:
    others = tmp_path / "others"
    found = settings.load({"image_dir": others}, production)
    assert (found.mirror_dir, found.puavo_os) == (others / "mirror", others / "puavo-os")
    given = {"image_dir": others, "mirror_dir": tmp_path / "m", "puavo_os": tmp_path / "p"}
    found = settings.load(given, production)
    assert (found.mirror_dir, found.puavo_os) == (tmp_path / "m", tmp_path / "p")


def test_other_images_take_nothing_from_defaults_mk_either(
    production: dict[str, str], images: Path, tmp_path: Path
) -> None:
    """The images of an installation may be named by its defaults.mk alone."""
    (tmp_path / "puavo-os" / "defaults.mk").write_text(f"image_dir := {images}\n")
    del production["PUAVO_REPOSITORY_IMAGE_DIR"]
    others = tmp_path / "others"
    found = settings.load({"image_dir": others}, production)
    assert (found.mirror_dir, found.puavo_os) == (others / "mirror", others / "puavo-os")
    found = settings.load({}, production)
    assert (found.image_dir, found.mirror_dir) == (images, tmp_path / "mirror")


def test_the_places_of_the_installation_are_known_as_such(
    production: dict[str, str], images: Path, tmp_path: Path
) -> None:
    def configured(environment: dict[str, str] = production, **options: Any) -> bool:
        return settings.load(options, environment).configured

    (tmp_path / "link").symlink_to(images)
    assert configured()
    assert configured(image_dir=tmp_path / "link", mirror_dir=tmp_path / "mirror")
    assert not configured(image_dir=tmp_path / "others")
    assert not configured(mirror_dir=tmp_path / "elsewhere")
    assert not configured({}, image_dir=images)


def test_another_mirror_does_not_rewrite_the_configuration(
    production: dict[str, str], tmp_path: Path
) -> None:
    assert not settings.load({}, production).no_config
    found = settings.load({"mirror_dir": tmp_path / "try"}, production)
    assert (found.puavo_os, found.no_config) == (tmp_path / "puavo-os", True)
    own = {"mirror_dir": tmp_path / "try", "puavo_os": tmp_path / "p"}
    assert not settings.load(own, production).no_config


def test_images_of_defaults_mk_alone_get_another_mirror_there_as_with_the_old_command(
    production: dict[str, str], tmp_path: Path
) -> None:
    images = production.pop("PUAVO_REPOSITORY_IMAGE_DIR")
    (tmp_path / "puavo-os" / "defaults.mk").write_text(f"image_dir := {images}\n")
    found = settings.load({"mirror_dir": tmp_path / "try"}, production)
    assert (found.configured, found.no_config) == (False, False)


def test_without_an_installation_the_folders_of_the_environment_hold_for_any_images(
    images: Path, tmp_path: Path
) -> None:
    environment = {"PUAVO_REPOSITORY_MIRROR_DIR": str(tmp_path / "mirror")}
    assert load(images, environment).mirror_dir == tmp_path / "mirror"


BAD = {
    "IMAGE_DIR": "a\0b",
    "REPOSITORY": "https://user:pa#ss@host",
    "NO_CONFIG": "ture",
    "TARGETS": "3.5",
    "SOURCES": "nearest",
    "MAX_SHARE": "inf",
    "ENGINE": "ancors",
    "JOBS": "-1",
    "MEMORY": "0",
    "SCHEDULE": "30 25 * * *",
    "RETRIES": "-1",
    "DEADLINE": "6   # hours",
    "AUDIT_SCHEDULE": "0 0 30 2 *",
    "AUDIT_SHARE": "1.1",
    "AUDIT_HTTPS": "perhaps",
    "REMOTE": "www   # the server",
    "BANDWIDTH": "fast",
    "CONNECTIONS": "65",
    "GRACE_DAYS": "soon",
    "MAX_DELETE": "30",
    "ALLOW_MASS_DELETE": "ture",
    "ALLOW_ROLLED_BACK": "ture",
    "ALLOW_OTHER_MIRROR": "ture",
    "GENERATIONS": "0",
    "REPLACE_PAUSE": "-1",
    "NOTIFY_EMAIL": "school",
    "NOTIFY_WEBHOOK": "https://chat.example/hooks/secret",
}


@pytest.mark.parametrize("name", BAD)
def test_every_setting_is_refused_by_the_name_that_it_was_given(images: Path, name: str) -> None:
    """A value that is shipped, tried or used by another part is refused by all, alike."""
    variable = f"PUAVO_REPOSITORY_{name}"
    for read in (settings.load, settings.read):
        with pytest.raises(SettingsError) as caught:
            read({"image_dir": images} if name != "IMAGE_DIR" else {}, {variable: BAD[name]})
        assert caught.value.subject == variable
        assert caught.value.expected
        assert "pa" not in caught.value.problem.split()
        assert not any(word in str(caught.value) for word in ("pa#ss", "'ss", "secret"))
    with pytest.raises(SettingsError) as caught:
        settings.load({"image_dir": images, name.lower(): BAD[name]}, {})
    assert caught.value.subject == name.lower()


def test_a_refusal_says_what_was_given_and_what_is_expected(images: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(images, {"PUAVO_REPOSITORY_DEADLINE": "6   # hours"})
    assert str(caught.value).startswith(
        "PUAVO_REPOSITORY_DEADLINE: '6   # hours' cannot be used (expected hours: a number from 0"
    )
    assert "a comment needs a line of its own" in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        settings.load({"image_dir": images, "targets": "x"}, {}, command=True)
    assert str(caught.value) == "--targets: 'x' cannot be used (expected a whole number, 0 or more)"


def test_all_that_is_wrong_is_said_at_once(images: Path) -> None:
    environment = {"PUAVO_REPOSITORY_JOBS": "x", "PUAVO_REPOSITORY_SCHEDULE": "nightly"}
    with pytest.raises(SettingsError, match=r"PUAVO_REPOSITORY_JOBS: .*PUAVO_REPOSITORY_SCHEDULE"):
        load(images, environment)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCHEDULE", ""),
        ("SCHEDULE", "@daily"),
        ("SCHEDULE", "*/20 1-3 * * mon-fri"),
        ("DEADLINE", "0.5"),
        ("ENGINE", "anchors:small"),
        ("ENGINE", "librsync"),
        ("SOURCES", "nearest:2"),
        ("BANDWIDTH", "0 7-19=500k"),
        ("REMOTE", "www sftp://u@host/path file:///srv/published"),
        ("NOTIFY_EMAIL", "a@b.example, c@d.example"),
        ("ALLOW_MASS_DELETE", "TRUE"),
        ("JOBS", ""),
    ],
)
def test_what_the_documents_show_is_accepted(images: Path, name: str, value: str) -> None:
    load(images, {f"PUAVO_REPOSITORY_{name}": value})


@pytest.mark.parametrize("name", ["schedule", "audit_schedule"])
@pytest.mark.parametrize("value", ["30 1 * * * # nightly", "0 30 1 * * *", "@sometimes"])
def test_a_schedule_that_airflow_would_read_otherwise_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: "):
        settings.read({name: value}, {})


def test_what_is_empty_is_not_given_but_for_a_schedule(images: Path) -> None:
    nothing = {"schedule": "", "retries": "", "jobs": "", "engine": "", "remote": ""}
    found = settings.read({}, {f"PUAVO_REPOSITORY_{k.upper()}": v for k, v in nothing.items()})
    assert (found.schedule, found.retries, found.jobs, found.engine) == ("", None, 0, "anchors")
    given: dict[str, Any] = {"sources": "", "jobs": None, "remote": [], "mirror_dir": ""}
    assert load(images, {"PUAVO_REPOSITORY_REMOTE": "www"}, **given).remote == ("www",)


def test_a_remote_is_reached_by_sftp_or_is_a_folder() -> None:
    with pytest.raises(SettingsError, match="expected sftp:// or file:// URLs"):
        settings.read({"remote": "ftp://host/path"}, {})


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SettingsError, match=r"is no path|no such folder"):
        load(tmp_path / "loop")


def test_the_images_may_be_lost_where_they_are_not_needed(tmp_path: Path) -> None:
    options = {"image_dir": tmp_path / "lost", "no_config": True}
    found = settings.load(options, {}, images=False)
    assert (found.mirror_dir, found.no_config) == (tmp_path / "lost" / "mirror", True)


def test_a_variable_that_nobody_knows_is_named_with_the_nearest_one(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load(images, {"PUAVO_REPOSITORY_ALLOW_MASS_DELET": "true"})
        load(images, {"PUAVO_REPOSITORY_ALLOW_MASS_DELET": "true"})
    (record,) = caplog.records
    assert "PUAVO_REPOSITORY_ALLOW_MASS_DELET " in record.getMessage()
    assert "PUAVO_REPOSITORY_ALLOW_MASS_DELETE" in record.getMessage()


def test_the_table_of_the_settings_is_up_to_date() -> None:
    for name in Model.model_fields:
        assert about(name).text
        assert about(name).expected
    document = (ROOT / "docs" / "settings.md").read_text()
    command = "python -m puavo_repository.settings.table docs/settings.md"
    assert document == table.updated(document), command


def test_every_default_is_a_value_that_is_accepted() -> None:
    given = {name: value for name, value in Model() if value}
    assert settings.read(given, {}) == settings.read({}, {})
