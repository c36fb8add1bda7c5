"""``config/images/<distribution>.json``: which images each series offers.

Two shapes, also mixed in one file: a list of image names, or an object with ``images`` and
``extra_rdiffs`` (target image to further source images). Whatever else an operator put into
the object is carried along.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from puavo_repository.errors import ConfigError
from puavo_repository.formats import jsonfile, names

_OBJECT = "an object {…}"


@dataclass(frozen=True)
class SeriesConfig:
    """One series of a configuration file."""

    name: str  # also that of its metadata file
    images: tuple[str, ...]  # file names, in the order in which metadata lists them
    extra_rdiffs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # target to sources
    others: Mapping[str, Any] = field(default_factory=dict)  # further keys of the object shape
    as_object: bool = False  # whether the file uses that shape for it


def parse(data: bytes, path: Path) -> tuple[SeriesConfig, ...]:
    """Read a configuration file; ``path`` is its name, for error messages.

    Raises:
        ConfigError: It is not JSON, has another shape, or holds a name that is no file name.
    """
    try:
        document = jsonfile.loads(data)
    except ValueError as error:
        problem = f"this is not a usable JSON file: {error}"
        remedy = "Correct it, or move it away to have it made again"
        raise ConfigError(path, problem, remedy=remedy) from error
    _check_type(path, "the file", document, dict, _OBJECT)
    return tuple(_parse_series(path, name, value) for name, value in document.items())


def render(series: Iterable[SeriesConfig]) -> bytes:
    """Render a configuration file, each series in its own shape."""
    values: dict[str, Any] = {}
    for one in series:
        extra = {"extra_rdiffs": one.extra_rdiffs} if one.extra_rdiffs else {}
        whole = {"images": one.images, **extra, **one.others}
        values[one.name] = whole if one.as_object else one.images
    return jsonfile.dumps(values)


def generate(
    present: Iterable[SeriesConfig], distribution: str, found: Mapping[str, Sequence[str]]
) -> tuple[SeriesConfig, ...]:
    """Say what a distribution's file should hold now.

    Series that discovery names get the images that were found, oldest first. Series that an
    operator named (their names follow another pattern, or belong to another distribution)
    stay as they are. One whose images are all gone goes, unless it holds ``extra_rdiffs``.
    """
    series, rest = [], dict(found)
    for one in present:
        if names.distribution_of(one.name) != distribution:
            series.append(one)
            continue
        images = tuple(rest.pop(one.name, ()))
        if images or one.extra_rdiffs or one.others:
            series.append(replace(one, images=images))
    return (*series, *(SeriesConfig(name, tuple(rest[name])) for name in sorted(rest)))


def _parse_series(path: Path, name: str, value: Any) -> SeriesConfig:
    if not names.is_plain_name(name) or len(name) > names.LONGEST_SERIES:
        expected = f"letters, digits and . _ + ~ - only, at most {names.LONGEST_SERIES} of them"
        problem = f"the series name {name!r} cannot be a file name"
        raise ConfigError(path, problem, expected=expected)
    if isinstance(value, list):
        return SeriesConfig(name, _image_names(path, f"series {name}", value))
    shapes = "a list of image names, or an object with a list of them as 'images'"
    _check_type(path, f"series {name}", value, dict, shapes)
    if "images" not in value:
        raise ConfigError(path, f"series {name} has no 'images'", expected="a list of names")
    others = dict(value)
    images = _image_names(path, f"'images' of {name}", others.pop("images"))
    extra, where = others.pop("extra_rdiffs", {}), f"'extra_rdiffs' of {name}"
    _check_type(path, where, extra, dict, _OBJECT)
    targets = _image_names(path, where, list(extra))
    sources = {one: _image_names(path, f"{where} for {one}", extra[one]) for one in targets}
    return SeriesConfig(name, images, sources, others, as_object=True)


def _image_names(path: Path, where: str, value: Any) -> tuple[str, ...]:
    _check_type(path, where, value, list, "a list […]")
    for name in value:
        _check_type(path, f"an entry in {where}", name, str, 'a string "…"')
        problem = f"{where} names {name!r}"
        if names.ImageName.parse(name) is None:
            problem += ", which is not the file name of an image"
            expected = "<prefix>-<YYYY-MM-DD-HHMMSS>-<arch>.img, without any folder"
            remedy = "Correct the name; images are looked for in IMAGE_DIR only"
            raise ConfigError(path, problem, expected=expected, remedy=remedy)
        if len(name) > names.LONGEST_IMAGE:
            problem += ": that is too long, its rdiffs could not be published"
            expected, found = f"at most {names.LONGEST_IMAGE} bytes", f"{len(name)}"
            remedy = "Give the image a shorter name"
            raise ConfigError(path, problem, expected=expected, found=found, remedy=remedy)
    return tuple(value)


def _check_type(path: Path, where: str, value: Any, kind: type[Any], expected: str) -> None:
    if not isinstance(value, kind):
        found = jsonfile.dumps(value).decode().strip()[:60]
        raise ConfigError(path, f"{where} has the wrong type", expected=expected, found=found)
