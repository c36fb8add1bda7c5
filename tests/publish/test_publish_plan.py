"""Plans of publishing, as tables."""

from __future__ import annotations

import pytest

from puavo_repository.mirror.description import Description, Recipes
from puavo_repository.publish.plan import (
    FileState,
    Plan,
    RemoteState,
    Transfer,
    plan_transfers,
)
from puavo_repository.remote.journal import Journal

SHA = "0" * 64
A, B, C = (f"puavo-os-x-bookworm-2026-01-0{n}-120000-amd64.img" for n in (1, 2, 3))


def rdiff(source: str, target: str) -> str:
    return f"rdiffs/{source[:37]}--{target[20:37]}-amd64.rdiff"


Wanted = tuple[dict[str, int], Recipes]


def wanted(images: dict[str, int], rdiffs: dict[tuple[str, str], int]) -> Wanted:
    files = images | {rdiff(*pair): size for pair, size in rdiffs.items()}
    return files, {name: {(rdiff(s, t), s) for s, t in rdiffs if t == name} for name in images}


def plan(
    everything: Wanted,
    present: list[str],
    *,
    named: list[str] | None = None,
    wrong: list[str] | None = None,
    can_copy: bool = True,
) -> dict[str, Transfer]:
    files, recipes = everything
    state = RemoteState(Description({}), Journal())
    for path, size in files.items():
        row = state.row(path)
        row.size, row.sha256, row.state = size, SHA, FileState.MISSING
    for path in present:
        state.row(path).state = FileState.PRESENT
    for path in wrong or []:
        state.row(path).state = FileState.WRONG
    made = plan_transfers([*state.rows.values()], recipes, named or [], can_copy=can_copy)
    there = set(present)
    for item in made:
        if item.rdiff:
            assert {item.base, item.rdiff} <= there, "what an assembly needs comes first"
        if not item.replaces:
            there.add(item.path)
    return {item.path: item for item in made}


def test_what_is_present_does_not_travel() -> None:
    files = wanted({A: 100, B: 100}, {(A, B): 5})
    assert plan(files, [*files[0]]) == {}


def test_the_nightly_image_is_assembled_from_the_cheapest_pair() -> None:
    files = wanted({A: 100, B: 100, C: 100}, {(A, C): 9, (B, C): 4})
    made = plan(files, [A, B])
    assert (made[C].base, made[C].rdiff) == (B, rdiff(B, C))
    assert not made[rdiff(A, C)].rdiff


def test_a_server_without_copy_gets_the_bytes() -> None:
    made = plan(wanted({A: 100, B: 100}, {(A, B): 5}), [A], can_copy=False)
    assert not made[B].rdiff


def test_an_empty_server_gets_one_image_and_makes_the_others() -> None:
    files = wanted({A: 100, B: 100, C: 100}, {(A, B): 5, (B, A): 5, (B, C): 5, (C, B): 5})
    made = plan(files, [])
    assert len([i for i in made.values() if not i.rdiff and "/" not in i.path]) == 1


def test_what_nothing_makes_travels_first_and_makes_the_others() -> None:
    files = wanted({A: 300, B: 200, C: 100}, {(A, B): 5, (A, C): 5, (B, C): 9})
    made = plan(files, [])
    assert not made[A].rdiff
    assert made[B].base == made[C].base == A


def test_assemblies_depend_on_each_other_only_where_it_saves_an_upload() -> None:
    files = wanted({A: 100, B: 100, C: 100}, {(A, B): 5, (A, C): 9, (B, C): 4})
    assert plan(files, [A])[C].base == A
    files = wanted({A: 100, B: 100, C: 100}, {(A, B): 5, (B, C): 4})
    assert plan(files, [A])[C].base == B


def test_images_without_rdiffs_travel() -> None:
    assert not any(item.rdiff for item in plan(wanted({A: 1, B: 1}, {}), []).values())


def test_a_wrong_file_that_clients_know_waits_for_its_withdrawal() -> None:
    files = wanted({A: 100, B: 100}, {(A, B): 5})
    made = plan(files, [A, B], wrong=[rdiff(A, B)], named=[rdiff(A, B)])
    assert made[rdiff(A, B)].replaces
    assert not plan(files, [A, B], wrong=[rdiff(A, B)])[rdiff(A, B)].replaces


def test_nothing_is_assembled_from_what_is_still_wrong() -> None:
    files = wanted({A: 100, B: 100}, {(A, B): 5})
    assert not plan(files, [A], wrong=[rdiff(A, B)], named=[rdiff(A, B)])[B].rdiff
    assert not plan(files, [rdiff(A, B)], wrong=[A], named=[A])[B].rdiff


def test_part_names_are_hidden_beside_the_file_and_tied_to_its_content_and_the_step() -> None:
    one = Transfer("rdiffs/x.rdiff", 1, "a" * 64)
    other = Transfer("rdiffs/x.rdiff", 1, "b" * 64)
    assert one.part("1" * 16).startswith("rdiffs/.x.rdiff.")
    assert len({one.part("1" * 16), other.part("1" * 16), one.part("2" * 16)}) == 3


def test_a_plan_is_told_in_lines() -> None:
    item = Transfer(B, 5, SHA, rdiff(A, B), A, True)
    text = "\n".join(Plan((item,), documents=("meta/x.json",), problems={"y": "is bad"}).lines())
    assert "to assemble on the server" in text
    assert "y: is bad" in text


@pytest.mark.parametrize("field", ["transfers", "documents", "dropped", "prune"])
def test_a_plan_with_anything_in_it_is_not_empty(field: str) -> None:
    assert Plan().is_empty
    assert not Plan(**{field: ("x",)}).is_empty  # type: ignore[arg-type]
