"""Which task's log tells of a problem, and which tasks to run again for it. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from puavo_repository.web import model
from puavo_repository.web.model import FailedTask, Problem, Retry, Run

_DAGS = {"publish": model.PUBLISH, "audit": model.AUDIT}  # by a problem's stage; else prepare
_NOT_OF_TASKS = {"mirror", "schedule", "settings", "alert"}


def last_ended(runs: Sequence[Run]) -> dict[str, Run]:
    """Return the last run of each DAG that has ended, of those that count; newest come first."""
    ended = [run for run in runs if run.counts and run.ended is not None and not run.active]
    return {run.dag_id: run for run in reversed(ended)}


def linked(problems: Iterable[Problem], runs: Sequence[Run]) -> Iterator[Problem]:
    """Yield problems, each with the log and the failed tasks of the last run that are about it."""
    last, busy = last_ended(runs), {run.dag_id for run in runs if run.active}
    for one in problems:
        dag_id = _dag_of(one)
        run = None if one.stage in _NOT_OF_TASKS else last.get(dag_id)
        tasks = _about(one, run) if run else []
        # A report would say the same again.
        again = [(t.task_id, t.map_index) for t in tasks if t.task_id != model.REPORT]
        retry = None
        if run and again and dag_id not in busy:
            retry = Retry(dag_id=dag_id, run_id=run.run_id, task_ids=again)
        yield one.model_copy(update={"log": tasks[0].log if tasks else "", "retry": retry})


def told(run: Run, problems: Iterable[Problem]) -> bool:
    """Tell whether problems say all that a run failed of, so that it is none of its own."""
    of_tasks = (one for one in problems if one.stage not in _NOT_OF_TASKS)
    ours = [one for one in of_tasks if _dag_of(one) == run.dag_id]
    failed = [task for task in run.failed if task.task_id != model.REPORT]
    every = all(any(_named(task, one) for one in ours) for task in failed)
    return bool(ours and run.failed) and every


def _dag_of(problem: Problem) -> str:
    return problem.name if problem.stage == "run" else _DAGS.get(problem.stage, model.PREPARE)


def _named(task: FailedTask, problem: Problem) -> bool:
    """Tell by its label whether a mapped task works on just this, or on it first of several."""
    return task.label == problem.name or task.label.startswith(f"{problem.name} and ")


def _about(problem: Problem, run: Run) -> list[FailedTask]:
    """Return the tasks that failed of just this, else those of its stage, else all that failed.

    Where a mirror is published to, a label names the mirror: other mirrors' tasks are not of these.
    """
    named = [task for task in run.failed if _named(task, problem)]
    of_stage = [task for task in run.failed if task.task_id == problem.stage]
    rest = [task for task in run.failed if not (problem.stage == "publish" and task.label)]
    return named or of_stage or sorted(rest, key=lambda task: task.task_id == model.REPORT)
