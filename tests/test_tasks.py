"""A task that takes several files tries them all.

Airflow is imported by the tests, and not by this module: each worker of pytest-xdist imports all
modules of tests, which would take two seconds of each.
"""

from __future__ import annotations

import pytest

from puavo_repository.errors import (
    ImageError,
    PermanentError,
    RepositoryError,
    SettingsError,
    StorageError,
    TransientError,
)


def test_the_first_error_stops_none_of_the_others() -> None:
    from puavo_repository_airflow.tasks import each

    done = []

    def step(name: str) -> None:
        done.append(name)
        if name in errors:
            raise errors[name]

    errors: dict[str, Exception] = {"a": ImageError("a", "bad")}
    with pytest.raises(ImageError, match="a: bad"):
        each(["a", "b", "c"], step)
    assert done == ["a", "b", "c"]
    errors["c"] = ImageError("c", "bad as well")
    with pytest.raises(PermanentError, match=r"2 of 3 failed.*a: bad; c: bad as well"):
        each(["a", "b", "c"], step)


@pytest.mark.parametrize("passing", [StorageError("b", "busy"), ValueError("a bug")])
def test_a_retry_is_worth_it_where_it_may_help_one(passing: Exception) -> None:
    from puavo_repository_airflow.tasks import each

    def step(error: Exception) -> None:
        raise error

    with pytest.raises(TransientError, match="2 of 2 failed"):
        each([ImageError("a", "bad"), passing], step)


def test_a_wrong_setting_ends_it_all() -> None:
    from puavo_repository_airflow.tasks import each

    tried: list[RepositoryError] = []

    def step(error: RepositoryError) -> None:
        tried.append(error)
        raise error

    with pytest.raises(SettingsError):
        each([SettingsError("engine", "unknown"), ImageError("a", "bad")], step)
    assert len(tried) == 1


def test_each_of_many_names_is_in_one_part_and_stays_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from puavo_repository_airflow import tasks
    from puavo_repository_airflow.tasks import MAPPED_TASKS, of_part, parts

    monkeypatch.setattr(tasks, "label", lambda *_names: None)
    names = [f"image-{number}.img" for number in range(2000)]
    every = parts(names)
    assert len(every) == MAPPED_TASKS
    before = {part: of_part(part, names) for part in every}
    assert sorted(name for found in before.values() for name in found) == sorted(names)
    left = names[::2]
    assert all(set(of_part(part, left)) <= set(before[part]) for part in every)


def test_few_names_are_tasks_of_their_own_and_none_is_one_with_nothing_to_do() -> None:
    from puavo_repository_airflow.tasks import of_part, parts

    assert parts(["a.img", "b.img"]) == ["a.img", "b.img"]
    assert of_part("a.img", ["a.img", "b.img"]) == ["a.img"]
    assert of_part("a.img", ["b.img"]) == [], "it is done already, or gone"
    assert parts([]) == [""]
    assert of_part("", ["a.img"]) == []
