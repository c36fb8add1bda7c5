"""A problem leads to the log that tells of it, and to the tasks that can be run again."""

from __future__ import annotations

from typing import Any

import pytest

from puavo_repository.web.causes import linked
from puavo_repository.web.model import PREPARE, PUBLISH, FailedTask, Problem, Run
from web.test_view import run

TASKS = [
    ("fingerprint", 0, "a.img and 3 more"),
    ("diff", 3, "w.rdiff"),
    ("diff", 4, "x.rdiff"),
    ("report", -1, ""),
]
EVERY = [("fingerprint", 0), ("diff", 3), ("diff", 4)]
FAILED = [
    FailedTask(task_id=task, map_index=index, label=label, log=f"log of {task}")
    for task, index, label in TASKS
]


def link(name: str, stage: str, *runs: Run) -> Problem:
    problem = Problem(name=name, stage=stage, message="", remedy="", permanent=False)
    (found,) = linked([problem], runs)
    return found


def ended(**more: Any) -> Run:
    return run("failed").model_copy(update={"failed": FAILED, **more})


@pytest.mark.parametrize(
    ("name", "stage", "log", "again"),
    [
        ("x.rdiff", "diff", "diff", [("diff", 4)]),
        ("a.img", "fingerprint", "fingerprint", [("fingerprint", 0)]),
        ("b.img", "fingerprint", "fingerprint", [("fingerprint", 0)]),  # one of the 3 more
        (PREPARE, "run", "fingerprint", EVERY),
        ("c.img", "plan", "fingerprint", EVERY),
    ],
)
def test_it_leads_to_just_its_task_where_that_is_known(
    name: str, stage: str, log: str, again: list[tuple[str, int]]
) -> None:
    found = link(name, stage, run("running").model_copy(update={"dag_id": PUBLISH}), ended())
    assert found.log == f"log of {log}"
    assert found.retry is not None
    assert (found.retry.dag_id, found.retry.task_ids) == (PREPARE, again)


@pytest.mark.parametrize(
    ("runs", "log"),
    [
        ([run("running"), ended()], "log of diff"),  # it is at it already
        ([ended(failed=FAILED[3:])], "log of report"),  # it would say the same again
        ([run("success"), ended()], ""),  # the last one did not fail
        ([ended(counts=False)], ""),
        ([], ""),
    ],
)
def test_nothing_is_run_again_that_goes_on_or_would_do_nothing(runs: list[Run], log: str) -> None:
    found = link("x.rdiff", "diff", *runs)
    assert (found.log, found.retry) == (log, None)


def test_what_no_task_found_leads_to_none() -> None:
    assert link("x.rdiff", "mirror", ended()).log == ""
