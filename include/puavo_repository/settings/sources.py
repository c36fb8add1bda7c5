"""Where settings come from, and how a value that cannot be used is refused.

Built-in defaults, ``defaults.mk``, the environment, then a run's params or the command's options:
later ones win. A refusal names the setting as it was given there.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from puavo_repository.errors import SettingsError
from puavo_repository.settings.model import ENVIRONMENT, Model, about

logger = logging.getLogger("puavo_repository.settings")
_NOTHING: tuple[object, ...] = (None, "", [], ())  # counts as not given
_warned: set[str] = set()


def read(
    options: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    urlbase: str = "",
    *,
    command: bool = False,
) -> Model:
    """Return what the sources say, each value checked, no folder looked at.

    Args:
        options: Options of the command or params of a DAG run, by the names that ``Model`` has;
            None and empty texts count as not given, and what is no setting is left alone.
        environment: The process' environment by default. An empty variable counts as not given,
            but for a schedule.
        urlbase: The address of the mirror in ``defaults.mk``, which counts least; may be empty.
        command: Whether the options are the command's, and called so in a refusal.

    Raises:
        SettingsError: Values cannot be used; all of them are named.
    """
    variables = _variables(os.environ if environment is None else environment)
    given = {n: v for n, v in options.items() if n in Model.model_fields and v not in _NOTHING}
    values = {**({"repository": urlbase} if urlbase else {}), **variables, **given}
    try:
        return Model(**values)
    except ValidationError as error:
        refused = []
        for name, problem in _problems(error).items():
            called = "images_urlbase in defaults.mk"
            if name in given:
                called = about(name).option or f"--{name.replace('_', '-')}" if command else name
            elif name in variables:
                called = variable(name)
            refused.append(_refused(name, called, values[name], problem))
        first, *others = refused
        also = f"Also {'; '.join(map(str, others))}" if others else ""
        first.remedy = ". ".join(filter(None, (first.remedy, also)))
        raise first from None


def usable(environment: Mapping[str, str] | None = None) -> Model:
    """Return the environment's settings, with the default for each that cannot be used.

    So the DAG files read them while Airflow imports them: an import that fails hides the DAG, and
    nobody is told. The first task of every DAG reads them again, and refuses what cannot be used.
    """
    variables = _variables(os.environ if environment is None else environment)
    try:
        return Model(**variables)
    except ValidationError as error:
        wrong = _problems(error)
        return Model(**{name: value for name, value in variables.items() if name not in wrong})


def variable(name: str) -> str:
    """Return the name of a setting in the environment."""
    return ENVIRONMENT + name.upper()


def _variables(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings in the environment.

    A variable that nobody reads may be misspelt: it is told, once in a process.
    """
    names = {variable(name): name for name in Model.model_fields}
    for unknown in sorted(environment.keys() - names.keys() - _warned):
        if unknown.startswith(ENVIRONMENT):
            _warned.add(unknown)
            nearest = difflib.get_close_matches(unknown, names, n=1, cutoff=0)
            logger.warning("%s is no setting; the nearest is %s", unknown, *nearest)
    said = {name: environment[key] for key, name in names.items() if key in environment}
    return {name: value for name, value in said.items() if value or about(name).may_be_empty}


def _problems(error: ValidationError) -> dict[str, str]:
    """Return what is wrong first with each setting; empty where the type says it."""
    found: dict[str, str] = {}
    for one in error.errors():
        found.setdefault(str(one["loc"][0]), str(one.get("ctx", {}).get("error", "")))
    return found


def _refused(name: str, called: str, value: Any, problem: str) -> SettingsError:
    secret = about(name).secret or "@" in str(value)
    comment = "#" in str(value) and called == variable(name)
    return SettingsError(
        called,
        f"{'this value' if secret else repr(value)} {problem or 'cannot be used'}",
        expected=about(name).expected,
        remedy="In an environment file, a comment needs a line of its own" if comment else "",
    )
