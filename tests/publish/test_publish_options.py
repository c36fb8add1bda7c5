"""Settings of publishing: from the environment, then from params."""

from __future__ import annotations

import pytest

from puavo_repository import settings
from puavo_repository.errors import SettingsError
from puavo_repository.remote.pool import Bandwidth
from puavo_repository.settings.model import Model


def test_without_any_the_defaults_hold() -> None:
    assert settings.read({}, {}) == Model()


def test_params_win_over_the_environment() -> None:
    found = settings.read(
        {"bandwidth": "1M", "grace_days": None, "allow_mass_delete": True},
        {
            "PUAVO_REPOSITORY_BANDWIDTH": "2M",
            "PUAVO_REPOSITORY_GRACE_DAYS": "1.5",
            "PUAVO_REPOSITORY_MAX_DELETE": "0.5",
            "PUAVO_REPOSITORY_CONNECTIONS": "2",
            "PUAVO_REPOSITORY_REPLACE_PAUSE": "7",
            "PUAVO_REPOSITORY_GENERATIONS": "4",
            "PUAVO_REPOSITORY_KNOWN_HOSTS": "/known",
            "PUAVO_REPOSITORY_SSH_KEY": "/key",
        },
    )
    assert Bandwidth.parse(found.bandwidth).rate == 1_000_000
    assert found.grace_days == 1.5
    assert found.max_delete == 0.5
    assert found.allow_mass_delete
    assert (found.replace_pause, found.generations) == (7, 4)
    assert found.connections == 2
    target = found.target("sftp://host/path")
    assert (target.key_file, target.known_hosts) == ("/key", ("/known",))


@pytest.mark.parametrize(
    "values",
    [
        {"connections": "0"},
        {"grace_days": "soon"},
        {"max_delete": "2"},
        {"bandwidth": "fast"},
        {"allow_mass_delete": "ture"},
        {"allow_rolled_back": "ture"},
        {"allow_other_mirror": "ture"},
    ],
)
def test_what_cannot_be_used_is_named(values: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        settings.read(values, {})


def test_another_mirror_may_be_published_to_a_remote_only_when_that_is_said() -> None:
    assert not settings.read({}, {}).allow_other_mirror
    assert settings.read({}, {"PUAVO_REPOSITORY_ALLOW_OTHER_MIRROR": "true"}).allow_other_mirror
