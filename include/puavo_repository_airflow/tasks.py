"""What the tasks of all DAGs have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from airflow.sdk import (
    DAG,
    Asset,
    DagRunState,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    get_current_context,
)

from puavo_repository.errors import PermanentError, RepositoryError, SettingsError, TransientError
from puavo_repository_airflow import dag_settings, failures

logger = logging.getLogger(__name__)

T = TypeVar("T")

Facts = dict[str, Any]
PREPARED = Asset("puavo-repository-prepared")
WHERE = "Where (empty: as this installation is set up)"  # a section of every form
MAPPED_TASKS = 1000  # Airflow maps at most 1024; beyond, a task takes several files


def retries(times: int, delay: timedelta, timeout: timedelta) -> Facts:
    """Return how tasks are tried again: with back-off, and not where that cannot help.

    What a task failed of at last is kept for the message about its run.

    Args:
        times: How often, unless the environment says otherwise (`make run` waits for nobody).
        delay: Before the second try; each later one waits three times as long.
        timeout: How long one try may take.
    """
    permanent = RetryRule(
        exception="puavo_repository.errors.PermanentError",
        action=RetryAction.FAIL,
        reason="only the operator can help: see the message",
    )
    return {
        "retries": dag_settings.retries(times),
        "retry_delay": delay,
        "retry_exponential_backoff": 3.0,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": timeout,
        "retry_policy": ExceptionRetryPolicy(rules=[permanent]),
        "on_failure_callback": failures.keep,
    }


def field(kind: str, title: str, description: str, section: str, **more: Any) -> Param:
    """Return a field of the form that may stay empty; this installation's setting counts then."""
    return Param(
        None, type=["null", kind], title=title, description_md=description, section=section, **more
    )


def each(items: Sequence[T], step: Callable[[T], object]) -> None:
    """Do a step for every item of a task; what fails stops none of the others.

    Raises:
        Exception: What the only one that failed raised.
        PermanentError: Several failed, and no retry can help any of them.
        TransientError: Several failed, and a retry may help some.
    """
    errors: list[Exception] = []
    for item in items:
        try:
            step(item)
        except SettingsError:
            raise  # the same for every item
        except Exception as error:
            logger.error("%s", error, exc_info=not isinstance(error, RepositoryError))
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        permanent = all(isinstance(error, PermanentError) for error in errors)
        raise (PermanentError if permanent else TransientError)(
            "this task", f"{len(errors)} of {len(items)} failed", found="; ".join(map(str, errors))
        )


def label(*names: str) -> None:
    """Name the mapped task in the UI after what it works on."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    first = names[0] if names else "nothing new"
    get_current_context()["label"] = first + more  # type: ignore[typeddict-unknown-key]


def run_here(dag: DAG) -> bool:
    """Run a DAG in this process, for a person who looks on; return whether it went well."""
    # Airflow's own log lines are for its log files; ours are what a person wants to follow.
    milestones = logging.getLogger("puavo_repository")
    milestones.addHandler(logging.StreamHandler())
    milestones.setLevel(logging.INFO)
    return bool(dag.test().state == DagRunState.SUCCESS)
