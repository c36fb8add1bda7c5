"""A problem leads to the log that tells of it, and to the tasks that can be run again."""

from __future__ import annotations

from typing import Any

import pytest

from puavo_repository.web.causes import linked, told
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


def named(*of: tuple[str, str]) -> list[Problem]:
    return [
        Problem(name=name, stage=stage, message="", remedy="", permanent=False)
        for name, stage in of
    ]


@pytest.mark.parametrize(
    ("problems", "all_of_it"),
    [
        ([("a.img", "fingerprint"), ("w.rdiff", "diff"), ("x.rdiff", "diff")], True),
        ([("a.img", "fingerprint"), ("w.rdiff", "diff")], False),
        ([("a.img", "fingerprint"), ("w.rdiff", "diff"), ("x.rdiff", "mirror")], False),
        ([], False),
    ],
)
def test_a_failed_run_is_no_problem_of_its_own_where_all_that_failed_is_named(
    problems: list[tuple[str, str]], all_of_it: bool
) -> None:
    assert told(ended(), named(*problems)) == all_of_it
    assert not told(ended(failed=[]), named(*problems)), "nobody knows of what"
    assert not told(ended(dag_id=PUBLISH), named(*problems)), "these are of another DAG"


def test_a_report_fails_of_what_others_said_or_of_itself() -> None:
    alone = ended(failed=FAILED[3:])
    assert told(alone, named(("a.img", "fingerprint")))
    assert not told(alone, [])


def test_a_mirror_leads_to_no_task_of_another() -> None:
    south = FailedTask(task_id="publish.upload", map_index=1, label="south", log="log of south")
    last = ended(dag_id=PUBLISH, failed=[south, FAILED[3]])
    assert link("south", "publish", last).log == "log of south"
    found = link("school", "publish", last)
    assert (found.log, found.retry) == ("log of report", None)


def test_what_no_task_found_leads_to_none() -> None:
    assert link("x.rdiff", "mirror", ended()).log == ""
