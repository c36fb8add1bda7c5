"""Settings of a run: built-in defaults, ``defaults.mk``, environment, then params or options.

Later ones win, and a value that cannot be used is refused by the name that it was given there.

The mirror and the configuration of an installation are those of its own images: with other images
they would be emptied and rewritten. So other images bring their own, inside their folder, unless
they are given as well.
"""

import difflib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from puavo_repository.cores import cores
from puavo_repository.delta import AnchorEngine
from puavo_repository.delta.engine import DeltaEngine
from puavo_repository.delta.librsync import LibrsyncEngine
from puavo_repository.errors import SettingsError, as_storage_error
from puavo_repository.formats import defaults_mk
from puavo_repository.language import _, gettext
from puavo_repository.settings.model import Folder, Model, about

if TYPE_CHECKING:
    import ssl  # slow to load

__all__ = [
    "ENVIRONMENT", "FOLDERS", "Model", "Settings", "load", "once", "read", "trusting", "usable",
    "variable",
]  # fmt: skip

logger = logging.getLogger(__name__)

ENVIRONMENT = "PUAVO_REPOSITORY_"
SYSTEM_PUAVO_OS = Path("/puavo-os")
FOLDERS = ("image_dir", "mirror_dir", "puavo_os")
_NOTHING: tuple[object, ...] = (None, "", [], ())  # counts as not given
_warned: set[str] = set()
_M = TypeVar("_M", bound=Model)


class Settings(Model):
    """The settings of one run, its folders known."""

    image_dir: Folder
    mirror_dir: Folder
    puavo_os: Folder
    configured: bool = False
    """Whether images and mirror are the installation's own, as the environment or its
    ``defaults.mk`` names them. Only those are published to its remotes by themselves."""

    @property
    def cores(self) -> int:
        """How many cores to keep busy, at least one."""
        return self.jobs or cores()

    def delta_engine(self) -> DeltaEngine:
        """Return what makes the rdiffs."""
        if self.engine == "librsync":
            return LibrsyncEngine()
        return AnchorEngine(self.engine, threads=self.cores, memory=self.memory << 20)


@as_storage_error("a folder of the settings")
def load(
    options: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    *,
    images: bool = True,
    command: bool = False,
) -> Settings:
    """Bring all sources of settings together; ``options`` and ``command`` as of ``read``.

    Without ``images`` it works where their disk is lost, as a rollback has to.
    """
    given = read(options, environment, command=command)
    asked, installed = read(options, {}), read({}, environment)
    own, found = _complete(installed), _complete(given)
    ours = own.image_dir is not None and own.image_dir == found.image_dir
    configured = ours and own.mirror_dir == found.mirror_dir
    borrowed = ours and installed.image_dir is not None and asked.puavo_os is None
    if own.image_dir and found.image_dir and not ours:
        beside = asked.puavo_os or found.image_dir / "puavo-os"
        others = {"image_dir": found.image_dir, "mirror_dir": asked.mirror_dir, "puavo_os": beside}
        found = _complete(given.model_copy(update=others))
    if found.image_dir is None or found.mirror_dir is None:
        problem, remedy = gettext("is not set"), gettext("Give the folder with the images")
        raise SettingsError("IMAGE_DIR", problem, remedy=remedy)
    # Another mirror of these images does not rewrite the configuration of their own.
    no_config = found.no_config or (borrowed and not configured)
    values = {**found.model_dump(exclude_unset=True), "no_config": no_config}
    # All else is checked already; a folder that was not given may be a link.
    called = {name: about(name).option for name in FOLDERS}
    called["repository"] = "images_urlbase in defaults.mk"
    chosen = _checked(Settings, {**values, "configured": configured}, called)
    if images and not chosen.image_dir.is_dir():
        problem = gettext("there is no such folder")
        raise SettingsError(chosen.image_dir, problem, expected=gettext("a folder of images"))
    _check_apart(chosen.image_dir, chosen.mirror_dir)
    return chosen


def _complete(given: Model) -> Model:
    """Fill in what is not given, from ``defaults.mk`` or beside the images; its URL unchecked."""
    image_dir, mirror_dir, puavo_os = given.image_dir, given.mirror_dir, given.puavo_os
    if puavo_os is None:
        puavo_os = SYSTEM_PUAVO_OS
        if image_dir is not None and not puavo_os.is_dir():
            puavo_os = image_dir / "puavo-os"
    path = puavo_os / "defaults.mk"
    try:
        variables = defaults_mk.parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        variables = {}
    except UnicodeDecodeError as error:
        raise SettingsError(path, "this file is not UTF-8 text") from error
    said = {name: variables[name] for name in ("image_dir", "mirror_dir") if variables.get(name)}
    there = _checked(Model, said, {name: f"{name} in {path}" for name in said})
    image_dir = image_dir or there.image_dir
    if mirror_dir is None and image_dir is not None:
        # The file's mirror belongs to the file's images: taken for other images, it would have
        # its own pruned away.
        own = there.mirror_dir if there.image_dir == image_dir else None
        mirror_dir = own or image_dir / "mirror"
    places = {"image_dir": image_dir, "mirror_dir": mirror_dir, "puavo_os": puavo_os}
    url = variables.get("images_urlbase", "")
    repository = {"repository": url} if url and "repository" not in given.model_fields_set else {}
    return given.model_copy(update={**places, **repository})


def _check_apart(image_dir: Path, mirror_dir: Path) -> None:
    """Refuse a mirror that would feed on its own images; below them it is safe."""
    same = mirror_dir.exists() and image_dir.exists() and mirror_dir.samefile(image_dir)
    if same or image_dir.is_relative_to(mirror_dir):
        problem = _(
            "the mirror cannot be, or lie around, the image directory %(images)s",
            images=image_dir,
        )
        remedy = _("Choose another folder, such as %(folder)s", folder=image_dir / "mirror")
        raise SettingsError(mirror_dir, problem, remedy=remedy)
    if mirror_dir.exists() and not mirror_dir.is_dir():
        problem = gettext("this is not a folder")
        raise SettingsError(mirror_dir, problem, expected=gettext("a folder, or nothing"))


def read(
    options: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    *,
    command: bool = False,
) -> Model:
    """Return what options and environment say, each value checked, no folder looked at.

    What is empty counts as not given, but for a schedule; an option that is no setting is left
    alone.

    Args:
        options: Of the ``command``, or params of a DAG run, by the names that ``Model`` has.
        environment: The process' environment by default.
        command: Whether a refusal calls the options as the command does.
    """
    variables = _variables(environment)
    given = {n: v for n, v in options.items() if n in Model.model_fields and v not in _NOTHING}
    called = {name: variable(name) for name in variables}
    called |= {name: about(name).option if command else name for name in given}
    return _checked(Model, {**variables, **given}, called)


def usable() -> Model:
    """Return the environment's settings, with the default for each that cannot be used.

    So the DAG files read them while Airflow imports them: an import that fails hides the DAG, and
    nobody is told. The first task of every DAG reads them again, and refuses what cannot be used.
    """
    variables = _variables(None)
    try:
        return Model(**variables)
    except ValidationError as error:
        wrong = {one["loc"][0] for one in error.errors()}
        return Model(**{name: value for name, value in variables.items() if name not in wrong})


def variable(name: str) -> str:
    """Return the name of a setting in the environment."""
    return ENVIRONMENT + name.upper()


def once(name: str) -> str:
    """Return how one run is allowed what it refuses: the end of a sentence of a remedy."""
    return f"once with {variable(name)}=true, or check that in the form"


def _variables(environment: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the settings in the environment.

    A variable that nobody reads may be misspelt: it is told, once in a process.
    """
    there = os.environ if environment is None else environment
    names = {variable(name): name for name in Model.model_fields}
    for unknown in sorted(there.keys() - names.keys() - _warned):
        if unknown.startswith(ENVIRONMENT):
            _warned.add(unknown)
            nearest = difflib.get_close_matches(unknown, names, n=1, cutoff=0)
            logger.warning("%s is no setting; the nearest is %s", unknown, *nearest)
    said = {name: there[key] for key, name in names.items() if key in there}
    return {name: value for name, value in said.items() if value or about(name).may_be_empty}


def _checked(kind: type[_M], values: Mapping[str, Any], called: Mapping[str, str]) -> _M:
    """Return settings; what cannot be used is refused, all of it, as it is called."""
    try:
        return kind(**values)
    except ValidationError as error:
        wrong = {str(one["loc"][0]): one for one in reversed(error.errors())}  # the first of each
        refused = []
        for name in filter(wrong.__contains__, values):
            value, found = values[name], about(name)
            problem = wrong[name].get("ctx", {}).get("error", gettext("cannot be used"))
            shown = gettext("this value") if found.secret or "@" in str(value) else repr(value)
            comment = "#" in str(value) and called[name] == variable(name)
            said = gettext("In an environment file, a comment needs a line of its own")
            more = {"expected": found.expected, "remedy": said if comment else ""}
            refused.append(SettingsError(called[name], f"{shown} {problem}", **more))
        first, *others = refused
        also = f"Also {'; '.join(map(str, others))}" if others else ""
        first.remedy = ". ".join(filter(None, (first.remedy, also)))
        raise first from None


def trusting(ca_file: str) -> "ssl.SSLContext":
    """Return what trusts the certificates in a file, or the system's where none is named."""
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as why:  # of which SSLError is one
        problem = f"{ca_file} cannot be used"
        raise SettingsError("ca_file", problem, expected="certificates in PEM form") from why
