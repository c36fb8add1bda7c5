"""Where settings come from, and how a value that cannot be used is refused.

Built-in defaults, ``defaults.mk``, the environment, then a run's params or the command's options.
A refusal names the setting as it was given there.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_settings import InitSettingsSource

from puavo_repository.errors import SettingsError
from puavo_repository.settings.model import ENVIRONMENT, Model, about

_OPTIONS = {  # of the command, where they are not called as the setting is
    "image_dir": "IMAGE_DIR",
    "mirror_dir": "MIRROR_DIR",
    "remote": "--upload",
    "audit_share": "--share",
    "audit_https": "--no-https",
}
_FILE = {"repository": "images_urlbase"}  # in defaults.mk
_COMMENT = "In an environment file, a comment needs a line of its own"

logger = logging.getLogger("puavo_repository.settings")
_warned: set[str] = set()


@dataclass(frozen=True)
class Given:
    """What was given by each source; the first that has a value counts.

    Attributes:
        options: Options of the command or params of a DAG run, by the names of the fields; None
            and empty texts count as not given, and what is no setting is left alone.
        environment: Variables. An empty one counts as not given, but for a schedule.
        defaults_mk: What ``defaults.mk`` says, by the names of the fields.
        command: Whether the options are the command's, and named so.
    """

    options: Mapping[str, Any]
    environment: Mapping[str, str]
    defaults_mk: Mapping[str, str] = field(default_factory=dict)
    command: bool = False

    def read(self) -> Model:
        """Return the settings.

        Raises:
            SettingsError: Values cannot be used; all of them are named.
        """
        model, errors = self._validated(())
        if model is None:
            first, *more = errors
            if more:
                also = f"Also {'; '.join(str(error) for error in more)}"
                first.remedy = f"{first.remedy}. {also}" if first.remedy else also
            raise first
        return model

    def read_usable(self) -> Model:
        """Return the settings, with the default in the place of each that cannot be used."""
        unusable: tuple[str, ...] = ()
        while True:
            model, errors = self._validated(unusable)
            if model is not None:
                return model
            unusable += tuple(error.name for error in errors)

    def _validated(self, without: tuple[str, ...]) -> tuple[Model | None, list[_RefusedError]]:
        layers = [
            {name: value for name, value in layer.items() if name not in without}
            for layer in (self._options(), self._variables(), self.defaults_mk)
        ]
        sources = tuple(InitSettingsSource(Model, dict(layer)) for layer in layers)
        only: dict[str, Any] = {"_build_sources": (sources, {})}
        try:
            return Model(**only), []
        except ValidationError as error:
            found = {str(one["loc"][0]): one for one in error.errors()}
            return None, [
                self._refused(name, str(one.get("ctx", {}).get("error", "")))
                for name, one in found.items()
            ]

    def _options(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.options.items()
            if name in Model.model_fields and value not in (None, "", [], ())
        }

    def _variables(self) -> dict[str, str]:
        found = {name: self.environment.get(variable(name)) for name in Model.model_fields}
        return {
            name: value
            for name, value in found.items()
            if value or (value == "" and about(name).may_be_empty)
        }

    def _refused(self, name: str, problem: str) -> _RefusedError:
        options, variables = self._options(), self._variables()
        if name in options:
            value = options[name]
            called = _OPTIONS.get(name, f"--{name.replace('_', '-')}") if self.command else name
        elif name in variables:
            value, called = variables[name], variable(name)
        else:
            value, called = self.defaults_mk.get(name), f"{_FILE.get(name, name)} in defaults.mk"
        secret = about(name).secret or "@" in str(value)
        return _RefusedError(
            name,
            called,
            f"{'this value' if secret else repr(value)} {problem or 'cannot be used'}",
            expected=about(name).expected,
            remedy=_COMMENT if "#" in str(value) and called.startswith(ENVIRONMENT) else "",
        )


class _RefusedError(SettingsError):
    """A value that cannot be used.

    Args:
        name: The field.
        called: The setting as it was given.
        problem: What is wrong.
        more: As of every error.
    """

    def __init__(self, name: str, called: str, problem: str, **more: str) -> None:
        super().__init__(called, problem, **more)
        self.name = name


def variable(name: str) -> str:
    """Return the name of a setting in the environment."""
    return ENVIRONMENT + name.upper()


def warn_of_unknown(environment: Mapping[str, str]) -> None:
    """Tell of variables that nobody reads, once in a process: they may be misspelt."""
    known = [variable(name) for name in Model.model_fields]
    for name in sorted(environment.keys() - set(known) - _warned):
        if name.startswith(ENVIRONMENT):
            _warned.add(name)
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
            logger.warning("%s is no setting; the nearest is %s", name, *nearest)
