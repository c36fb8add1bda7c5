"""The picture of the house in CONTRIBUTING.md holds against the imports."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INCLUDE = ROOT / "include"
CORE, AIRFLOW = "puavo_repository", "puavo_repository_airflow"


def picture() -> list[list[str]]:
    """Return the rooms of each line of the picture, the ground first."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("```")[1]
    return [re.split(r"\s{3,}", line)[0].split() for line in text.strip().splitlines()]


def modules() -> dict[str, Path]:
    found = INCLUDE.rglob("*.py")
    return {".".join(p.relative_to(INCLUDE).with_suffix("").parts): p for p in found}


def imports(path: Path, every: set[str]) -> Iterator[str]:
    """Yield the modules of the project that one imports, also late ones."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(CORE):
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                known = {whole, f"{whole}.__init__", f"{node.module}", f"{node.module}.__init__"}
                yield next(
                    one
                    for one in (
                        whole,
                        f"{whole}.__init__",
                        node.module or "",
                        f"{node.module}.__init__",
                    )
                    if one in known & every
                )
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith(CORE))


def room(module: str) -> str:
    parts = module.split(".")
    if parts[0] == AIRFLOW:
        return "airflow"
    return parts[1] if len(parts) > 1 and parts[1] != "__init__" else ""


def test_a_room_imports_only_from_those_above_it() -> None:
    height = {name: level for level, line in enumerate(picture()) for name in line}
    every = modules()
    wrong = [
        f"{module} imports {other}"
        for module, path in every.items()
        for other in imports(path, set(every))
        if room(module) != room(other)
        and room(module)
        and height[room(other)] >= height[room(module)]
        and height[room(module)] > 0
    ]
    assert wrong == []


def test_every_room_is_in_the_picture() -> None:
    named = {name for line in picture() for name in line}
    assert {room(module) for module in modules()} - {""} == named


def test_no_module_needs_itself() -> None:
    every = modules()
    graph = {module: set(imports(path, set(every))) - {module} for module, path in every.items()}
    list(TopologicalSorter(graph).static_order())


def test_a_module_can_be_read_at_once() -> None:
    lines = {path: path.read_text().count("\n") for path in modules().values()}
    assert {path.name: count for path, count in lines.items() if count > 300} == {}


def test_what_airflow_runs_is_imported_by_nothing_below_it() -> None:
    for module, path in modules().items():
        if room(module) != "airflow":
            assert not re.search(r"^\s*(from|import) airflow\b", path.read_text(), re.MULTILINE)


def test_of_each_case_one_way_to_a_remote_is_drawn(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("every_way"):
        pytest.skip("all of them are tried")
    cases = Counter(
        re.sub(r"\[(folder|sftp without copy-data|sftp)\b-?", "[", item.nodeid)
        for item in request.session.items
        if not item.nodeid.startswith("tests/remote/")
    )
    assert [case for case, ways in cases.items() if ways > 1] == []


def test_no_test_replaces_what_the_whole_process_uses() -> None:
    """Threads that another test left get it as well: see support/instead.py.

    A path that is denied alone, all else as usual, is no such thing.
    """
    denying = {"tests/prepare/test_nothing_lost.py"}
    wrong = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        libraries = {
            name.asname or name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for name in node.names
            if name.name in sys.stdlib_module_names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and re.search(
                r"\b(setattr|patch|patch\.object)$", ast.unparse(node.func)
            ):
                what = ast.unparse(node.args[0]).strip("'")
                if what in libraries or what.split(".")[0] in sys.stdlib_module_names:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert [place for place in wrong if place.split(":")[0] not in denying] == []
