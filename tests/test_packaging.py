"""What installs the project says the same everywhere."""

from __future__ import annotations

import re
import tomllib

from support.repository import ROOT


def pins(name: str) -> dict[str, str]:
    """Return package to version of a lock."""
    lines = (ROOT / name).read_text().splitlines()
    found = [re.fullmatch(r"([a-z0-9.-]+)(?:\[[a-z,]+\])?==(\S+)( ; .+)?", line) for line in lines]
    assert all(found), f"{name} holds more than pins"
    return {one[1]: one[2] for one in found if one}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[]", one)[0] for one in requirements}


def test_both_locks_agree_and_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run, dev = pins("requirements.txt"), pins("requirements-dev.txt")
    assert names(project["project"]["dependencies"]) <= run.keys()
    assert names(project["dependency-groups"]["test"]) <= dev.keys() - run.keys()
    shared = run.keys() & dev.keys()
    assert {name: run[name] for name in shared} == {name: dev[name] for name in shared}


def test_a_package_that_a_message_names_is_in_the_list() -> None:
    texts = [path.read_text() for path in (ROOT / "include").rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"Debian package ([a-z0-9-]+)", text)}
    assert "librsync2" in named
    assert named <= set((ROOT / "packages.txt").read_text().splitlines())
