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

_COMMENT = "In an environment file, a comment needs a line of its own"

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
    try:
        return Model(**{**({"repository": urlbase} if urlbase else {}), **variables, **given})
    except ValidationError as error:
        errors = []
        for name, problem in _problems(error).items():
            if name in given:
                called = about(name).option or f"--{name.replace('_', '-')}" if command else name
                errors.append(_refused(name, called, given[name], problem))
            elif name in variables:
                errors.append(_refused(name, variable(name), variables[name], problem))
            else:
                called = "images_urlbase in defaults.mk"
                errors.append(_refused(name, called, urlbase, problem))
        raise _together(errors) from None


def usable(environment: Mapping[str, str]) -> Model:
    """Return the environment's settings, with the default for each that cannot be used."""
    variables = _variables(environment)
    try:
        return Model(**variables)
    except ValidationError as error:
        wrong = _problems(error)
        return Model(**{name: value for name, value in variables.items() if name not in wrong})


def variable(name: str) -> str:
    """Return the name of a setting in the environment."""
    return ENVIRONMENT + name.upper()


def _variables(environment: Mapping[str, str]) -> dict[str, Any]:
    _warn_of_unknown(environment)
    found = {name: environment.get(variable(name)) for name in Model.model_fields}
    return {
        name: value
        for name, value in found.items()
        if value or (value == "" and about(name).may_be_empty)
    }


def _warn_of_unknown(environment: Mapping[str, str]) -> None:
    """Tell of variables that nobody reads, once in a process: they may be misspelt."""
    known = [variable(name) for name in Model.model_fields]
    for name in sorted(environment.keys() - set(known) - _warned):
        if name.startswith(ENVIRONMENT):
            _warned.add(name)
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
            logger.warning("%s is no setting; the nearest is %s", name, *nearest)


def _problems(error: ValidationError) -> dict[str, str]:
    """Return what is wrong, by the name of the setting; empty where the type says it."""
    return {str(o["loc"][0]): str(o.get("ctx", {}).get("error", "")) for o in error.errors()}


def _refused(name: str, called: str, value: Any, problem: str) -> SettingsError:
    secret = about(name).secret or "@" in str(value)
    return SettingsError(
        called,
        f"{'this value' if secret else repr(value)} {problem or 'cannot be used'}",
        expected=about(name).expected,
        remedy=_COMMENT if "#" in str(value) and called == variable(name) else "",
    )


def _together(errors: list[SettingsError]) -> SettingsError:
    first, *more = errors
    if more:
        also = f"Also {'; '.join(str(error) for error in more)}"
        first.remedy = f"{first.remedy}. {also}" if first.remedy else also
    return first
